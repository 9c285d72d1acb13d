"""model.onnx: the network for ONNX Runtime and whatever else reads ONNX."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pgnas_cli.errors import UsageError
from pgnas_cli.export.pt2_file import BATCHES, checked
from pgnas_cli.run import write_bytes

ONNX = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Refuse to go on where model.onnx could not be written or checked.

    Raises:
        UsageError: a package is missing.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UsageError(f"--onnx was given: {' and '.join(missing)} {are} not installed", "pip install 'pgnas[onnx]'")


def write_onnx(path: Path, program: ExportedProgram, images: Tensor, logits: Tensor) -> float:
    """Write a captured network and compare what ONNX Runtime computes from the file.

    Input "image" [batch, C, H, W], output "logits" [batch, num_classes], float32, any batch. The same network gives the
    same bytes: what the exporter notes about this machine is left out.

    Args:
        path: the file.
        program: of `pt2_file.capture`.
        images: [P, C, H, W] probe images.
        logits: [P, num_classes] that the network has for them.

    Returns:
        The largest relative difference over batches of 1, 3 and 8 images.

    Raises:
        PgnasError: it is above 1e-5.
    """
    with torch.no_grad():
        exported = torch.onnx.export(
            program, (), dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    _clean(model)
    write_bytes(path, model.SerializeToString(deterministic=True))
    return checked(path, run_onnx(path, [images[:n] for n in BATCHES]), logits)


def run_onnx(path: Path, batches: Iterable[Tensor]) -> list[Tensor]:
    """Logits [B, num_classes] of each batch of images [B, C, H, W], in ONNX Runtime on the CPU."""
    session = open_session(path)
    return [torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0]) for images in batches]


def open_session(path: Path, *, spinning: bool = True) -> Any:
    """A file in ONNX Runtime on the CPU, with as many threads as torch has.

    Args:
        path: the file.
        spinning: between calls its idle threads go on waiting busily for a moment, which slows whatever runs then.
    """
    runtime: Any = importlib.import_module("onnxruntime")  # an extra, without types
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only: hints about optimisations are not for the user
    if not spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _clean(model: Any) -> None:
    """Leave only what computes: no notes of the exporter, no shapes in between; the free dimension is "batch"."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    assert not model.functions, "what a function holds would have to be cleaned too"
