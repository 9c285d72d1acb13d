"""What is alive and needed, by arithmetic alone: it knows none of the rules that are under test.

In a float64 copy with positive weights, masked ones 0, without biases and shifts, every path adds something
positive: a channel is alive iff its activation is not 0, and needed iff the gradient of the outputs is not 0 there.
Valid for networks whose operations are positive and monotonic on positive numbers (no layer normalisation).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Found(NamedTuple):
    """Of one convolution, bool: alive and live (alive and needed) [out_channels]; used [in_channels], the inputs that
    are kept, alive and needed."""

    alive: np.ndarray
    live: np.ndarray
    used: np.ndarray


def positive_copy(model: nn.Module, masks: Mapping[str, np.ndarray]) -> nn.Module:
    """The copy described above, in evaluation mode."""
    twin = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, module in twin.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            weight = (torch.rand(module.weight.shape, generator=generator).double() + 0.5) / fan
            if name in masks:
                groups = getattr(module, "groups", 1)
                inputs = module.weight.shape[1]
                mask = masks[name] if len(masks[name]) == inputs * groups else masks[name].repeat(inputs)
                rows = mask.reshape(groups, inputs).repeat(module.weight.shape[0] // groups, axis=0)
                weight[~torch.from_numpy(rows)] = 0
            module.weight.data = weight
            if module.bias is not None:
                module.bias.data.zero_()
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.weight.data.fill_(0.5)
            for tensor in (module.bias, module.running_mean):
                tensor.data.zero_()
            module.running_var.fill_(1)
        if hasattr(module, "inplace"):
            module.inplace = False
    return twin


def examine(model: nn.Module, masks: Mapping[str, np.ndarray], input_size: tuple[int, int, int]) -> dict[str, Found]:
    """`Found` by name of the convolution, for those that the network calls."""
    twin = positive_copy(model, masks)
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        return hook

    convs = {name: m for name, m in twin.named_modules() if isinstance(m, nn.Conv2d)}
    for name, module in convs.items():
        module.register_forward_hook(keep(name))
    images = (torch.rand(2, *input_size, generator=torch.Generator().manual_seed(1)) + 0.5).double()
    twin(images).sum().backward()
    found = {}
    for name, output in outputs.items():
        alive = (output.detach() != 0).transpose(0, 1).flatten(1).any(1)
        grad = torch.zeros_like(output) if output.grad is None else output.grad
        needed = (grad != 0).transpose(0, 1).flatten(1).any(1)
        weight, groups = convs[name].weight, convs[name].groups
        touched = torch.zeros_like(weight) if weight.grad is None else weight.grad * (weight != 0)
        used = (touched.unflatten(0, (groups, -1)) != 0).transpose(1, 2).flatten(2).any(2).flatten()
        found[name] = Found(alive.numpy(), (alive & needed).numpy(), used.numpy())
    return found
