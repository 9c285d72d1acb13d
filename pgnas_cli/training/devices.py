"""Which devices --device, --gpus and --procs name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pgnas_cli.errors import UsageError


@dataclass(frozen=True)
class Devices:
    """What a training runs on.

    Args:
        kind: "cpu", "cuda" or "mps".
        indices: of the GPU of each process, where several may share one; on the CPU 0 .. procs - 1.
    """

    kind: str
    indices: tuple[int, ...]

    @property
    def procs(self) -> int:
        return len(self.indices)

    @property
    def single(self) -> torch.device:
        """The device of a training in one process."""
        return torch.device(self.kind, self.indices[0]) if self.kind == "cuda" else torch.device(self.kind)


def _here() -> str:
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else []) + ["cpu"])


def choose_devices(device: str = "auto", gpus: str | None = None, procs: int | None = None) -> Devices:
    """The devices that --device, --gpus and --procs name.

    Args:
        device: auto (cuda, else mps, else cpu), or a torch device.
        gpus: comma-separated indices of GPUs, one process for each; a GPU that is named twice has two.
        procs: processes on the CPU; None for one.

    Raises:
        UsageError: one is not there, naming what is; or the options contradict each other.
    """
    if gpus is None:
        chosen = _named_device(device)
        if procs is not None and procs > 1 and chosen.type != "cpu":
            raise UsageError(
                f"--procs {procs} on {chosen.type}: --gpus says which process has which GPU",
                f"--gpus {','.join(map(str, range(procs)))}, or --device cpu --procs {procs}",
            )
        if chosen.type == "cpu":
            return Devices("cpu", tuple(range(procs or 1)))
        return Devices(chosen.type, (chosen.index or 0,))
    if device not in ("auto", "cuda"):
        raise UsageError(f"--gpus {gpus} and --device {device} contradict each other", "leave --device out")
    count = torch.cuda.device_count()
    try:
        wanted = tuple(int(part) for part in gpus.split(","))
    except ValueError:
        raise UsageError(f"--gpus takes indices such as 0,1, not {gpus!r}", f"devices here: {_here()}") from None
    if missing := [index for index in wanted if not 0 <= index < count]:
        raise UsageError(
            f"--gpus {gpus}: there is no GPU {missing[0]}", f"devices here: {_here()}; --device cpu trains on the CPU"
        )
    if procs is not None and procs != len(wanted):
        raise UsageError(
            f"--gpus {gpus} and --procs {procs}: there is a process for each GPU that is named", "leave --procs out"
        )
    return Devices("cuda", wanted)


def choose_device(device: str = "auto", gpus: str | None = None) -> torch.device:
    """The one device that --device and --gpus name; see choose_devices.

    Raises:
        UsageError: it is not there, or several were named.
    """
    chosen = choose_devices(device, gpus)
    if chosen.procs > 1:
        raise UsageError(f"--gpus {gpus}: this command uses one GPU", f"--gpus {chosen.indices[0]}")
    return chosen.single


def _named_device(device: str) -> torch.device:
    count = torch.cuda.device_count()
    if device == "auto":
        device = "cuda" if count else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device {device!r} is no device", f"devices here: {_here()}") from None
    absent = (chosen.type == "cuda" and (chosen.index or 0) >= count) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent or chosen.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"--device {device}: it is not there", f"devices here: {_here()}")
    return chosen
