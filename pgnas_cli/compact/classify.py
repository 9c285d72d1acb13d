"""The closed list: which kind of `rules.RULES` each operation of a traced network is. What is not here is a barrier."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.drop import DropBlock2d, DropPath
from timm.layers.linear import Linear as TimmLinear
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import fx, nn

from pgnas_cli.compact.graph import ChannelNode, Geometry
from pgnas_cli.compact.layers import plain_size

CONVS = (nn.Conv2d, Conv2dSame)
LINEARS = (nn.Linear, TimmLinear)
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d, BatchNormAct2d, nn.SyncBatchNorm, SyncBatchNormAct)

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, DropPath, DropBlock2d)
_ACTIVATIONS = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.ELU, nn.SELU, nn.CELU),
    *(nn.Tanh, nn.Tanhshrink, nn.Softsign, nn.Hardshrink, nn.Softshrink),
)
_POOLS = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, MaxPool2dSame, AvgPool2dSame),
    *(nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)
_PER_MODULES = (*_ACTIVATIONS, *_DROPOUTS, *_POOLS)
_NONZERO_MODULES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid)

_PER: set[Any] = {
    *(F.relu, torch.relu, torch.relu_, F.relu_, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, F.mish, F.elu),
    *(torch.tanh, F.tanh, F.dropout, F.dropout2d, F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d),
    *(F.adaptive_max_pool2d, F.interpolate, torch.abs, torch.square, torch.sqrt, torch.neg, operator.neg),
    *("contiguous", "clone", "float", "relu", "relu_", "tanh", "tanh_", "abs", "square"),
}
_DIVIDE: set[Any] = {operator.truediv, operator.itruediv, torch.div, "div", "div_"}
_NONZERO: set[Any] = {torch.sigmoid, F.sigmoid, F.hardsigmoid, torch.exp, F.softplus, "sigmoid", "sigmoid_", "exp"}
_ADD: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_MUL: set[Any] = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_REDUCE: set[Any] = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}
_FLATTEN: set[Any] = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_SPLIT: set[Any] = {torch.split, torch.chunk, torch.functional.split, "split", "chunk"}
_CAT: set[Any] = {torch.cat, torch.concat, torch.concatenate}
_SIZES = ("shape", "size", "dim", "ndim", "device", "dtype")

Shape = tuple[int, ...]


class Finding(NamedTuple):
    """What the closed list says of one value; sources as torch.fx nodes."""

    kind: str
    sources: tuple[fx.Node, ...]
    fields: Mapping[str, Any] = {}


def classify(model: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, Any]) -> tuple[ChannelNode, ...]:
    """One `ChannelNode` for each node of `graph`.

    Args:
        model: the traced network (its weights are not read).
        shapes: node -> shape of its tensor, or list of shapes; absent if the value is something else.
    """
    return _Classifier(model, graph, shapes).run()


class _Classifier:
    def __init__(self, model: nn.Module, graph: fx.Graph, shapes: Mapping[fx.Node, Any]) -> None:
        self.model, self.graph, self.shapes = model, graph, shapes
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.nodes: dict[fx.Node, ChannelNode] = {}
        self.entangled = _entangled(model, self.modules, graph)

    def run(self) -> tuple[ChannelNode, ...]:
        for n in self.graph.nodes:
            self.nodes[n] = self._node(n)
        return tuple(self.nodes.values())

    def _node(self, n: fx.Node) -> ChannelNode:
        found = self._find(n)
        if found is None:
            found = Finding("barrier", tuple(a for a in n.all_input_nodes if self.nodes[a].kind != "meta"))
        shape = self._shape(n)
        channels = shape[1] if shape is not None and len(shape) >= 2 else 1
        fields: dict[str, Any] = {"channels": channels, "shape": shape, **found.fields}
        if n.op in ("call_module", "get_attr"):
            fields["name"] = str(n.target)
        if n.op == "call_module" and found.kind not in ("conv", "linear", "norm"):
            fields["params"] = plain_size(self.modules[str(n.target)])
        index = {a: node.index for a, node in self.nodes.items()}
        reads = tuple(index[a] for a in n.all_input_nodes if a not in found.sources)
        return ChannelNode(
            index=len(self.nodes),
            kind=found.kind,
            sources=tuple(index[a] for a in found.sources),
            reads=reads,
            fx_node=n,
            **fields,
        )

    def _shape(self, n: fx.Node) -> Shape | None:
        shape = self.shapes.get(n)
        return shape if isinstance(shape, tuple) else None

    def _find(self, n: fx.Node) -> Finding | None:
        if n.op == "placeholder":
            return Finding("input", ())
        if n.op == "output":
            return Finding("output", tuple(n.all_input_nodes))
        if n.op == "get_attr":
            return self._attribute(n)
        if self._is_meta(n):
            return Finding("meta", ())
        if n.op == "call_module":
            return self._module(n, self.modules[str(n.target)])
        return self._function(n)

    # values without channels ----------------------------------------------------------------------------------

    def _is_meta(self, n: fx.Node) -> bool:
        """Sizes and what is computed from them, unless the number of channels is read."""
        if n in self.shapes or n.op == "call_module":
            return False
        inputs = n.all_input_nodes
        if inputs and all(self.nodes[a].kind == "meta" for a in inputs):
            return True
        what = n.args[1] if n.target is getattr else n.target
        if what not in _SIZES or len(inputs) != 1 or self._shape(inputs[0]) is None:
            return False
        if what == "shape" or (what == "size" and len(n.args) == 1 and not n.kwargs):
            rank = len(self.shapes[inputs[0]])
            return all(u.target is operator.getitem and (not u.users or _skips(u.args[1], rank)) for u in n.users)
        return bool(what != "size") or (len(n.args) == 2 and _skips(n.args[1], len(self.shapes[inputs[0]])))

    def _attribute(self, n: fx.Node) -> Finding | None:
        """A parameter or buffer; of shape [C, 1, 1] with a single reader it has C units, else one."""
        shape = self._shape(n)
        value = operator.attrgetter(str(n.target))(self.model)
        per_channel = shape is not None and len(shape) == 3 and shape[1:] == (1, 1) and len(n.users) == 1
        units = shape[0] if per_channel and shape is not None else 1
        params = value.numel() // units if isinstance(value, nn.Parameter) else 0
        return Finding("attr", (), {"channels": units, "params": params})

    # modules --------------------------------------------------------------------------------------------------

    def _module(self, n: fx.Node, module: nn.Module) -> Finding | None:
        args = tuple(a for a in n.args if isinstance(a, fx.Node))
        shapes = [self._shape(a) for a in args]
        if len(args) != len(n.args) or n.kwargs or None in shapes or not args or self._shape(n) is None:
            return None
        rule = getattr(type(module), "channel_rule", None)
        if rule == "add":
            same = len(args) == 2 and shapes[0] == shapes[1] == self._shape(n)
            return Finding("mix", args) if same and args[0] is not args[1] else None
        if len(args) != 1:
            return None
        if rule == "per":
            return self._per(n, "per")
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm)):
            return None if str(n.target) in self.entangled else self._layer(n, module, args[0])
        if type(module) in _PER_MODULES or (type(module) is nn.Hardtanh and module.min_val <= 0 <= module.max_val):
            return self._per(n, "per")
        if type(module) in _NONZERO_MODULES:
            return self._per(n, "nonzero")
        return self._flatten(n, args[0]) if type(module) is nn.Flatten else None

    def _layer(self, n: fx.Node, module: nn.Module, source: fx.Node) -> Finding | None:
        kind, shape = getattr(type(module), "plain_class", type(module)), self.shapes[n]
        rank = len(self.shapes[source])
        if isinstance(module, nn.Conv2d) and kind in CONVS and rank == 4:
            size = (math.prod(module.kernel_size), shape[2] * shape[3], module.bias is not None)
            geometry = Geometry(module.in_channels, module.out_channels, module.groups, *size)
            return Finding("conv", (source,), {"geometry": geometry})
        if isinstance(module, nn.Linear) and kind in LINEARS and rank == 2:
            geometry = Geometry(module.in_features, module.out_features, 1, 1, 1, module.bias is not None)
            return Finding("linear", (source,), {"geometry": geometry})
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and kind in NORMS and rank in (2, 4):
            inner = [getattr(module, part, None) for part in ("drop", "act")]
            if module.affine and all(m is None or type(m) in _PER_MODULES for m in inner):
                return Finding("norm", (source,), {"params": 2})
        return None

    # functions and methods ------------------------------------------------------------------------------------

    def _function(self, n: fx.Node) -> Finding | None:
        target: Any = n.target
        if target in _SPLIT:
            return self._split(n)
        if self._shape(n) is None:
            return None
        rules: tuple[tuple[Any, Callable[[fx.Node], Finding | None]], ...] = (
            (_ADD, lambda n: self._binary(n, "add")),
            (_MUL, lambda n: self._binary(n, "mul")),
            (_PER, lambda n: self._per(n, "per")),
            (_DIVIDE, self._divide),
            (_NONZERO, lambda n: self._per(n, "nonzero")),
            (_REDUCE, self._reduce),
            (_FLATTEN, lambda n: self._flatten(n, n.args[0])),
            (_CAT, self._cat),
            ({F.pad}, self._pad),
            ({operator.getitem}, self._getitem),
        )
        return next((rule(n) for targets, rule in rules if target in targets), None)

    def _per(self, n: fx.Node, kind: str) -> Finding | None:
        """A function of its first operand alone that leaves the channel dimension where it is."""
        source, shape = n.args[0] if n.args else None, self._shape(n)
        if not isinstance(source, fx.Node) or shape is None:
            return None
        tensors = [a for a in n.all_input_nodes if self.nodes[a].kind != "meta"]
        before = self._shape(source)
        if tensors != [source] or before is None or self.nodes[source].kind == "attr":
            return None
        return Finding(kind, (source,)) if len(before) == len(shape) >= 2 and before[:2] == shape[:2] else None

    def _divide(self, n: fx.Node) -> Finding | None:
        by = n.args[1] if len(n.args) == 2 and not n.kwargs else None
        return self._per(n, "per") if isinstance(by, (int, float)) and by != 0 else None

    def _binary(self, n: fx.Node, kind: str) -> Finding | None:
        if len(n.args) != 2 or n.kwargs:
            return None
        numbers = [a for a in n.args if isinstance(a, (int, float))]
        if numbers:
            return self._scalar(n, "per" if kind == "mul" or numbers[0] == 0 else "nonzero")
        operands = tuple(dict.fromkeys(a for a in n.args if isinstance(a, fx.Node)))
        maps = tuple(a for a in operands if self.nodes[a].is_map)
        scales = [a for a in operands if self.nodes[a].kind == "attr"]
        shape, others = self.shapes[n], [self._shape(a) for a in operands]
        if not maps or len(maps) + len(scales) < len(operands) or len(shape) < 2:
            return None
        if scales and math.prod(others[operands.index(scales[0])] or ()) == 1:
            one = "per" if kind == "mul" else "nonzero"
            return Finding(one, maps) if self._shape(maps[0]) == shape else None
        for a, other in zip(operands, others, strict=True):
            if other is None or not (self._per_channel(a, shape) if a in scales else _aligned(other, shape, kind)):
                return None
        return Finding(kind, operands)

    def _per_channel(self, attribute: fx.Node, shape: Shape) -> bool:
        """Whether the attribute holds one number for each channel of a map of `shape`, for one reader alone."""
        single = self.nodes[attribute].channels == shape[1]
        return single and len(shape) == 4 and self._shape(attribute) == (shape[1], 1, 1)

    def _scalar(self, n: fx.Node, kind: str) -> Finding | None:
        tensors = tuple(a for a in n.args if isinstance(a, fx.Node))
        usable = len(tensors) == 1 and self._shape(tensors[0]) == self._shape(n) and self.nodes[tensors[0]].is_map
        return Finding(kind, tensors) if usable else None

    def _reduce(self, n: fx.Node) -> Finding | None:
        """mean, sum or maximum over positions only; with keepdim or down to [B, C]."""
        source = n.args[0]
        dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
        before = self._shape(source) if isinstance(source, fx.Node) else None
        if before is None or dims is None or not isinstance(source, fx.Node) or n.all_input_nodes != [source]:
            return None
        listed = dims if isinstance(dims, (tuple, list)) else (dims,)
        if not listed or not self.nodes[source].is_map or not all(_position(d, len(before)) for d in listed):
            return None
        return Finding("per", (source,))

    def _flatten(self, n: fx.Node, source: Any) -> Finding | None:
        """[B, C, ...] -> [B, C x ...], whichever way it is spelled."""
        before, shape = self._shape(source) if isinstance(source, fx.Node) else None, self._shape(n)
        if before is None or shape is None or len(before) < 2:
            return None
        if shape != (before[0], math.prod(before[1:])) or not self.nodes[source].is_map:
            return None
        return Finding("flatten", (source,))

    def _cat(self, n: fx.Node) -> Finding | None:
        tensors, shape = n.args[0], self.shapes[n]
        dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", 0)
        if not isinstance(tensors, (tuple, list)) or not isinstance(dim, int) or dim % len(shape) != 1:
            return None
        maps = tuple(a for a in tensors if isinstance(a, fx.Node) and self.nodes[a].is_map)
        return Finding("cat", maps) if len(maps) == len(tensors) else None

    def _pad(self, n: fx.Node) -> Finding | None:
        """Padding of positions; not with a constant other than 0."""
        pad = n.args[1] if len(n.args) > 1 else n.kwargs.get("pad")
        value = n.args[3] if len(n.args) > 3 else n.kwargs.get("value")
        rank = len(self.shapes[n])
        if not isinstance(pad, (tuple, list)) or len(pad) > 2 * (rank - 2) or value not in (None, 0):
            return None
        return self._per(n, "per")

    def _split(self, n: fx.Node) -> Finding | None:
        """split or chunk along the channels whose parts are all taken by number."""
        source, parts = n.args[0], self.shapes.get(n)
        dim = n.kwargs.get("dim", n.args[2] if len(n.args) > 2 else 0)
        if not isinstance(source, fx.Node) or not isinstance(dim, int) or not isinstance(parts, list):
            return None
        taken = all(u.target is operator.getitem and isinstance(u.args[1], int) for u in n.users)
        if not taken or not self.nodes[source].is_map or dim % len(parts[0]) != 1:
            return None
        return Finding("split", (source,))

    def _getitem(self, n: fx.Node) -> Finding | None:
        source, key = cast(tuple[Any, Any], n.args)
        if not isinstance(source, fx.Node):
            return None
        if self.nodes[source].kind == "split" and isinstance(key, int):
            sizes = [shape[1] for shape in self.shapes[source]]
            start = sum(sizes[: key % len(sizes)])
            tensor = source.all_input_nodes[0]
            return Finding("slice", (tensor,), {"span": (start, start + sizes[key % len(sizes)])})
        before = self._shape(source)
        plain = isinstance(key, tuple) and all(isinstance(s, slice) and _constant(s) for s in key)
        if before is None or not plain or not isinstance(key, tuple) or not self.nodes[source].is_map:
            return None
        if key[0] != slice(None):
            return None
        if len(key) == 1 or key[1] == slice(None):
            return Finding("per", (source,))
        positions = all(s == slice(None) for s in key[2:])
        start, stop, step = key[1].indices(before[1])
        return Finding("slice", (source,), {"span": (start, stop)}) if positions and step == 1 else None


def _entangled(model: nn.Module, modules: Mapping[str, nn.Module], graph: fx.Graph) -> set[str]:
    """Names of modules that cannot be cut for one caller alone: called more than once, sharing a parameter with
    another module, or read by attribute."""
    calls = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    owners = Counter(id(p) for m in dict.fromkeys(modules.values()) for p in m.parameters(recurse=False))
    read = {str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"}
    return {
        name
        for name, m in modules.items()
        if name in read or calls[id(m)] > 1 or any(owners[id(p)] > 1 for p in m.parameters(recurse=False))
    }


def _aligned(other: Shape, shape: Shape, kind: str) -> bool:
    """Whether an operand has the result's channels; the operands of a sum must not be broadcast."""
    return len(other) == len(shape) and other[1] == shape[1] and (kind == "mul" or other == shape)


def _position(dim: Any, rank: int) -> bool:
    return isinstance(dim, int) and dim % rank >= 2


def _skips(key: Any, rank: int) -> bool:
    """Whether indexing a shape of `rank` sizes with `key` leaves the number of channels (at 1) unread."""
    if isinstance(key, int):
        return key % rank != 1
    return isinstance(key, slice) and _constant(key) and 1 not in range(rank)[key]


def _constant(s: slice) -> bool:
    return not any(isinstance(v, fx.Node) for v in (s.start, s.stop, s.step))
