"""From a candidate to the network that is written: its layout, its folding, the files for other runtimes.

Each step is compared with the one before it on the probe images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgnas_cli.compact import CompactNetwork
from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import PgnasError, UsageError
from pgnas_cli.export.auto_layout import BATCH, measure_layouts
from pgnas_cli.export.fold import fold_batch_norms
from pgnas_cli.export.onnx_file import ONNX, require_onnx, write_onnx
from pgnas_cli.export.pt2_file import PT2, capture, write_pt2
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.supernet.supernet import Supernet

LAYOUTS = ("gather", "dense", "auto")
BUG = "this is a bug: report it with the run's run.json"


@dataclass(frozen=True)
class Deployment:
    """How a network is written.

    Args:
        layout: "gather", "dense", or "auto": the one that is measured to be faster.
        fold_bn: fold BatchNorms into the layers in front of them.
        onnx: also write model.onnx.
        pt2: also write model.pt2.

    Raises:
        UsageError: an unknown layout; packages that model.onnx needs are not installed.
    """

    layout: str = "gather"
    fold_bn: bool = False
    onnx: bool = False
    pt2: bool = False

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(
                f"--layout {self.layout!r} was given, it should be auto, gather or dense", "--layout gather"
            )
        if self.onnx:
            require_onnx()

    @property
    def files(self) -> list[str]:
        """The names of the files for other runtimes."""
        return [name for name, wanted in ((ONNX, self.onnx), (PT2, self.pt2)) if wanted]


@dataclass(frozen=True)
class Built:
    """A network, ready to be written.

    Args:
        network: in evaluation mode, on the CPU.
        layout: "gather" or "dense".
        layout_choice: what was measured for "auto"; None where the layout was given.
        differences: relative differences of the logits: "masked" of the compact network from the masked one, "folded"
            of the folded from the compact one.
    """

    network: CompactNetwork
    layout: str
    layout_choice: dict[str, Any] | None
    differences: dict[str, float]


def build(evaluator: Evaluator, candidate: Candidate, images: Tensor, wanted: Deployment) -> Built:
    """The compact network of a candidate as it was ranked, in its layout, folded if that is wanted.

    Args:
        images: [P, C, H, W] probe images.

    Raises:
        PgnasError: it differs from the masked network, or the folded one from it, by more than 1e-5.
    """
    layout, choice = wanted.layout, None
    if layout == "auto":
        layout, choice = measure_layouts(evaluator.net, candidate, evaluator.data.probe(BATCH))
    with evaluator.ready(candidate), torch.no_grad():
        masked = evaluator.net(images)
        network = evaluator.net.compact(candidate, layout=layout)
        logits = network(images)
    _restore_momentum(network, evaluator.net)
    differences = {"masked": _proved(f"the compact network of {candidate.id}", logits, "masked one", masked)}
    if wanted.fold_bn:
        network = fold_batch_norms(network)
        with torch.no_grad():
            folded = network(images)
        differences["folded"] = _proved("the network with folded BatchNorms", folded, "one without", logits)
    return Built(network, layout, choice, differences)


def _restore_momentum(network: CompactNetwork, net: Supernet) -> None:
    """Give every BatchNorm the supernet's own momentum: inside `Evaluator.ready` recalibration has another."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            norm = net.backbone.get_submodule(name)
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            module.momentum = norm.momentum


def _proved(what: str, logits: Tensor, other: str, expected: Tensor) -> float:
    difference = relative_difference(logits, expected)
    if difference > TOLERANCE:
        raise PgnasError(
            f"{what} differs from the {other} by {difference:.1e}, at most {TOLERANCE:.0e} is allowed", BUG
        )
    return difference


def file_writer(
    network: CompactNetwork, images: Tensor, wanted: Deployment, differences: dict[str, float]
) -> Callable[[Path], None]:
    """What writes model.onnx and model.pt2, as far as they are wanted, into a folder.

    Args:
        differences: gains, by the name of each file, how much its logits differ from the network's.
    """

    def write(folder: Path) -> None:
        if not wanted.files:
            return
        with torch.no_grad():
            logits = network(images)
        program = capture(network, images)
        if wanted.onnx:
            differences[ONNX] = write_onnx(folder / ONNX, program, images, logits)
        if wanted.pt2:
            differences[PT2] = write_pt2(folder / PT2, program, images, logits)

    return write
