"""`pgnas doctor`: versions, devices, data, plugins and disk space, one row each."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pgnas_cli.console import console, human

_PACKAGES = {  # distribution -> module
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "typer": "typer",
    "safetensors": "safetensors",
    "huggingface-hub": "huggingface_hub",
}
_LOW_DISK = 2e9  # bytes: about ten checkpoints of a widened ResNet-50


@dataclass(frozen=True)
class Check:
    """One row: `broken` is something to mend, `absent` something that need not be there."""

    area: str
    item: str
    state: Literal["ok", "absent", "broken"]
    detail: str


def doctor() -> None:
    """Show versions, devices, data, plugins and disk space.

    Nothing here fails: what is missing or broken is a row of the table (and `ok` is false with --json).
    """
    checks = [*_versions(), *_devices(), *_data(), *_plugins(), _disk(Path("runs"))]
    broken = [check for check in checks if check.state == "broken"]

    def render() -> None:
        rows = [(check.area, check.item, check.state, check.detail) for check in checks]
        console.table("", ("area", "item", "state", "detail"), rows)

    console.result({"ok": not broken, "checks": [asdict(check) for check in checks]}, render)
    for check in broken:
        console.warn(f"{check.item}: {check.detail}")


def _versions() -> Iterator[Check]:
    from importlib import metadata

    yield Check("version", "python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Check("version", "pgnas", "ok", metadata.version("pgnas"))
    for distribution, module in _PACKAGES.items():
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            yield Check("version", distribution, "broken", f"not installed: pip install {distribution}")
            continue
        try:  # a package whose compiled part does not fit torch has a version, and fails here
            importlib.import_module(module)
        except Exception as error:
            yield Check("version", distribution, "broken", f"{version} does not import: {_describe(error)}")
        else:
            yield Check("version", distribution, "ok", version)


def _devices() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except Exception:  # its own row says why
        yield Check("device", "cpu", "ok", f"{cores} cores")
        return
    yield Check("device", "cpu", "ok", f"{cores} cores, {torch.get_num_threads()} torch threads")
    yield from _gpus(torch)
    mps = torch.backends.mps.is_available()
    yield Check("device", "mps", "ok" if mps else "absent", "Apple GPU" if mps else "no Apple GPU")


def _gpus(torch: Any) -> Iterator[Check]:
    if torch.version.cuda is None and torch.version.hip is None:
        yield Check("device", "cuda", "absent", "this torch is built without CUDA")
        return
    with warnings.catch_warnings(record=True) as caught:  # how torch says that the driver is too old
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        reason = _describe(caught[0].message) if caught else f"no GPU (torch is built for CUDA {torch.version.cuda})"
        yield Check("device", "cuda", "broken" if caught else "absent", reason)
        return
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Check("device", f"cuda:{index}", "ok", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")


def _data() -> Iterator[Check]:
    from importlib import resources

    chosen = os.environ.get("PGNAS_DATA")
    if chosen and (chosen == "digits" or chosen.lower().startswith(("torch/", "hfds/", "wds/"))):
        yield Check("data", "$PGNAS_DATA", "ok", f"{chosen}: looked for when training starts")
    elif chosen:
        yield _folder("$PGNAS_DATA", Path(chosen.removeprefix("folder:")).expanduser(), wrong="broken")
    else:
        yield Check("data", "$PGNAS_DATA", "absent", "not set")
    yield _folder("./data", Path("data"), wrong="absent")
    digits = resources.files("pgnas_cli") / "training" / "digits.npz"
    if digits.is_file():
        yield Check("data", "digits", "ok", "embedded: 1797 images of 8x8, used when no other data is given")
    else:
        yield Check("data", "digits", "broken", f"{digits} is missing: install pgnas again")


def _folder(item: str, path: Path, wrong: Literal["absent", "broken"]) -> Check:
    names = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
    missing = [part for part, known in names.items() if not any((path / name).is_dir() for name in known)]
    if missing:
        return Check("data", item, wrong, f"{path.absolute()} has no {' and no '.join(part + '/' for part in missing)}")
    splits = [name for known in names.values() for name in known if (path / name).is_dir()]
    return Check("data", item, "ok", f"{path.absolute()}: {', '.join(splits)}")


def _plugins() -> Iterator[Check]:
    from pgnas_cli.registry import plugins

    for plugin in plugins():
        if plugin.problem:
            yield Check("plugin", plugin.name, "broken", f"{plugin.distribution}: {plugin.problem}")
        else:
            yield Check("plugin", plugin.name, "ok", plugin.distribution)


def _disk(runs: Path) -> Check:
    path = runs.absolute()
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    usage = shutil.disk_usage(place)
    detail = f"{human(usage.free)}B free of {human(usage.total)}B at {place}"
    if usage.free < _LOW_DISK:
        return Check("disk", "./runs", "broken", f"{detail}: less than {human(_LOW_DISK)}B")
    return Check("disk", "./runs", "ok", detail)


def _describe(error: object) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'without a message'}"
