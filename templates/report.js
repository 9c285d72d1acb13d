'use strict';
// Everything here adds to a page that is complete without it: sorting, tips, copying, the choice of a theme.
(() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function shape(name, parent, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  // ---- copying ------------------------------------------------------------------------------------------------

  function select(node) {
    const range = document.createRange();
    range.selectNodeContents(node);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  }

  // A button beside a <code>. Where the clipboard is denied the text is selected, ready to be copied by hand.
  function copyButton(code) {
    const button = element('button', '', { type: 'button' });
    const say = (word) => {
      button.textContent = word;
      button.setAttribute('aria-label', `${word}: ${code.textContent}`);
    };
    let timer = 0;
    button.addEventListener('click', async () => {
      select(code);
      try {
        await navigator.clipboard.writeText(code.textContent);
        say('Copied');
      } catch {
        say('Selected');
      }
      clearTimeout(timer);
      timer = setTimeout(say, 2000, 'Copy');
    });
    say('Copy');
    return button;
  }

  // ---- tables -------------------------------------------------------------------------------------------------

  // What a row is sorted by: the number or the text of a cell; null for a number that is not there.
  function key(cell) {
    const number = cell.querySelector('data');
    if (number) return Number(number.value);
    return cell.classList.contains('n') ? null : cell.textContent;
  }

  function compare(a, b) {
    if (typeof a === 'number' && typeof b === 'number') return a - b;
    if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;
    return a.localeCompare(b, undefined, { numeric: true });
  }

  // A button in every header, and its text for paper, where a header that is repeated on a page has no buttons.
  // First click ascending, second descending, third as it was; what is missing stays below.
  function sortable(table) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const headers = all('thead th', table);
    headers.forEach((header, column) => {
      const button = element('button', header.textContent, { type: 'button' });
      header.replaceChildren(button, element('span', header.textContent, { class: 'paper' }));
      button.addEventListener('click', () => {
        const order = { ascending: 'descending', descending: '' }[header.getAttribute('aria-sort')] ?? 'ascending';
        for (const other of headers) other.removeAttribute('aria-sort');
        if (order) header.setAttribute('aria-sort', order);
        const sign = order === 'descending' ? -1 : 1;
        const keyed = original.map((row) => [key(row.cells[column]), row]);
        if (order) {
          keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
        }
        body.append(...keyed.map(([, row]) => row));
      });
    });
  }

  // ---- figures ------------------------------------------------------------------------------------------------

  // The line under a figure: a hint until something is said. It stays in sight while the figure is.
  function teller(drawings, hint) {
    const line = element('output', hint, { class: 'told' });
    drawings.after(line);
    drawings.setAttribute('aria-label', `${drawings.getAttribute('aria-label')}. ${hint}`);
    return (tip, command) => {
      line.replaceChildren(element('span', tip || hint));
      line.classList.toggle('on', Boolean(tip));
      if (!command) return;
      const code = element('code', command);
      line.append(code, copyButton(code));
    };
  }

  // A list of places of which one is shown: by the pointer, until a click pins it, or by keys; Escape shows none.
  // `show` gives the shape that has to be in sight where keys led there.
  function explored(drawings, { find, near, show, step }) {
    let current = null;
    let pinned = false;
    const go = (place, pin) => {
      pinned = pin;
      if (place === current) return null;
      current = place;
      return show(current);
    };
    drawings.addEventListener('pointermove', (event) => {
      const place = event.pointerType === 'mouse' && !pinned ? find(event) : null;
      if (place !== null) go(place, false);
    });
    drawings.addEventListener('click', (event) => {
      const place = find(event) ?? near(event);
      go(place, place !== null);
    });
    drawings.addEventListener('keydown', (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const place = event.key === 'Escape' ? null : step(current, event.key);
      if (place === undefined) return;
      event.preventDefault();
      go(place, true)?.scrollIntoView({ behavior: 'instant', block: 'nearest', inline: 'nearest' });
    });
  }

  function marks(drawings) {
    const shapes = all('.mark', drawings);
    const places = new Map(shapes.map((mark, index) => [mark, index]));
    const tell = teller(drawings, 'Point at a shape, or use the arrow keys, to read it here.');
    let ring = null;
    explored(drawings, {
      find: (event) => places.get(event.target.closest('.mark')) ?? null,
      near(event) {
        let found = null;
        let least = 24;
        shapes.forEach((mark, index) => {
          const box = mark.getBoundingClientRect();
          const dx = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
          const dy = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
          if (Math.hypot(dx, dy) < least) [found, least] = [index, Math.hypot(dx, dy)];
        });
        return found;
      },
      show(index) {
        ring?.remove();
        if (index === null) return tell('');
        const mark = shapes[index];
        const { x, y, width, height } = mark.getBBox();
        const round = mark.tagName === 'circle' ? width / 2 + 3 : 5;
        const size = { x: x - 3, y: y - 3, width: width + 6, height: height + 6, rx: round };
        ring = shape('rect', mark.ownerSVGElement, { class: 'ring', ...size });
        tell(mark.querySelector('desc').textContent, mark.dataset.command);
        return ring;
      },
      step(index, pressed) {
        const last = shapes.length - 1;
        const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
        if (pressed === 'Home') return 0;
        if (pressed === 'End') return last;
        if (!(pressed in steps)) return undefined;
        if (index === null) return steps[pressed] > 0 ? 0 : last;
        return Math.min(Math.max(index + steps[pressed], 0), last);
      },
    });
  }

  // Levels of an indexed PNG as this page holds them: a byte each, lines without filters.
  async function levels(image) {
    const bytes = Uint8Array.from(atob(image.href.baseVal.split(',')[1]), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const name = (at) => String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    let at = 8;
    while (name(at) !== 'IDAT') at += 12 + view.getUint32(at);
    const packed = new Blob([bytes.subarray(at + 8, at + 8 + view.getUint32(at))]);
    const stream = packed.stream().pipeThrough(new DecompressionStream('deflate'));
    const lines = new Uint8Array(await new Response(stream).arrayBuffer());
    const [columns, rows] = [view.getUint32(16), view.getUint32(20)];
    return { columns, rows, value: (row, column) => lines[row * (columns + 1) + column + 1] / 63 };
  }

  async function cells(drawings) {
    const image = drawings.querySelector('image[data-bands]');
    const picture = await levels(image);
    const bands = JSON.parse(image.dataset.bands);
    const names = JSON.parse(image.dataset.columns);
    const { columns, rows } = picture;
    const tell = teller(drawings, 'Point at a cell, or use the arrow keys (Page Up and Page Down go from layer to layer).');
    const [left, top, width, height] = ['x', 'y', 'width', 'height'].map((side) => image[side].baseVal.value);
    const cross = ['halo', ''].map((kind) => shape('path', image.ownerSVGElement, { class: `cross ${kind}` }));
    const spot = shape('rect', image.ownerSVGElement, { class: 'spot', width: 1, height: 1 });
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const bandOf = (row) => bands.findIndex(([first, count]) => row >= first && row < first + count);
    explored(drawings, {
      find(event) {
        const box = image.getBoundingClientRect();
        const column = Math.floor((event.clientX - box.left) / box.width * columns);
        const row = Math.floor((event.clientY - box.top) / box.height * rows);
        return row >= 0 && row < rows && column >= 0 && column < columns ? row * columns + column : null;
      },
      near: () => null,
      show(place) {
        const [row, column] = [Math.floor(place / columns), place % columns];
        const [x, y] = [left + (column + 0.5) / columns * width, top + (row + 0.5) / rows * height];
        const path = place === null ? '' : `M${left} ${y}h${width}M${x} ${top}v${height}`;
        for (const line of cross) line.setAttribute('d', path);
        if (place === null) return tell('');
        spot.setAttribute('x', x);
        spot.setAttribute('y', y);
        const [first, count, name] = bands[bandOf(row)] ?? [0, rows, ''];
        const inside = count > 1 ? `, row ${row - first + 1} of ${count}` : '';
        tell(`${name}${inside}, ${names[column]}: ${picture.value(row, column).toFixed(2)}`);
        return spot;
      },
      step(place, pressed) {
        const [row, column] = place === null ? [0, 0] : [Math.floor(place / columns), place % columns];
        const band = bandOf(row);
        const start = (index) => bands[within(index, bands.length)][0];
        const moves = {
          ArrowRight: () => [row, column + 1],
          ArrowLeft: () => [row, column - 1],
          ArrowDown: () => [row + 1, column],
          ArrowUp: () => [row - 1, column],
          PageDown: () => [start(band + 1), column],
          PageUp: () => [start(band - 1), column],
          Home: () => [row, 0],
          End: () => [row, columns - 1],
        };
        if (!(pressed in moves)) return undefined;
        if (place === null && pressed.startsWith('Arrow')) return 0;
        const [toRow, toColumn] = moves[pressed]();
        return within(toRow, rows) * columns + within(toColumn, columns);
      },
    });
  }

  // ---- the page -----------------------------------------------------------------------------------------------

  function themes() {
    const names = ['auto', 'light', 'dark'];
    let chosen = 0;
    const button = element('button', 'Theme: auto', { type: 'button', class: 'theme' });
    button.addEventListener('click', () => {
      chosen = (chosen + 1) % names.length;
      button.textContent = `Theme: ${names[chosen]}`;
      if (chosen) root.dataset.theme = names[chosen];
      else delete root.dataset.theme;
    });
    document.querySelector('header').append(button);
  }

  // Marks in the contents the section that is being read.
  function contents() {
    const links = new Map(all('nav a').map((link) => [link.hash.slice(1), link]));
    const seen = new Set();
    const sections = all('main > section');
    const observer = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) seen[isIntersecting ? 'add' : 'delete'](target);
      const first = sections.find((section) => seen.has(section));
      for (const [id, link] of links) {
        if (first && first.id === id) link.setAttribute('aria-current', 'true');
        else link.removeAttribute('aria-current');
      }
    }, { rootMargin: '-10% 0px -60% 0px' });
    sections.forEach((section) => observer.observe(section));
  }

  // Titles would pop up over the tips; descriptions say the same to a screen reader.
  for (const title of all('svg title')) {
    const desc = document.createElementNS(SVG, 'desc');
    desc.textContent = title.textContent;
    if (title.id) desc.id = title.id;
    title.replaceWith(desc);
  }
  themes();
  contents();
  for (const code of all('.commands code')) code.after(copyButton(code));
  all('table[data-sortable]').forEach(sortable);
  all('[data-finds="marks"]').forEach(marks);
  all('[data-finds="cells"]').forEach(cells);
  let closed = [];
  addEventListener('beforeprint', () => {
    closed = all('details:not([open], .long)');
    for (const details of closed) details.open = true;
  });
  addEventListener('afterprint', () => {
    for (const details of closed) details.open = false;
  });
})();
