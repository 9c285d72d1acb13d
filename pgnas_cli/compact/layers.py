"""Cutting single layers down: which rows and columns stay, and fresh copies that hold only those."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli.compact.graph import Geometry

_PLAIN = {
    nn.Conv2d: frozenset(vars(nn.Conv2d(1, 1, 1, device="meta"))),
    nn.Linear: frozenset(vars(nn.Linear(1, 1, device="meta"))),
}
"""The attributes of a plain layer, so that those of a subclass (a gate, say) stay behind."""
_MACHINERY = frozenset(vars(nn.Module()))
_PARTS = frozenset({"_parameters", "_buffers", "_modules"})
_COPIED = _PARTS | {"training", "_non_persistent_buffers_set"}
"""What `copy_plain` takes over of the machinery."""
_IMMUTABLE = (bool, int, float, str, type(None))


class Cut(NamedTuple):
    """What stays of a convolution or linear layer.

    outputs: ids of the output channels, [groups * rows]. inputs: ids of the input channels in the order in which
    the layer reads them, [groups * columns]. columns: the same as positions within the group, [groups, columns].
    filled: False where a column only pads its group to the width of the fullest (weight 0), [groups, columns].
    """

    outputs: np.ndarray
    inputs: np.ndarray
    columns: np.ndarray
    filled: np.ndarray


def plan_cut(geometry: Geometry, kept: np.ndarray, live: np.ndarray) -> Cut:
    """Rows and columns for `kept` inputs [in_channels] and `live` outputs [out_channels].

    All groups of a torch convolution are equally large: narrower groups repeat their first input with weight 0, and
    groups with fewer live outputs keep some that nobody reads.
    """
    n, width, height = (
        geometry.groups,
        geometry.in_channels // geometry.groups,
        geometry.out_channels // geometry.groups,
    )
    live_GO, kept_GI = live.reshape(n, height), kept.reshape(n, width)
    groups = np.flatnonzero(live_GO.any(1))
    outputs, _ = _first(live_GO[groups])
    columns, filled = _first(kept_GI[groups])
    columns = np.where(filled, columns, columns[:, :1])
    return Cut(
        (groups[:, None] * height + np.sort(outputs, 1)).reshape(-1),
        (groups[:, None] * width + columns).reshape(-1),
        columns,
        filled,
    )


def _first(wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the true entries of each row, filled up with false ones to the length of the fullest row, and
    which of them are true: [G, n] -> [G, m], [G, m]."""
    if not len(wanted):
        return np.zeros((0, 1), int), np.zeros((0, 1), bool)
    most = int(wanted.sum(1).max())
    order = np.argsort(~wanted, axis=1, kind="stable")[:, :most]
    return order, np.take_along_axis(wanted, order, 1)


def select(tensor: Tensor, dim: int, ids: np.ndarray) -> Tensor:
    """A fresh, contiguous copy of the entries `ids` along `dim`."""
    tensor = tensor.detach()
    if len(ids) == tensor.shape[dim] and (ids == np.arange(len(ids))).all():
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.index_select(dim, torch.from_numpy(ids).to(tensor.device)).contiguous()


def cut_weight(weight: Tensor, cut: Cut) -> Tensor:
    """[out, in / groups, ...] -> [outputs, columns, ...]."""
    rows = select(weight, 0, cut.outputs)
    if len(cut.columns) == 1:
        return select(rows, 1, cut.columns[0]) if cut.columns.shape[1] < rows.shape[1] else rows
    n, wide = cut.columns.shape
    if wide == weight.shape[1] and cut.filled.all():
        return rows
    height = len(cut.outputs) // n
    shape = (len(cut.outputs), wide, *(1,) * (weight.dim() - 2))
    index = torch.from_numpy(cut.columns.repeat(height, 0)).to(weight.device).view(shape)
    filled = torch.from_numpy(cut.filled.repeat(height, 0)).to(weight.device, weight.dtype).view(shape)
    return rows.gather(1, index.expand(-1, -1, *weight.shape[2:])) * filled


def copy_layer(module: nn.Module, tensors: Mapping[str, Tensor | None], **attributes: Any) -> nn.Module:
    """A fresh layer like `module` with other parameters, buffers and attributes, and without hooks.

    Its class is the `plain_class` of the module's class, if that has one (then only what a plain convolution or
    linear layer has is taken over), else the same. `tensors` must name every parameter and buffer that shall remain.
    """
    kind = getattr(type(module), "plain_class", None)
    known = None if kind is None else next(names for base, names in _PLAIN.items() if issubclass(kind, base))
    kind = kind or type(module)
    new: nn.Module = kind.__new__(kind)
    nn.Module.__init__(new)
    for name, value in vars(module).items():
        if name not in _MACHINERY and (known is None or name in known):
            vars(new)[name] = value
    vars(new).update(attributes)
    for name, tensor in tensors.items():
        if name in module._parameters:
            new.register_parameter(name, None if tensor is None else nn.Parameter(tensor))
        else:
            new.register_buffer(name, tensor, persistent=name not in module._non_persistent_buffers_set)
    if known is None:
        for name, child in module.named_children():
            new.add_module(name, copy_module(child))
    new.training = module.training
    return new


def copy_module(module: nn.Module) -> nn.Module:
    """A deep copy that shares nothing, trains all its floating-point parameters, does nothing in place and holds
    plain classes."""
    if hasattr(type(module), "plain_class"):
        return copy_layer(module, {n: p.detach().clone() for n, p in module.named_parameters(recurse=False)})
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    new = copy_plain(module, {id(tensor): copy.deepcopy(tensor) for tensor in tensors}) or copy.deepcopy(module)
    for name, part in list(new.named_modules()):
        if getattr(part, "inplace", False) is True:
            part.inplace = False
        if hasattr(type(part), "plain_class"):
            new.set_submodule(name, copy_module(part))
    for parameter in new.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return new


def copy_plain(module: nn.Module, memo: Mapping[int, Any]) -> nn.Module | None:
    """What `copy.deepcopy` makes of a module that holds tensors, children and settings only, without its walk.

    Args:
        module: any.
        memo: id of each of its parameters and buffers -> the tensor that takes its place; of a child -> its copy.

    Returns:
        None if a child is not in `memo`, or if it has more: hooks, other attributes, a way of its own to be copied.
    """
    attributes = vars(module)
    if hasattr(type(module), "__deepcopy__") or not all(map(_is_plain, attributes, attributes.values())):
        return None
    if any(id(child) not in memo for child in module.children()):
        return None
    new: nn.Module = type(module).__new__(type(module))
    nn.Module.__init__(new)
    for name, value in attributes.items():
        if name in _PARTS:
            vars(new)[name] = {n: None if part is None else memo[id(part)] for n, part in value.items()}
        elif name in _COPIED or name not in _MACHINERY:
            vars(new)[name] = copy.copy(value)
    return new


def _is_plain(name: str, value: Any) -> bool:
    """Whether `copy_plain` can copy an attribute of a module, or leave it out."""
    if name in _MACHINERY:
        return name in _COPIED or not value
    return isinstance(value, _IMMUTABLE) or (
        type(value) in (tuple, list) and all(isinstance(part, _IMMUTABLE) for part in value)
    )


def plain_size(module: nn.Module) -> int:
    """Number of parameters of `copy_module(module)`."""
    plain = (m for m in module.modules() if hasattr(type(m), "plain_class"))
    left = {id(p) for m in plain for child in m.children() for p in child.parameters()}
    return sum(p.numel() for p in module.parameters() if id(p) not in left)
