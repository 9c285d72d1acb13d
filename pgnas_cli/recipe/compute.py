"""How the arithmetic of a training is carried out."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Compute:
    """Precision, memory layout and compilation.

    Args:
        amp: "none", "bfloat16", or "float16" with a gradient scaler (GPUs only): the type that autocast computes
            convolutions and linear layers in. Weights, drop logits, the noise and the loss stay float32.
        channels_last: whether images and weights lie in memory as NHWC.
        compile: whether the network goes through torch.compile.
        accumulate: parts that each process cuts its images of a step into, to need less memory. Gradients are those of
            the whole step, but BatchNorm sees one part at a time.
        sync_bn: whether BatchNorm computes its statistics over all processes (GPUs only); otherwise each process has
            its own, averaged before they are saved.
    """

    amp: str = "none"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    sync_bn: bool = False

    def __post_init__(self) -> None:
        check(
            self.amp in ("none", "bfloat16", "float16"),
            f"compute.amp is {self.amp!r}, it should be none, bfloat16 or float16",
            "--amp bfloat16",
        )
        check(
            self.accumulate >= 1,
            f"compute.accumulate is {self.accumulate}, it should be at least 1",
            "--accumulate 4",
        )
