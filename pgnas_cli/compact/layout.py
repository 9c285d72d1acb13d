"""Which channels each value of the small network holds, and how a reader gets the ones it wants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pgnas_cli.compact.graph import ChannelGraph, ChannelNode
from pgnas_cli.compact.network import ChannelGather, ChannelScatter

PRIVATE = "pgnas_index"
"""Where index layers live in the small network; underscores are appended if the backbone uses the name."""


class Layout:
    """The graph under construction.

    values: by node index, the new torch.fx node; None for a value that is wholly dead or that nobody needs.
    present: by node index, the ascending ids of the channels that it holds; never a dead one.
    """

    def __init__(self, graph: ChannelGraph, model: nn.Module) -> None:
        self.graph = graph
        self.out, self.root = fx.Graph(), nn.Module()
        self.values: list[Any] = [None] * len(graph.nodes)
        self.present: list[np.ndarray] = [np.empty(0, int)] * len(graph.nodes)
        first = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._device = torch.device("cpu") if first.type == "meta" else first
        self._private = PRIVATE
        while hasattr(model, self._private):
            self._private += "_"
        self._cache: dict[tuple[int, bytes], fx.Node] = {}
        self._batch = graph.nodes[0].shape[0] if graph.nodes[0].shape else 1

    def set(self, index: int, value: Any, present: np.ndarray) -> None:
        """Note the new value of a node and the channels that it holds."""
        self.values[index], self.present[index] = value, present

    def _parent(self, name: str) -> tuple[nn.Module, str]:
        *path, last = name.split(".")
        parent = self.root
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        return parent, last

    def put(self, name: str, module: nn.Module) -> None:
        """Add a module under its dotted name."""
        parent, last = self._parent(name)
        parent.add_module(last, module)

    def put_tensor(self, name: str, tensor: Tensor) -> None:
        """Add a parameter or buffer under its dotted name."""
        parent, last = self._parent(name)
        if isinstance(tensor, nn.Parameter):
            parent.register_parameter(last, tensor)
        else:
            parent.register_buffer(last, tensor)

    def has(self, name: str) -> bool:
        """Whether a module of this name has been added."""
        parent, last = self._parent(name)
        return last in parent._modules

    def private_name(self, reader: str) -> str:
        """A free name for a layer of our own that serves `reader`."""
        name, n = f"{self._private}.{reader}", 1
        while self.has(name):
            n += 1
            name = f"{self._private}.{reader}_{n}"
        return name

    def index_layer(self, reader: str, kind: Any, ids: np.ndarray, *args: Any, **options: Any) -> fx.Node:
        """Add and call a gather, scatter or partial sum."""
        name = self.private_name(reader)
        index = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)).to(self._device)
        self.put(name, kind(index, **options))
        return self.out.call_module(name, args)

    def zeros(self, node: ChannelNode) -> fx.Node:
        """A map without channels: the batch of the image, the traced height and width."""
        image = self.values[0]
        batch = self.out.call_method("size", (image, 0))
        shape = node.shape
        assert shape is not None, node
        times, rest = divmod(shape[0], self._batch)
        first = batch if times == 1 and not rest else shape[0]
        if times > 1 and not rest:
            first = self.out.call_function(torch.mul, (batch, times))
        return self.out.call_method("new_zeros", (image, (first, 0, *shape[2:])))

    def any_layout(self, node: ChannelNode) -> Any:
        """The value in whatever layout it has, for a reader of its size."""
        value = self.values[node.index]
        return self.zeros(node) if value is None and node.is_map else value

    def take(self, node: ChannelNode, ids: np.ndarray, reader: str) -> fx.Node:
        """Channels `ids` of a value, all of them present, in that order (repetitions allowed)."""
        present, value = self.present[node.index], self.values[node.index]
        if value is None:
            assert not len(ids), (node, ids)
            return self.zeros(node)
        if np.array_equal(present, ids):
            found: fx.Node = value
            return found
        key = (node.index, ids.tobytes())
        if key not in self._cache:
            positions = np.searchsorted(present, ids)
            self._cache[key] = self.index_layer(reader, ChannelGather, positions, value)
        return self._cache[key]

    def fit(self, node: ChannelNode, ids: np.ndarray, reader: str) -> fx.Node:
        """Channels `ids` (ascending) of a value, zeros for those that are dead."""
        here = np.isin(ids, self.present[node.index], assume_unique=True)
        x = self.take(node, ids[here], reader)
        if here.all():
            return x
        return self.index_layer(reader, ChannelScatter, np.flatnonzero(here), x, channels=len(ids))
