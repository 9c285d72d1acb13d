"""What `pgnas bench` measures: the networks around an artifact, and the ways to run each of them."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pgnas_cli import registry
from pgnas_cli.errors import one_line
from pgnas_cli.export.artifact import Artifact
from pgnas_cli.export.loading import fresh
from pgnas_cli.export.onnx_file import ONNX, PACKAGES, open_session, write_onnx
from pgnas_cli.export.pt2_file import capture
from pgnas_cli.export.reading import artifact_structure, build_artifact, plain_file
from pgnas_cli.export.signals import none_lost
from pgnas_cli.export.skipped import SkippedError
from pgnas_cli.plugin import BuildSpec, Inflation

BASELINE, SUPERNET, FOUND = "baseline", "supernet", "found"
MOST_PARAMETERS = 2**29
"""Of a baseline or supernet, 2 GiB of weights. An artifact may name one that is larger than its own files by far."""
Call = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Args:
        name: "baseline", "supernet", "found", or "found, dense" for the layout that the artifact does not have.
        network: in evaluation mode, on the CPU.
        params: its parameters.
        macs: multiply-adds of its convolutions, linear layers and matrix products, for one image.
    """

    name: str
    network: nn.Module
    params: int
    macs: int


def subjects(artifact: Artifact) -> tuple[list[Subject], dict[str, str]]:
    """The networks of an artifact, and why some of them are left out.

    baseline: the backbone without any inflation, for the same classes, channels and image size.
    supernet: everything kept.
    found: the artifact's own, and again in the layout that it does not have.

    Those that the artifact does not hold have initial weights, which take the same time. One that takes more than
    MOST_PARAMETERS to build is left out.

    Raises:
        RunError: the artifact does not fit together.
    """
    structure, where = artifact_structure(artifact), str(artifact.path)
    spec = structure.spec
    plain = replace(spec, inflation=Inflation(stem=spec.inflation.stem))
    other = "dense" if structure.layout == "gather" else "gather"

    def build_supernet() -> nn.Module:
        if spec == plain:
            raise SkippedError("it was not inflated: the supernet is the baseline")
        return _build(spec)

    def build_other() -> nn.Module:
        _check_size(spec)  # it is cut out of the whole supernet
        return fresh(replace(structure, layout=other), artifact.masks, where)

    makers: dict[str, Callable[[], nn.Module]] = {
        BASELINE: lambda: _build(plain), SUPERNET: build_supernet, FOUND: lambda: build_artifact(artifact),
        f"{FOUND}, {other}": build_other,
    }  # fmt: skip
    found, skipped = [], {}
    for name, make in makers.items():
        try:
            found.append(_subject(name, make(), artifact))
        except SkippedError as error:
            skipped[name] = str(error)
    return found, skipped


def _build(spec: BuildSpec) -> nn.Module:
    _check_size(spec)
    return registry.build_model(spec).eval()


def _check_size(spec: BuildSpec) -> None:
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in registry.build_model(spec).parameters())
    if params > MOST_PARAMETERS:
        raise SkippedError(f"{spec.arch} takes {params} parameters to build, at most {MOST_PARAMETERS} are")


def _subject(name: str, network: nn.Module, artifact: Artifact) -> Subject:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(artifact.images[:1])
    params = sum(parameter.numel() for parameter in network.parameters())
    return Subject(name, network, params, counter.get_total_flops() // 2)


# ---- ways to run a network ---------------------------------------------------------------------------------


def eager(network: nn.Module, images: Tensor) -> Call:
    """The network as it is, on a batch."""
    return partial(network, images)


def compiled(network: nn.Module, images: Tensor) -> Call:
    """The network through torch.compile, compiled for the size of this batch.

    Raises:
        SkippedError: no compiler works here.
    """
    call = partial(torch.compile(network, dynamic=False), images)
    try:
        with none_lost(), warnings.catch_warnings(action="ignore"), torch.inference_mode():
            call()
    except Exception as error:  # of the compiler, of what it generates, or of a tool that is missing
        raise SkippedError(f"torch.compile fails: {one_line(error, 200)}") from None
    return call


@contextmanager
def onnx_folder() -> Iterator[Path]:
    """A folder for networks that are exported on the fly.

    Raises:
        SkippedError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"{' and '.join(missing)} not installed: pip install 'pgnas[onnx]'")
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def onnx_file(subject: Subject, artifact: Artifact, folder: Path) -> Path:
    """The ONNX file of a network: the artifact's own, or one that is written now.

    Raises:
        SkippedError: it cannot be exported.
    """
    if subject.name == FOUND and (artifact.path / ONNX).exists():
        return plain_file(artifact.path, ONNX)
    path, images = folder / f"{subject.name}.onnx", artifact.images
    try:
        with none_lost(), warnings.catch_warnings(action="ignore"):
            with torch.no_grad():
                logits = subject.network(images)
            write_onnx(path, capture(subject.network, images), images, logits)
    except Exception as error:  # whatever a third party's network does not let itself be captured for
        raise SkippedError(f"the {subject.name} cannot be exported: {one_line(error, 200)}") from None
    return path


def onnx_session(path: Path, images: Tensor) -> Call:
    """A file in ONNX Runtime on the CPU, on a batch, with as many threads as torch has.

    Raises:
        SkippedError: ONNX Runtime refuses it.
    """
    try:
        session = open_session(path, spinning=False)  # or its idle threads slow the next call
        call = partial(session.run, ["logits"], {"image": images.contiguous().numpy()})
        call()
    except Exception as error:  # its own types have no base of their own
        raise SkippedError(f"ONNX Runtime refuses {path.name}: {one_line(error, 200)}") from None
    return call
