"""What a training writes of every epoch: log.jsonl, posterior.jsonl, and TensorBoard's files if they are asked for.

train/log.jsonl        one object an epoch: the terms of the loss, accuracies, expected cost, rates, speed, warnings
train/posterior.jsonl  {"epoch": n, "p": {layer: [p of every group]}}
train/tensorboard/     the numbers of both as scalars, p also as a histogram; the step is the epoch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.run import RunDirectory, append_jsonl
from pgnas_cli.training.checkpoint import cut_log

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG, POSTERIOR, TENSORBOARD = "log.jsonl", "posterior.jsonl", "tensorboard"
FILES = (LOG, POSTERIOR)
SECTIONS = {
    "loss": ("loss", "cross_entropy", "kl", "auxiliary", "penalty"),
    "accuracy": ("train_accuracy", "selection_accuracy"),
    "rate": ("lr", "gate_lr", "temperature"),
    "speed": ("images_per_second", "seconds"),
}
"""TensorBoard's group -> keys of log.jsonl; whatever is about the cost goes to "cost"."""
COUNTERS = ("epoch", "step")


def require_tensorboard() -> None:
    """Check that TensorBoard's files can be written, before a training starts.

    Raises:
        UsageError: the package is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard", 'pip install "pgnas[tensorboard]"')


def scalars(row: Mapping[str, Any], posterior_row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(tag, value) of every number of an epoch; what is None, text or a list has none.

    Args:
        row: a line of log.jsonl.
        posterior_row: the line of posterior.jsonl of the same epoch.
    """
    section = {key: name for name, keys in SECTIONS.items() for key in keys}
    for key, value in row.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in COUNTERS:
            yield f"{section.get(key, 'cost')}/{key}", float(value)
    for name, p in posterior_row["p"].items():
        yield f"drop_prob/{name}", float(np.mean(p))


class Logs:
    """The logs of one training. Only one process of a training has them.

    Args:
        run: whose train folder they lie in.
        tensorboard: whether TensorBoard's files are written too.
        resume_epoch: epochs done before; what the logs hold of later ones is cut off, or hidden by TensorBoard.

    Raises:
        UsageError: tensorboard is asked for and not installed.
        RunError: a log that is continued is missing.
    """

    def __init__(self, run: RunDirectory, *, tensorboard: bool = False, resume_epoch: int = 0) -> None:
        if tensorboard:
            require_tensorboard()
        self.run = run
        for name in FILES:
            cut_log(run.train_path / name, resume_epoch)
        self._writer: SummaryWriter | None = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(run.train_path / TENSORBOARD), purge_step=resume_epoch + 1)

    def epoch(self, row: Mapping[str, Any], posterior_row: Mapping[str, Any]) -> None:
        """Write an epoch: its lines of log.jsonl and posterior.jsonl, and what TensorBoard shows of them."""
        append_jsonl(self.run.train_path / LOG, row)
        append_jsonl(self.run.train_path / POSTERIOR, posterior_row)
        if self._writer is None:
            return
        step = int(row["epoch"])
        for tag, value in scalars(row, posterior_row):
            self._writer.add_scalar(tag, value, step)
        p = np.concatenate([np.asarray(values, dtype=float) for values in posterior_row["p"].values()] or [np.zeros(0)])
        if p.size:
            self._writer.add_histogram("drop_prob", p, step)
        self._writer.flush()

    def close(self) -> None:
        """Finish TensorBoard's file; the other two are complete after every epoch."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
