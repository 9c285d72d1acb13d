"""`pgnas show`: the architecture that a run has found, as a tree."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgnas_cli.commands import _tree
from pgnas_cli.commands._options import RunOption
from pgnas_cli.console import Styled, console, human
from pgnas_cli.errors import UsageError
from pgnas_cli.run import RunDirectory

if TYPE_CHECKING:
    from pgnas_cli.report.structure import Architecture

LINES = 60
"""Of a tree with more lines only the blocks are shown, or the branches in them."""


def show(
    run: RunOption = None,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="ID", help="Another than the winner; the beginning of its id will do."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option("--depth", metavar="N", min=1, help="Levels: 1 is stages, 2 blocks. Default what 60 lines hold."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every operation.")] = False,
) -> None:
    """Show the architecture that was found: what is kept of every stage, block and operation.

    The winner of a run that is ranked, else the most probable network of one that is in training or trained.
    """
    if depth is not None and layers:
        raise UsageError("--depth and --layers exclude each other", "leave one of them out")
    opened = RunDirectory.open(run)
    from pgnas_cli.report import structure

    chosen = None
    if candidate is not None:
        from pgnas_cli.export.choice import find_candidate

        chosen = find_candidate(opened, candidate).id
    found = structure.of_run(opened, chosen)
    console.result({"run": str(opened.path), **as_json(found)}, lambda: _render(found, depth, layers=layers))


def as_json(found: Architecture) -> dict[str, Any]:
    """The tree with everything that is counted: stages, their blocks, the operations of these."""
    about = {key: value for key, value in vars(found).items() if key != "stages"}
    stages = []
    for stage in found.stages:
        blocks = [
            {
                "name": block.name,
                "path": block.path,
                "params": block.params,
                "kept_params": block.kept_params,
                "channels": block.channels,
                "kept_channels": block.kept_channels,
                "dropped": block.dropped,
                "operations": [{**asdict(operation), "share": operation.share} for operation in block.operations],
            }
            for block in stage.blocks
        ]
        stages.append({"name": stage.name, "blocks": blocks})
    return {**about, "stages": stages}


def _render(found: Architecture, depth: int | None, *, layers: bool) -> None:
    nodes = _tree.tree(found)
    levels = _tree.depth_of(nodes)
    shown = levels if layers else min(depth or _tree.fitting(nodes, LINES), levels)
    which = "everything is kept" if found.source == "supernet" else f"{found.source} {found.candidate}".rstrip()
    console.line(Styled(found.title, "bold"), f": {which}")
    for name, kept, whole in (
        ("parameters", found.kept_params, found.params),
        ("MACs", found.kept_macs, found.macs),
    ):
        console.line(f"{human(kept)} of {human(whole)} {name} ({100 * kept / whole:.1f} %)")
    console.line()
    for parts in _tree.drawn(nodes, shown, console.width):
        console.line(*parts)
    console.line()
    console.line(Styled("kept: of an operation its inputs, of all else its parameters; then the parameters", "dim"))
    if shown < levels:
        console.note(f"{shown} of {levels} levels are shown: --depth N shows N of them, --layers all")
