"""The found architecture as a figure: every block a small diagram, every operation with what is kept of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from pgnas_cli.report.document import Figure, Group, Key, Number, Table
from pgnas_cli.report.drawing import Circle, Drawing, Mark, Path, Rect, Shape, Text, composed, flowed, on_ink, share_ink
from pgnas_cli.report.layout import Layout, layered
from pgnas_cli.report.structure import Architecture, Block, Join, Operation, Stage

WIDTH = 1200.0
"""Of the whole figure, where blocks flow like text."""
_HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _HEAD = 20.0, 12.0, 13.0, 12.0, 24.0
_CHARACTER = 7.4
"""Width of a character at the size of an operation's label, at most, in any usual face."""
_SIZE = 11.0
_SMALL = 10.5
_SPACE = 14.0
_PORTS = 2
"""More values from outside than that are drawn as one."""
_MANY, _EXIT = "many", "exit"
_NAMED = 8
"""Dropped operations that the alternative text names."""
_TITLES = {
    "winner": "The found network",
    "candidate": "The candidate",
    "most probable": "The most probable network",
    "supernet": "The supernet",
}
LEGEND = (
    Key("share10", "all inputs kept"),
    Key("share7", "70 %"),
    Key("share4", "40 %"),
    Key("share1", "10 %"),
    Key("gap", "dropped", "gap"),
)


def figure(found: Architecture) -> Figure:
    """The diagram of an architecture: its blocks in groups by stage for a page, and as one drawing for a file."""
    groups = tuple(Group(heading, tuple(block_drawing(b) for b in blocks)) for heading, blocks in rows(found.stages))
    return Figure(
        name="architecture",
        title=f"{_TITLES[found.source]}, block by block",
        alt=describe(found),
        drawing=_whole(groups),
        table=table(found),
        legend=LEGEND,
        groups=groups,
        note=(
            "Each box is an operation with the share of its input channels that is kept; boxes without colour are "
            "dropped, dashed lines lead to nothing. A block's percentage is that of its parameters."
        ),
    )


def rows(stages: Sequence[Stage]) -> Iterator[tuple[str, list[Block]]]:
    """(heading, blocks): stages, of which neighbours with a block of one or two operations share a line."""
    small: list[Stage] = []
    for stage in stages:
        if len(stage.blocks) == 1 and len(stage.blocks[0].operations) <= 2:
            small.append(stage)
            continue
        if small:
            yield _together(small)
            small = []
        yield stage.name, list(stage.blocks)
    if small:
        yield _together(small)


def _together(stages: Sequence[Stage]) -> tuple[str, list[Block]]:
    return ", ".join(stage.name for stage in stages), [block for stage in stages for block in stage.blocks]


def describe(found: Architecture) -> str:
    """What the figure says, in words."""
    operations = list(found.operations)
    dropped = [operation.name for operation in operations if operation.dropped]
    thinned = sum(0 < operation.share < 1 for operation in operations)
    named = ", ".join(dropped[:_NAMED]) + (f" and {len(dropped) - _NAMED} more" if len(dropped) > _NAMED else "")
    blocks = sum(1 for _ in found.blocks)
    return (
        f"Diagram of {found.title}: {len(operations)} operations in {blocks} blocks. Of {found.params:,} parameters "
        f"{found.kept_params:,} are kept. "
        + (f"{_operations(thinned)} lost a part of the inputs" if thinned else "None lost a part of its inputs")
        + (f"; dropped: {_operations(len(dropped))}, {named}." if dropped else ", none is dropped.")
    )


def _operations(count: int) -> str:
    return f"{count} operation{'s' if count > 1 else ''}"


def table(found: Architecture) -> Table:
    """A row for each operation."""
    return Table(
        caption="Operations: channels and parameters kept, of those of the supernet",
        columns=("operation", "kind", "inputs kept", "of", "share", "outputs kept", "of", "parameters kept", "of"),
        rows=tuple(
            (
                operation.name,
                operation.label,
                _count(operation.kept_inputs),
                _count(operation.inputs),
                Number(percent(operation.share), operation.share),
                _count(operation.kept_outputs),
                _count(operation.outputs),
                _count(operation.kept_params),
                _count(operation.params),
            )
            for operation in found.operations
        ),
    )


def percent(share: float) -> str:
    """A share in whole percent; 0 % is nothing at all, and 100 % everything."""
    if 0 < share < 0.01:
        return "<1 %"
    return f"{min(round(100 * share), 99 if share < 1 else 100)} %"


def _count(value: int) -> Number:
    return Number(f"{value:,}", value)


# ---- drawing ---------------------------------------------------------------------------------------------------


def block_drawing(block: Block) -> Drawing:
    """A block as a card: what it reads above, what it hands on below."""
    ports, edges, layout = _ports(block), _edges(block), _layout(block)
    width = max(layout.width, _CHARACTER * (len(block.name) + 7)) + 2 * _MARGIN
    left, top = (width - layout.width) / 2, _HEAD + _MARGIN + (10 if any(ports.values()) else 0)
    shapes: list[Shape] = []
    for edge, route in layout.routes.items():
        shapes.append(_line(route, alive=edges[edge]))
    for port, label in ports.items():
        x, y = layout.centres[port]
        shapes += [Circle(x, y, 2.5, fill="line"), Text(x, y - 7, label, "muted", _SMALL, anchor="middle")]
    for node in block.nodes:
        x, y = layout.centres[node.index]
        shapes.extend(_join(node, x, y) if isinstance(node, Join) else _operation(node, x, y, _width(block)))
    height = top + layout.height + _MARGIN + _SIZE
    body = composed([(left, top, Drawing(layout.width, layout.height, tuple(shapes)))], width, height)
    return Drawing(width, height, (*_card(block, width, height), *body.shapes))


def _ports(block: Block) -> dict[Hashable, str]:
    """Port -> label. A single one, the value before, has none; many become one, called `_MANY`."""
    if len(block.ports) > _PORTS:
        return {_MANY: f"{len(block.ports)} before"}
    alone = len(block.ports) == 1
    return {port.index: "" if alone else port.origin.rpartition(".")[2] for port in block.ports}


def _edges(block: Block) -> dict[tuple[Hashable, Hashable], bool]:
    """(source, target) as they are drawn -> whether the candidate has it."""
    ports: set[Hashable] = {port.index for port in block.ports}
    found: dict[tuple[Hashable, Hashable], bool] = {}
    for edge in block.edges:
        source: Hashable = _MANY if len(ports) > _PORTS and edge.source in ports else edge.source
        found[source, edge.target] = found.get((source, edge.target), False) or edge.alive
    if len(block.outputs) == 1:
        found[block.outputs[0], _EXIT] = block.kept_channels > 0
    return found


def _card(block: Block, width: float, height: float) -> list[Shape]:
    """The frame with its name, what is kept of its parameters, and the size of its result."""
    frame = Rect(
        0.5, 0.5, width - 1, height - 1, stroke="gap" if block.dropped else "grid", radius=6, dashed=block.dropped
    )
    kept = percent(block.kept_params / block.params) if block.params else ""
    size = "" if block.size is None else f" @ {block.size[0]}x{block.size[1]}"
    channels = f"{block.kept_channels}" if block.kept_channels == block.channels else (
        f"{block.kept_channels}/{block.channels}"
    )  # fmt: skip
    shapes: list[Shape] = [
        frame,
        Text(_MARGIN, 17, block.name, size=12, bold=True),
        Text(width - _MARGIN, 17, kept, "muted", size=12, anchor="end"),
    ]
    if not block.dropped:
        shapes.append(Text(width / 2, height - 8, f"{channels}{size}", "muted", size=_SMALL, anchor="middle"))
    return shapes


def _layout(block: Block) -> Layout:
    """Ports on top, then the nodes; what is handed on ends in an exit below everything."""
    sizes: dict[Hashable, tuple[float, float]] = {
        port: (max(5.0, _CHARACTER * len(label)), 5.0) for port, label in _ports(block).items()
    }
    for node in block.nodes:
        sizes[node.index] = (_width(block), _HEIGHT) if isinstance(node, Operation) else (_join_width(node), 14.0)
    if len(block.outputs) == 1:
        sizes[_EXIT] = 1.0, 1.0
    return layered(sizes, _edges(block), gap_x=_GAP_X, gap_y=_GAP_Y)


def _width(block: Block) -> float:
    longest = max((len(operation.label) for operation in block.operations), default=0)
    return _CHARACTER * (longest + 6) + 8


def _join_width(join: Join) -> float:
    return 14.0 if len(join.label) == 1 else _CHARACTER * len(join.label) + 6


def _line(route: Sequence[tuple[float, float]], *, alive: bool) -> Path:
    return Path(tuple(route), stroke="line" if alive else "gap", width=1.4 if alive else 1, dashed=not alive)


def _operation(found: Operation, x: float, y: float, width: float) -> Iterator[Shape]:
    tip = (
        f"{found.name}: {found.label}, dropped ({found.params:,} parameters)"
        if found.dropped
        else f"{found.name}: {found.label}, {found.kept_inputs} of {found.inputs} inputs, "
        f"{found.kept_outputs} of {found.outputs} outputs, {found.kept_params:,} of {found.params:,} parameters"
    )
    left, top = x - width / 2, y - _HEIGHT / 2
    if found.dropped:
        yield Rect(left, top, width, _HEIGHT, fill="surface", stroke="gap", radius=3, dashed=True, mark=Mark(tip))
        yield Text(left + 5, y + 4, found.label, "muted", _SIZE)
        return
    ink = on_ink(found.share)
    yield Rect(left, top, width, _HEIGHT, fill=share_ink(found.share), radius=3, mark=Mark(tip))
    yield Text(left + 5, y + 4, found.label, ink, _SIZE)
    yield Text(left + width - 5, y + 4, percent(found.share), ink, _SIZE, anchor="end", bold=True)


def _join(found: Join, x: float, y: float) -> Iterator[Shape]:
    ink = "line" if found.share > 0 else "gap"
    width = _join_width(found)
    yield Rect(x - width / 2, y - 7, width, 14, fill="surface", stroke=ink, radius=7, dashed=found.share == 0)
    yield Text(x, y + 3.5, found.label, "text" if found.share > 0 else "muted", _SMALL, anchor="middle")


def _whole(groups: Sequence[Group]) -> Drawing:
    """All groups below each other, each under its heading."""
    placed: list[tuple[float, float, Drawing]] = []
    y = 0.0
    for group in groups:
        heading = Drawing(WIDTH, 28, (Text(0, 20, group.heading, size=15, bold=True),))
        body = flowed(group.drawings, WIDTH, _SPACE)
        placed += [(0, y, heading), (0, y + 30, body)]
        y += 30 + body.height + _SPACE
    return composed(placed, WIDTH, y)
