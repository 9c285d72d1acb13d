"""model.pt2: the network as torch.export captures it. It is loaded by torch alone, without timm and without pgnas."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import PgnasError, one_line
from pgnas_cli.export.signals import none_lost
from pgnas_cli.run import write_bytes

PT2 = "model.pt2"
BATCHES = (1, 3, 8)
"""Sizes of the batches that a file for deployment is checked with."""
_TRACES = ("stack_trace", "source_fn_stack", "torch_fn", "from_node", "custom")
"""What torch notes at each operation of where it came from, with paths of this machine."""


def capture(network: nn.Module, images: Tensor) -> ExportedProgram:
    """The network as a graph of torch operations, for any number of images, without any path of this machine.

    Args:
        network: in evaluation mode, on the CPU.
        images: [B, C, H, W]; only their number of channels and their size matter.

    Raises:
        PgnasError: torch.export cannot capture it.
    """
    example = torch.zeros((2, *images.shape[1:]))
    try:
        with none_lost(), torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch", min=1)},))
    except (RuntimeError, ValueError) as error:  # what its own exceptions derive from
        reason = one_line(error, 200)
        raise PgnasError(f"torch.export cannot capture this network: {reason}", "leave out --onnx and --pt2") from None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _TRACES:
                    node.meta.pop(key, None)
    program.example_inputs = None
    return program


def write_pt2(path: Path, program: ExportedProgram, images: Tensor, logits: Tensor) -> float:
    """Write a captured network, load it again and compare.

    Args:
        path: the file.
        program: of `capture`.
        images: [P, C, H, W] probe images.
        logits: [P, num_classes] that the network has for them.

    Returns:
        The largest relative difference over batches of 1, 3 and 8 images.

    Raises:
        PgnasError: it is above 1e-5.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())
    loaded = torch.export.load(path).module()
    with torch.inference_mode():
        return checked(path, [loaded(images[:n]) for n in BATCHES], logits)


def checked(path: Path, found: list[Tensor], logits: Tensor) -> float:
    """The largest relative difference of some logits, of the first images each, from the network's.

    Raises:
        PgnasError: it is above 1e-5.
    """
    difference = max(relative_difference(each, logits[: len(each)]) for each in found)
    if difference > TOLERANCE:
        raise PgnasError(
            f"{path.name} computes other logits than the network: the difference is {difference:.1e}, "
            f"at most {TOLERANCE:.0e} is allowed",
            "this is a bug: report it with the run's run.json",
        )
    return difference
