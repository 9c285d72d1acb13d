"""What the small network will cost in expectation, as fast as a training step needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgnas_cli.compact.graph import ChannelGraph
from pgnas_cli.compact.liveness import Cost, count, expected_with
from pgnas_cli.compact.tape import Tape


def expected_cost(graph: ChannelGraph, keep_probs: Mapping[str, Tensor]) -> Cost[Tensor]:
    """`count` of `expected`: E[parameters] and E[MACs] of the compact network for independent gates.

    Computed in float64 on the CPU, whatever the device of the probabilities, in one operation of autograd.

    Args:
        keep_probs: as for `expected`.

    Returns:
        Scalar tensors of the probabilities' dtype and device, differentiable in them, once.

    Raises:
        UsageError: a name cannot carry a mask, or a length is wrong.
    """
    if not keep_probs:
        cost = count(graph, expected_with(graph, Tape(remember=False), {}))
        return Cost(torch.tensor(cost.params.data), torch.tensor(cost.macs.data))
    flat = torch.cat([keep.reshape(-1) for keep in keep_probs.values()])
    params, macs = _ExpectedCost.apply(flat, graph, {name: len(keep) for name, keep in keep_probs.items()})
    return Cost(params, macs)


class _ExpectedCost(torch.autograd.Function):
    """Keep probabilities, side by side -> E[parameters], E[MACs]."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, graph: ChannelGraph, lengths: Mapping[str, int]) -> tuple[Tensor, Tensor]:
        tape, ends = Tape(remember=ctx.needs_input_grad[0]), np.cumsum([*lengths.values()])[:-1]
        parts = np.split(flat.detach().cpu().double().numpy(), ends)
        keep = dict(zip(lengths, map(tape.variable, parts), strict=True))
        cost = count(graph, expected_with(graph, tape, keep))
        ctx.tape, ctx.keep, ctx.cost, ctx.like = tape, [*keep.values()], (cost.params, cost.macs), flat.detach()[:0]
        params, macs = flat.new_tensor([cost.params.data, cost.macs.data])
        return params, macs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("an expected cost can be differentiated once: leave create_graph out")
        seeds = [(number, float(grad)) for number, grad in zip(ctx.cost, grads, strict=True)]
        return ctx.like.new_tensor(np.concatenate(ctx.tape.gradients(seeds, ctx.keep))), None, None
