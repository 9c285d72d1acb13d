"""Where a compact network has its classifier, its pooling, and a map for each resolution: read off its graph."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pgnas_cli.compact.network import IndexLayer

_SHAPE_ONLY = ("size", "new_zeros")
"""Methods that read a map's shape alone: no data flow through them."""
_POOLS = (F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.avg_pool2d, F.max_pool2d, torch.mean, torch.amax)
Shapes = dict[str, tuple[int, ...]]
"""Node name -> the shape of its value, with a batch of one image."""


def find_classifier(network: fx.GraphModule) -> str:
    """Name of the last layer, a linear one or a 1x1 convolution, if nothing but reshaping follows it; else empty."""
    node = next(node for node in network.graph.nodes if node.op == "output")
    while len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
        module = network.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            return str(node.target)
        if module is not None and not isinstance(module, nn.Flatten | nn.Identity | nn.Dropout):
            break
    return ""


def find_first_convolutions(network: fx.GraphModule) -> list[str]:
    """Names of the convolutions that read the image."""
    image = next(node for node in network.graph.nodes if node.op == "placeholder")
    readers = (node for node in image.users if node.op == "call_module")
    return [str(node.target) for node in readers if isinstance(network.get_submodule(str(node.target)), nn.Conv2d)]


def first_convolution(network: fx.GraphModule) -> nn.Conv2d:
    """One of the convolutions that read the image."""
    first = network.get_submodule(find_first_convolutions(network)[0])
    assert isinstance(first, nn.Conv2d)
    return first


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; every layer's own mode comes back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class _Recorder(fx.Interpreter):
    """Runs a graph and notes the shapes of its values."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.shapes: Shapes = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = tuple(value.shape)
        return value


def shapes_of(network: fx.GraphModule, size: tuple[int, int]) -> Shapes:
    """The shape of every value for one image of `size` (height, width); runs it."""
    like = next(network.parameters())
    first = first_convolution(network)
    recorder = _Recorder(network)
    with evaluating(network):
        recorder.run(torch.zeros((1, first.in_channels, *size), dtype=like.dtype, device=like.device))
    return recorder.shapes


def passages(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes through which all data flow from the image to the output passes, in order."""
    nodes = [node for node in network.graph.nodes if node.op not in ("get_attr", "output")]
    place = {node: i for i, node in enumerate(network.graph.nodes)}
    found, furthest = [], 0
    for node in nodes:
        if node.op == "call_method" and node.target in _SHAPE_ONLY:
            continue
        if place[node] >= furthest:
            found.append(node)
        readers = (u for u in node.users if not (u.op == "call_method" and u.target in _SHAPE_ONLY))
        furthest = max(furthest, *(place[reader] for reader in readers), 0)
    return found


def _pools(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a pooling or a mean."""
    if node.op == "call_module":
        return "Pool" in type(network.get_submodule(str(node.target))).__name__
    return node.target in _POOLS or (node.op == "call_method" and node.target in ("mean", "amax"))


def unpooled(network: fx.GraphModule, shapes: Shapes) -> str:
    """The last maps before the global pooling; what the classifier reads where there is none.

    The global pooling is the last pooling that all data flow passes and that leaves one pixel.
    """
    main = passages(network)
    for node in reversed(main):
        pixels = shapes[node.name][2:]
        if _pools(network, node) and set(pixels) <= {1}:
            source = node.all_input_nodes[0].name
            if len(shapes[source]) == 4:
                return source
    name = find_classifier(network)
    readers = [node for node in main if node.target == name and node.op == "call_module"]
    return readers[0].all_input_nodes[0].name if readers else main[-1].name


def feature_maps(
    network: fx.GraphModule, shapes: Shapes, image: tuple[int, int], stages: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """For each resolution its last map up to the global pooling, finest first, as timm's feature_info.

    Where no map of a resolution is passed by all data flow, the last of its widest ones.

    Args:
        shapes: of an image of size `image` (height, width).
        stages: names of the backbone's modules that timm's own feature_info lists; used where each ends in a map that
            all data flow passes, at its own resolution.

    Returns:
        {"num_chs", "reduction", "module", "node"} each; `reduction` is the stride, image height over map height.
    """
    last = unpooled(network, shapes)
    main = list(_until(passages(network), last))
    maps = [node for node in main if len(shapes[node.name]) == 4 and node.op != "placeholder"]
    by_stage = [(_end_of(network, maps, stage), stage) for stage in stages]
    named = [(node, stage) for node, stage in by_stage if node is not None]
    strides = [_stride(shapes, node, image) for node, _ in named]
    if not stages or len(named) < len(stages) or any(a >= b for a, b in itertools.pairwise(strides)):
        of_stride = _widest(network, shapes, image, last)
        of_stride |= {_stride(shapes, node, image): node for node in maps}  # the last one of each
        named = [(node, str(node.target) if node.op == "call_module" else node.name) for node in of_stride.values()]
    entries: list[dict[str, Any]] = [
        {"num_chs": shapes[node.name][1], "reduction": _stride(shapes, node, image), "module": name, "node": node.name}
        for node, name in named
    ]
    return sorted((entry for entry in entries if entry["reduction"] > 1), key=lambda entry: int(entry["reduction"]))


def _widest(network: fx.GraphModule, shapes: Shapes, image: tuple[int, int], last: str) -> dict[int, fx.Node]:
    """Stride -> the last of its widest maps, as a cell of ENAS ends in, whose inputs the next cell reads as well."""
    found: dict[int, fx.Node] = {}
    for node in _until(list(network.graph.nodes), last):
        if node.op == "placeholder" or len(shapes.get(node.name, ())) != 4:
            continue
        best = found.get(stride := _stride(shapes, node, image))
        if best is None or shapes[node.name][1] >= shapes[best.name][1]:
            found[stride] = node
    return {stride: node for stride, node in found.items() if stride <= _stride_of(shapes[last], image)}


def _until(nodes: Sequence[fx.Node], last: str) -> Iterator[fx.Node]:
    for node in nodes:
        yield node
        if node.name == last:
            return


def _stride(shapes: Shapes, node: fx.Node, image: tuple[int, int]) -> int:
    return _stride_of(shapes[node.name], image)


def _stride_of(shape: tuple[int, ...], image: tuple[int, int]) -> int:
    return max(1, round(image[0] / shape[2])) if len(shape) == 4 else image[0]


def _end_of(network: fx.GraphModule, maps: Sequence[fx.Node], stage: str) -> fx.Node | None:
    """The last of `maps` that belongs to a module: behind its last layer, and before the first layer of another."""
    inside, place = None, {node: i for i, node in enumerate(network.graph.nodes)}
    layers = [
        node
        for node in network.graph.nodes
        if node.op == "call_module" and not isinstance(network.get_submodule(str(node.target)), IndexLayer)
    ]
    for node in layers:
        if str(node.target) == stage or str(node.target).startswith(f"{stage}."):
            inside = node
    if inside is None:
        return None
    after = next((place[node] for node in layers if place[node] > place[inside]), len(place))
    ends = [node for node in maps if place[inside] <= place[node] < after]
    return ends[-1] if ends else None
