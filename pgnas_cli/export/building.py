"""The network of a structure, without weights, within bounds on what it takes to build and to run.

The backbone is built and traced on the meta device. Its channels are counted before any array over them is made, the
parameters and multiply-adds of the small network before it is.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from pgnas_cli import compact as compaction
from pgnas_cli import registry
from pgnas_cli.compact.trace import PROBE_BATCH
from pgnas_cli.errors import PgnasError, RunError, one_line
from pgnas_cli.export.artifact import DAMAGED, PROBES
from pgnas_cli.export.structure import Structure
from pgnas_cli.strict_json import shown

MOST_UNITS = 2**25
"""Channels of all values of a traced network together. EfficientNet-L2 at 800 pixels, the largest convolutional network
of timm, has 2.4 million."""
MOST_PARAMETERS = 2**31
"""Of a network, and of its backbone: no convolutional one of timm has half as many."""
MOST_MACS = 2**42
"""Multiply-adds of all probe images together: EfficientNet-L2 takes 3.8e12, a ResNet-50 3.3e10."""
MOST_NUMBERS = 2**30
"""Numbers of any one value for all probe images, 4 GiB: EfficientNet-L2 has 5.5e8, a ResNet-50 6.4e6."""


def build_structure(
    structure: Structure, masks: Mapping[str, np.ndarray], where: str, *, stored: int = MOST_PARAMETERS
) -> compaction.CompactNetwork:
    """The compact network of a structure in evaluation mode, its weights on the meta device.

    Args:
        structure: of `structure_of`.
        masks: its `Structure.masks`.
        where: for messages.
        stored: numbers that the weights file holds; a network with more parameters is refused before it is built.

    Raises:
        RunError: the backbone cannot be built, the masks do not fit it, or the network is too large.
    """
    backbone, graph = trace_structure(structure, masks, where)
    cost = compaction.count(graph, compaction.analyse(graph, masks))
    # A folded norm's scale and shift become one bias: the network has at least a third of what it has unfolded.
    if cost.params > stored * (3 if structure.fold_bn else 1):
        raise RunError(f"{where}: its network has {cost.params} parameters, {stored} numbers are stored", DAMAGED)
    largest = max(math.prod(node.shape) for node in graph.nodes if node.shape is not None) // PROBE_BATCH
    if PROBES * cost.macs > MOST_MACS or PROBES * largest > MOST_NUMBERS:
        raise RunError(
            f"{where}: its network takes {cost.macs} multiply-adds and a map of {largest} numbers an image, "
            f"at most {MOST_MACS // PROBES} and {MOST_NUMBERS // PROBES} are computed",
            DAMAGED,
        )
    network = compaction.compact(graph, backbone, masks, layout=structure.layout)
    if structure.fold_bn:
        from pgnas_cli.export.fold import fold_batch_norms

        network = fold_batch_norms(network)
    return network.eval()


def trace_structure(
    structure: Structure, masks: Mapping[str, np.ndarray], where: str
) -> tuple[nn.Module, compaction.ChannelGraph]:
    """The backbone on the meta device, and its channel graph without what was folded away.

    Raises:
        RunError: the backbone cannot be built, is too large, or is not what the masks or folded layers are of.
    """
    spec = structure.spec
    try:
        with torch.device("meta"), _unheard():
            backbone = registry.build_model(spec).eval()
    except PgnasError as error:
        raise RunError(f"{where}: its backbone cannot be built: {one_line(error)}", error.hint or DAMAGED) from None
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    if parameters > MOST_PARAMETERS:
        raise RunError(
            f"{where}: {spec.arch} has {parameters} parameters, at most {MOST_PARAMETERS} are built", DAMAGED
        )
    modules = dict(backbone.named_modules())
    for name, size in structure.sizes.items():
        module = modules.get(name)
        inputs = getattr(module, "in_channels", getattr(module, "in_features", None))
        if size != inputs and (size != getattr(module, "groups", 1) or size == 1):
            found = "no such layer" if inputs is None else f"one of {inputs} channels"
            raise RunError(
                f"{where}: the masks do not fit {spec.arch}: {shown(name)} has {size} channels, there is {found}",
                DAMAGED,
            )
    try:
        with _unheard():
            graph = compaction.trace(backbone, (spec.in_chans, spec.img_size, spec.img_size), check=False)
    except Exception as error:  # whatever a network's own code raises at sizes that it was not made for
        raise RunError(
            f"{where}: {spec.arch} cannot be captured at {spec.img_size} x {spec.img_size} pixels: {one_line(error)}",
            DAMAGED,
        ) from None
    units = sum(node.channels for node in graph.nodes)
    if units > MOST_UNITS:
        raise RunError(f"{where}: {spec.arch} has {units} channels, at most {MOST_UNITS} are read", DAMAGED)
    try:
        graph = graph.folded(structure.folded)
        for name, mask in masks.items():
            graph.masked_node(name, mask)
    except PgnasError as error:
        raise RunError(f"{where}: the masks do not fit {spec.arch}: {one_line(error)}", DAMAGED) from None
    return backbone, graph


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Without the warnings of a network's own code, about sizes that a configuration named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
