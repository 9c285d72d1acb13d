"""BatchNorm recalibration: running statistics of one candidate instead of the whole posterior."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def recalibrated(model: nn.Module, images: Iterable[Tensor]) -> Iterator[None]:
    """Inside, BatchNorm's running mean and variance are those of `images` under the model as it is.

    Every layer's statistics are the average over the batches of its batch mean and unbiased batch variance (momentum
    None in torch). Only BatchNorm is put into training mode for the pass: gates, dropout and shake-shake noise stay
    off. Leaving restores statistics, momentum and training flags bit for bit, also after an exception.

    Args:
        model: in evaluation mode, masks already applied.
        images: batches of normalised images; none leaves the statistics alone.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    saved = [
        (norm.momentum, norm.training, {name: buffer.clone() for name, buffer in norm.named_buffers()})
        for norm in norms
    ]
    try:
        batches = iter(images)
        first = next(batches, None)
        if first is not None:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            with torch.no_grad():
                model(first)
                for batch in batches:
                    model(batch)
            for norm, (_, training, _) in zip(norms, saved, strict=True):
                norm.train(training)
        yield
    finally:
        for norm, (momentum, training, buffers) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.train(training)
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
