"""A part of a graph, computed from values in its middle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, fx


def walk(network: fx.GraphModule, values: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The values of the nodes `wanted`, computed from those that are given and from nothing else."""
    wanted, known = set(wanted), dict(values)
    needed: set[fx.Node] = set()
    stack = [node for node in network.graph.nodes if node.name in wanted]
    while stack:
        node = stack.pop()
        if node not in needed and node.name not in known:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    uses = {}  # the last reader of each value, so that maps are freed as forward() frees them
    for node in network.graph.nodes:
        for source in node.all_input_nodes if node in needed else ():
            uses[source.name] = node
    interpreter = fx.Interpreter(network, garbage_collect_values=False)
    for node in network.graph.nodes:
        if node not in needed:
            continue
        if node.op == "placeholder":
            raise ValueError(f"{node.name} is needed and was not given")
        args = fx.map_arg(node.args, lambda source: known[source.name])
        kwargs = fx.map_arg(node.kwargs, lambda source: known[source.name])
        known[node.name] = getattr(interpreter, node.op)(node.target, args, kwargs)
        for source in node.all_input_nodes:
            if uses.get(source.name) is node and source.name not in wanted:
                known.pop(source.name, None)
    return {name: known[name] for name in wanted}
