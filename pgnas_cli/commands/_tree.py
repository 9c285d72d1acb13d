"""An architecture as a tree of lines: stages, blocks, branches, operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgnas_cli.commands._bars import bar
from pgnas_cli.console import Styled, console, human
from pgnas_cli.report.structure import Counted

if TYPE_CHECKING:
    from pgnas_cli.report.structure import Architecture, Block, Operation

_BAR, _NARROW_BAR, _NARROW = 12, 6, 72
"""Characters of a bar; and of one in a terminal of fewer columns than the last."""
_PERCENT = len(" 100 %")
_LEAST = 12
"""Characters of a name, at least, however narrow the terminal is."""
_FORKS = (("├ ", "│ "), ("└ ", "  ")), (("|- ", "|  "), ("`- ", "   "))
"""In front of a child, and of what lies below it: of one that others follow, and of the last."""


@dataclass
class Node(Counted):
    """A stage, block or branch, or a single operation.

    Args:
        name: the part of its path that its parents do not have.
        operation: what it is, of a leaf.
        children: in the order of execution.
    """

    name: str
    operation: Operation | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def operations(self) -> list[Operation]:
        """Every operation in it."""
        own = [] if self.operation is None else [self.operation]
        return own + [operation for child in self.children for operation in child.operations]

    @property
    def share(self) -> float:
        """Of an operation, the share of its inputs that is kept; else that of the parameters, or of operations."""
        if self.operation is not None:
            return self.operation.share
        if self.params:
            return self.kept_params / self.params
        found = self.operations
        return sum(not operation.dropped for operation in found) / len(found)


def tree(found: Architecture) -> list[Node]:
    """The stages; what has a single part is one with it."""
    return [
        _joined(Node(stage.name, children=[_block(block, stage.name) for block in stage.blocks]))
        for stage in found.stages
    ]


def _block(block: Block, stage: str) -> Node:
    """A block, its operations sorted into branches by the parts of their paths."""
    node = Node("" if block.path == stage else block.path.removeprefix(f"{stage}."))
    for operation in block.operations:
        inside = operation.name.removeprefix(f"{block.path}.") if operation.name != block.path else ""
        *branches, last = inside.split(".")
        place = node
        for name in branches:
            known = next((child for child in place.children if child.name == name and child.operation is None), None)
            if known is None:
                known = Node(name)
                place.children.append(known)
            place = known
        place.children.append(Node(last, operation))
    return node


def _joined(node: Node) -> Node:
    """The node, in which parents and only children are one."""
    children = [_joined(child) for child in node.children]
    if len(children) != 1:
        return Node(node.name, node.operation, children)
    (only,) = children
    return Node(".".join(name for name in (node.name, only.name) if name), only.operation, only.children)


def depth_of(nodes: Sequence[Node]) -> int:
    """Levels of a tree."""
    return max((1 + depth_of(node.children) for node in nodes), default=0)


def count(nodes: Sequence[Node], depth: int) -> int:
    """Lines of a tree whose first `depth` levels are shown."""
    return sum(1 + count(node.children, depth - 1) for node in nodes) if depth else 0


def fitting(nodes: Sequence[Node], lines: int) -> int:
    """The most levels that take at most so many lines; at least stages and blocks."""
    depths = range(depth_of(nodes), 2, -1)
    return next((depth for depth in depths if count(nodes, depth) <= lines), 2)


# ---- lines -------------------------------------------------------------------------------------------------


def drawn(nodes: Sequence[Node], depth: int, width: int) -> Iterator[tuple[str | Styled, ...]]:
    """The parts of every line: name, bar, percentage, parameters, and what else there is to say.

    Args:
        nodes: the stages.
        depth: levels that are shown.
        width: columns that a line may take. The last two are left out where they do not fit, and long names are cut.
    """
    from pgnas_cli.report.architecture import percent

    lines = list(_named(nodes, depth))
    bars = _BAR if width >= _NARROW else _NARROW_BAR
    names = min(max(len(name) for name, _ in lines), max(_LEAST, width - bars - _PERCENT - 2))
    counted = max(len(_params(node)) for _, node in lines)
    for name, node in lines:
        rest = width - names - 2 - bars - _PERCENT
        text = ""
        for piece in (f"  {_params(node):<{counted}}", f"  {_details(node)}"):
            if len(piece) > rest - len(text):
                break
            text += piece
        text, head = text.rstrip(), f"{_cut(name, names):<{names}}  "
        if node.dropped:
            yield (Styled(f"{head}{'dropped':<{bars + _PERCENT}}{text}", "dim"),)
            continue
        yield head, Styled(bar(node.share, bars), "cyan"), f"{percent(node.share):>{_PERCENT}}", Styled(text, "dim")


def _named(nodes: Sequence[Node], depth: int, indent: str | None = None) -> Iterator[tuple[str, Node]]:
    """Every line's name, with the branch that leads to it; the stages have none."""
    for place, node in enumerate(nodes):
        fork, below = _FORKS[0 if console.blocks else 1][place == len(nodes) - 1]
        yield (node.name if indent is None else indent + fork + node.name), node
        if depth > 1:
            yield from _named(node.children, depth - 1, "" if indent is None else indent + below)


def _params(node: Node) -> str:
    return f"{human(node.kept_params)} of {human(node.params)}" if node.params else "none"


def _details(node: Node) -> str:
    """What kind of operation it is and what it reads; of other nodes how many operations are dropped."""
    if (found := node.operation) is not None:
        plural = "" if found.inputs == 1 else "s"
        reads = "" if found.dropped else f", {_of(found.kept_inputs, found.inputs)} input{plural}"
        return f"{found.label}{reads}"
    lost = sum(operation.dropped for operation in node.operations)
    return f"{_of(lost, len(node.operations))} operations dropped" if lost else ""


def _of(part: int, whole: int) -> str:
    return f"{whole}" if part == whole else f"{part} of {whole}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + ("…" if console.blocks else "~")
