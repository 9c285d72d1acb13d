"""The page in a real browser: a headless Chromium, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, MIXED, SCRIPT, everything

from pgnas_cli.report.document import Document
from pgnas_cli.report.html import page as written
from pgnas_cli.report.themes import THEMES, channels

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'pgnas[browser]'")
axe = pytest.importorskip("axe_core_python.sync_playwright", reason="axe-core-python is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]
Page = Any
schemes = pytest.mark.parametrize("scheme", THEMES)
LINE = "output.told"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def document() -> Document:
    return everything()


@pytest.fixture(scope="module")
def file(document: Document, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("report") / "report.html"
    place.write_text(written(document), encoding="utf-8")
    return place.as_uri()


@pytest.fixture
def opened(browser: Any, file: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, 1280 pixels wide; nothing may be said on the console, and nothing asked for but the file itself."""
    options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", "color_scheme": "light"}
    context = browser.new_context(**(options | getattr(request, "param", {})))
    said: list[str] = []
    asked: list[str] = []
    page = context.new_page()
    page.set_default_timeout(5000)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda found: asked.append(found.url))
    page.goto(file)
    yield page
    context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} == {file}


def with_options(**options: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("opened", [options], indirect=True, ids=[""])


def told(page: Page, figure: str) -> str:
    return str(page.locator(f"#figure-{figure} {LINE}").inner_text())


# ---- texts --------------------------------------------------------------------------------------------------


def test_what_looks_like_markup_is_shown_as_text(opened: Page, document: Document) -> None:
    assert opened.title() == document.title
    assert opened.locator("h1").inner_text() == document.title
    for hostile in HOSTILE:
        assert opened.locator("section#result > p").inner_text().count(hostile) == 2
    assert opened.locator("h2").all_inner_texts() == [section.title for section in document.sections]
    assert opened.locator("#figure-architecture svg text").filter(has_text="<script>").count() == 0
    assert opened.locator("#figure-posterior svg text").all_text_contents() == [SCRIPT]
    assert opened.locator("img, script:not(:last-child), main style, main title").count() == 0


# ---- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["click", "Enter", "Space"])
def test_a_table_sorts_up_down_and_back(opened: Page, way: str) -> None:
    table = opened.locator("section#result table").first
    header = table.locator("thead th").nth(2)
    button = header.get_by_role("button")

    def after() -> tuple[str | None, list[str]]:
        button.click() if way == "click" else button.press(way)
        return header.get_attribute("aria-sort"), table.locator("tbody td:nth-child(3)").all_inner_texts()

    before = table.locator("tbody tr").all_inner_texts()
    assert after() == ("ascending", ["0", "20", "30", "not measured"])
    assert after() == ("descending", ["30", "20", "0", "not measured"])
    assert after()[0] is None
    assert table.locator("tbody tr").all_inner_texts() == before


def test_texts_sort_by_the_numbers_in_them_and_one_column_at_a_time(opened: Page) -> None:
    figure = opened.locator("#figure-front")
    figure.locator("summary").click()
    headers = figure.locator("thead th")
    headers.nth(1).get_by_role("button").click()
    headers.nth(0).get_by_role("button").click()
    assert [headers.nth(n).get_attribute("aria-sort") for n in range(4)] == ["ascending", None, None, None]
    assert figure.locator("tbody th").all_inner_texts() == [f"network {n}" for n in range(40)]


# ---- figures ------------------------------------------------------------------------------------------------


def test_a_point_answers_the_pointer(opened: Page) -> None:
    hint = told(opened, "front")
    points = opened.locator("#figure-front .mark")
    points.nth(3).hover()
    assert f"point 3: {MIXED}" in told(opened, "front")
    assert opened.locator(f"#figure-front {LINE} code").inner_text().startswith("pgnas export --candidate 3")
    assert opened.locator("#figure-front .ring").count() == 1
    points.nth(1).click()
    points.nth(2).hover()
    assert "point 1:" in told(opened, "front"), "a click pins its point"
    opened.locator("#figure-front .drawings").press("Escape")
    assert told(opened, "front") == hint
    assert opened.locator("#figure-front .ring").count() == 0


def test_a_click_near_a_point_finds_it_and_one_far_away_finds_none(opened: Page) -> None:
    opened.locator("#figure-front").scroll_into_view_if_needed()
    box = opened.locator("#figure-front .mark").nth(2).bounding_box()
    opened.mouse.click(box["x"] - 9, box["y"] - 9)
    assert "point 2:" in told(opened, "front")
    opened.mouse.click(box["x"], box["y"] - 60)
    assert told(opened, "front").startswith("Point at")


@pytest.mark.parametrize(
    ("keys", "point"),
    [
        (["ArrowRight"], 0),
        (["ArrowLeft"], 4),
        (["ArrowRight", "ArrowDown", "ArrowRight"], 2),
        (["End", "ArrowRight"], 4),
        (["End", "ArrowUp"], 3),
        (["End", "Home"], 0),
    ],
)
def test_points_answer_the_keyboard(opened: Page, keys: list[str], point: int) -> None:
    drawings = opened.locator("#figure-front .drawings")
    drawings.focus()
    for key in keys:
        opened.keyboard.press(key)
    assert f"point {point}:" in told(opened, "front")


def test_marks_are_visited_across_the_drawings_of_a_figure(opened: Page) -> None:
    drawings = opened.locator("#figure-architecture .drawings")
    drawings.press("Home")
    visited = []
    for _ in range(6):
        visited.append(told(opened, "architecture").split(":")[0])
        opened.keyboard.press("ArrowRight")
    assert visited == ["block0.0", "block0.1", "block0.2", "block1.0", "block1.1", "block2.0"]


def test_an_operation_answers_the_pointer_on_its_writing(opened: Page) -> None:
    opened.locator("#figure-architecture svg text", has_text="62 %").hover(force=True)
    assert told(opened, "architecture").startswith("block0.1:")


def test_the_heat_map_names_what_is_under_the_pointer(opened: Page) -> None:
    image = opened.locator("#figure-posterior image[data-bands]")
    image.scroll_into_view_if_needed()
    box = image.bounding_box()
    for row, column, expected in (
        (0, 0, "stage1.conv, row 1 of 4, epoch 1: 1.00"),
        (3, 2, "stage1.conv, row 4 of 4, epoch 3: 0.22"),
        (5, 3, f"stage2.conv {MIXED}, row 2 of 2, epoch 4: 0.37"),
    ):
        opened.mouse.move(box["x"] + (column + 0.5) * box["width"] / 4, box["y"] + (row + 0.5) * box["height"] / 6)
        assert told(opened, "posterior") == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["ArrowDown"], "stage1.conv, row 1 of 4, epoch 1: 1.00"),
        (["ArrowDown", "ArrowDown", "ArrowRight"], "stage1.conv, row 2 of 4, epoch 2: 0.08"),
        (["End", "PageDown"], f"stage2.conv {MIXED}, row 1 of 2, epoch 4: 0.30"),
        (["PageDown", "PageDown", "End", "PageUp"], "stage1.conv, row 1 of 4, epoch 4: 0.05"),
        (["ArrowUp", "ArrowUp", "ArrowLeft"], "stage1.conv, row 1 of 4, epoch 1: 1.00"),
    ],
)
def test_the_heat_map_answers_the_keyboard(opened: Page, keys: list[str], expected: str) -> None:
    opened.locator("#figure-posterior .drawings").focus()
    for key in keys:
        opened.keyboard.press(key)
    assert told(opened, "posterior") == expected
    assert opened.locator("#figure-posterior .cross").first.get_attribute("d") != ""
    opened.keyboard.press("Escape")
    assert told(opened, "posterior").startswith("Point at a cell")


# ---- copying ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "denied"])
def test_a_command_is_copied_or_selected(opened: Page, document: Document, allowed: bool) -> None:
    said = "Copied" if allowed else "Selected"
    answer = "resolve()" if allowed else "reject(new Error('denied'))"
    opened.evaluate(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText(text) { window.copied = text; "
        f"return Promise.{answer} }}}}}})"
    )
    button = opened.locator(".commands button").nth(1)
    button.click()
    api.expect(button).to_have_text(said)
    (commands,) = document.sections[-1].blocks
    assert opened.evaluate("window.copied") == commands.lines[1]
    assert opened.evaluate("getSelection().toString()") == commands.lines[1]


# ---- light, dark, wide, narrow, paper -----------------------------------------------------------------------


def surface(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def rgb(theme: str) -> str:
    return "rgb({}, {}, {})".format(*channels(THEMES[theme].inks["surface"]))


@pytest.mark.parametrize(
    ("opened", "preferred"), [({"color_scheme": name}, name) for name in THEMES], indirect=["opened"], ids=THEMES
)
def test_the_theme_is_the_readers_until_it_is_chosen(opened: Page, preferred: str) -> None:
    button = opened.locator("button.theme")
    seen = []
    for _ in range(4):
        seen.append((button.inner_text(), surface(opened)))
        button.click()
    auto = ("Theme: auto", rgb(preferred))
    assert seen == [auto, ("Theme: light", rgb("light")), ("Theme: dark", rgb("dark")), auto]


@pytest.mark.parametrize("width", [360, 768, 1280, 3840])
@pytest.mark.parametrize("opened", [{"color_scheme": name} for name in THEMES], indirect=True, ids=THEMES)
def test_the_page_never_scrolls_sideways(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    opened.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    wide = opened.get_by_role("region", name="Wide")
    if width < 3840:
        assert wide.evaluate("box => box.scrollWidth > box.clientWidth"), "it scrolls within itself"


@with_options(color_scheme="dark")
def test_on_paper_it_is_light_and_everything_is_open(opened: Page) -> None:
    opened.locator("#figure-front .mark").nth(0).click()
    opened.emulate_media(media="print")
    assert surface(opened) == rgb("light")
    assert opened.locator("nav").is_hidden()
    assert opened.locator(".commands button, .theme, .told").filter(visible=True).count() == 0
    assert opened.locator("#figure-architecture details table").is_visible(), "without a script"
    assert opened.locator("section#result thead th").first.inner_text() == "network"
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 1
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details[open]").count() == 0
    assert len(opened.pdf()) > 10_000


def test_a_long_table_is_printed_where_it_is_open(opened: Page) -> None:
    summary = opened.locator("#figure-front summary")
    table = opened.locator("#figure-front details table")
    opened.emulate_media(media="print")
    assert not table.is_visible()
    assert summary.inner_text() == "Numbers of 40 rows: printed where they are open on the page"
    opened.emulate_media(media="screen")
    assert summary.inner_text() == "Numbers"
    summary.click()
    opened.emulate_media(media="print")
    assert table.is_visible()
    assert summary.inner_text() == "Numbers"


def test_headers_on_paper_are_no_buttons(opened: Page) -> None:
    """A browser does not repeat these on every page of a table."""
    opened.emulate_media(media="print")
    header = opened.locator("section#result table").first.locator("thead th").nth(1)
    assert header.inner_text() == "accuracy"
    assert not header.locator("button").is_visible()


@pytest.mark.parametrize(("width", "beside"), [(1280, False), (1920, True), (3840, True)])
def test_wide_windows_have_diagrams_beside_each_other(opened: Page, width: int, beside: bool) -> None:
    opened.set_viewport_size({"width": width, "height": 900})
    first, second = (opened.locator(f"#figure-{name}").bounding_box() for name in ("posterior", "loss"))
    assert (first["y"] == second["y"]) is beside
    assert (first["x"] + first["width"] < second["x"]) is beside


@with_options(viewport={"width": 360, "height": 740})
def test_keys_move_what_they_find_into_sight_on_a_phone(opened: Page) -> None:
    for figure, keys, found in (("posterior", ("Home", "End"), ".cross"), ("front", ("End",), ".ring")):
        drawings = opened.locator(f"#figure-{figure} .drawings")
        assert drawings.evaluate("box => box.scrollWidth > box.clientWidth && box.scrollLeft === 0")
        for key in keys:
            drawings.press(key)
        assert drawings.evaluate("box => box.scrollLeft") > 50, figure
        api.expect(opened.locator(f"#figure-{figure} {found}").last).to_be_in_viewport()


@with_options(viewport={"width": 360, "height": 740})
def test_on_a_phone_rows_keep_their_names_and_options_their_hyphens(opened: Page) -> None:
    wide = opened.get_by_role("region", name="Wide")
    name = wide.locator("tbody th").first
    before = name.bounding_box()["x"]
    wide.evaluate("box => box.scrollTo(300, 0)")
    assert name.bounding_box()["x"] == before
    lines = opened.locator(".commands code span", has_text="--limit-train").evaluate(
        "word => word.getBoundingClientRect().height / parseFloat(getComputedStyle(word).lineHeight)"
    )
    assert lines < 1.5


@with_options(java_script_enabled=False)
def test_without_script_everything_is_there_to_read(opened: Page, document: Document) -> None:
    assert opened.locator("button, output").count() == 0
    assert opened.locator("#figure-front .mark title").count() == 5
    assert opened.locator("section#result thead th").nth(1).inner_text() == "accuracy"
    opened.locator("#figure-front summary").click()
    assert opened.locator("#figure-front details table").is_visible()


def test_the_focus_is_always_seen(opened: Page) -> None:
    """Every stop of the Tab key is outlined; the first leads to the content."""
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.getAttribute('href')") == "#content"
    seen = set()
    while (stop := opened.evaluate("document.activeElement.className || document.activeElement.tagName")) != "BODY":
        outline = opened.evaluate(
            "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))"
        )
        assert outline == ["solid", "3px"], stop
        seen.add(stop)
        opened.keyboard.press("Tab")
    assert {"skip", "theme", "A", "BUTTON", "scroll", "drawings", "SUMMARY"} <= seen


@pytest.mark.parametrize("width", [360, 1280])
@schemes
def test_nothing_serious_stands_in_anybodys_way(browser: Any, file: str, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(file)
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    page.locator("#figure-front .drawings").press("End")
    page.locator("section#result table").first.get_by_role("button").first.click()
    found = axe.Axe().run(page)
    context.close()
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious] == []
    assert len(found["passes"]) > 20


def test_the_style_and_the_script_stay_small() -> None:
    templates = Path(__file__).parents[2] / "templates"
    assert len((templates / "report.css").read_text().splitlines()) <= 400
    assert len((templates / "report.js").read_text().splitlines()) <= 300
