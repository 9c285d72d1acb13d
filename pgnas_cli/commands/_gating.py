"""What of a supernet is gated, and why the rest is not: what `pgnas zoo show` and `pgnas zoo check` say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgnas_cli.console import console

if TYPE_CHECKING:
    from pgnas_cli.compact import ChannelGraph, Geometry
    from pgnas_cli.supernet.supernet import Supernet

_STAGES = 3  # a summary by stage has at least so many rows, where the names of the layers allow it
_NAMED = 3  # examples of layers that are left for one reason


@dataclass(frozen=True)
class Gating:
    """What of a network is gated.

    Args:
        gated: layer name -> sizes of its groups of inputs, in the network's order.
        ungated: name of every other convolution and linear layer -> why it is not gated.
        barriers: name of every operation that is correct but not thinned -> what it is.
    """

    gated: dict[str, tuple[int, ...]]
    ungated: dict[str, str]
    barriers: dict[str, str]

    @classmethod
    def of(cls, net: Supernet) -> Gating:
        """The gating of a supernet, which may lie on the meta device."""
        graph = net.graph
        gated = {name: gate.sizes for name, gate in net.gates.items()}
        geometries = {name: node.geometry for name, node in graph.operations.items()}
        ungated = {
            name: _why_not(name, geometry, graph)
            for name, geometry in geometries.items()
            if geometry is not None and name not in gated
        }
        barriers = {
            node.name or node.fx_node.name: _kind(net, node.fx_node) for node in graph.nodes if node.kind == "barrier"
        }
        return cls(gated, ungated, barriers)

    @property
    def groups(self) -> int:
        """Number of groups, each with a drop probability."""
        return sum(map(len, self.gated.values()))

    @property
    def channels(self) -> int:
        """Number of gated inputs."""
        return sum(map(sum, self.gated.values()))

    def to_json(self) -> dict[str, Any]:
        """The part of a command's result that tells this."""
        return {
            "gated": {name: list(sizes) for name, sizes in self.gated.items()},
            "ungated": self.ungated,
            "barriers": self.barriers,
        }

    def print_layers(self) -> None:
        """A row for each gated layer."""
        rows = [[name, sum(sizes), len(sizes)] for name, sizes in self.gated.items()]
        console.table("", ["gated layer", "inputs", "groups"], rows, justify=["left", "right", "right"])

    def print_stages(self) -> None:
        """A row for each stage of the network."""
        rows = []
        for stage, names in by_stage(self.gated).items():
            sizes = [self.gated[name] for name in names]
            rows.append([stage, len(names), sum(map(sum, sizes)), sum(map(len, sizes))])
        columns = ["stage", "gated layers", "inputs", "groups"]
        console.table("", columns, rows, justify=["left", "right", "right", "right"])

    def print_rest(self, *, all_names: bool = False) -> None:
        """What is not gated and what is a barrier, by reason; the names of a few, or all of them."""
        for label, names in (("not gated", self.ungated), ("barrier (correct, not thinned)", self.barriers)):
            for reason in dict.fromkeys(names.values()):
                these = [name for name, why in names.items() if why == reason]
                console.line(f"{label}, {reason}: {_listed(these, reason, all_names)}")


def _listed(names: list[str], reason: str, all_names: bool) -> str:
    if not all_names and len(names) > 1 and all(name.startswith(reason) for name in names):
        return f"{len(names)} times"  # functions have no name but their own, numbered
    shown = names if all_names else names[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return ", ".join(shown) + more


def by_stage(names: Iterable[str]) -> dict[str, list[str]]:
    """Layers by the first words of their dotted names: as few words as give at least three stages."""
    split = [name.split(".") for name in names]
    stages: dict[str, list[str]] = {}
    for depth in range(1, max(map(len, split), default=0) + 1):
        stages = {}
        for words in split:
            stages.setdefault(".".join(words[:depth]), []).append(".".join(words))
        if len(stages) >= _STAGES:
            break
    return stages


def _why_not(name: str, geometry: Geometry, graph: ChannelGraph) -> str:
    if name in graph.reads_image:
        return "reads the image"
    if name in graph.writes_output:
        return "writes the logits"
    if 1 < geometry.groups == geometry.in_channels:
        return "depthwise"
    return "left out by the plugin"


def _kind(net: Supernet, operation: Any) -> str:
    """The class of a module, the name of a function or method."""
    if operation.op == "call_module":
        return type(net.backbone.get_submodule(operation.target)).__name__
    return str(getattr(operation.target, "__name__", operation.target))
