"""A candidate inside the large network: masks written into the weights, the forward pass left as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli.compact.graph import ChannelGraph
from pgnas_cli.compact.liveness import analyse
from pgnas_cli.compact.rules import geometry_of


def masked_parameters(graph: ChannelGraph, model: nn.Module, masks: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Substitutes for the parameters of `model` that make it compute what the compact network computes.

    weight * kept over the inputs of convolutions and linear layers; convolution bias * alive; BatchNorm weight and
    bias * alive. Only parameters that change are listed; the products are differentiable in the parameters.

    Args:
        masks: as for `analyse`.

    Returns:
        Parameter name -> tensor of the parameter's shape, as `torch.func.functional_call` takes it.

    Raises:
        UsageError: as `analyse`.
    """
    state = analyse(graph, masks)
    parameters = dict(model.named_parameters())
    result: dict[str, Tensor] = {}

    def keep(name: str, factor: np.ndarray) -> None:
        parameter = parameters.get(name)
        if parameter is not None and not factor.all():
            result[name] = parameter * torch.from_numpy(np.array(factor)).to(parameter.device, parameter.dtype)

    for node in graph.nodes:
        if node.geometry is not None:
            geometry = geometry_of(node)
            kept = state.kept(node.index).reshape(geometry.groups, -1)
            rows = kept.repeat(geometry.out_channels // geometry.groups, axis=0) if geometry.groups > 1 else kept
            keep(f"{node.name}.weight", rows[:, :, None, None] if node.kind == "conv" else rows)
            keep(f"{node.name}.bias", state.alive[node.index])
        elif node.kind == "norm":
            keep(f"{node.name}.weight", state.alive[node.index])
            keep(f"{node.name}.bias", state.alive[node.index])
    return result


@contextmanager
def apply_masks(graph: ChannelGraph, model: nn.Module, masks: Mapping[str, np.ndarray]) -> Iterator[nn.Module]:
    """Within the context `model` is the candidate; on leaving it, also by an exception, its weights are back.

    The parameters stay the same objects and their values are restored bit by bit (their storage is swapped, not
    written to). Changes made to a masked parameter inside the context are lost.

    Raises:
        UsageError: as `analyse`; the model is then untouched.
    """
    with torch.no_grad():
        substitutes = masked_parameters(graph, model, masks)
    parameters = dict(model.named_parameters())
    originals = {name: parameters[name].data for name in substitutes}
    try:
        for name, tensor in substitutes.items():
            parameters[name].data = tensor
        yield model
    finally:
        for name, tensor in originals.items():
            parameters[name].data = tensor
