"""Reading an artifact: checked for consistency, its network built without the run, and probed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pgnas_cli import compact as compaction
from pgnas_cli import registry
from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.artifact import CONFIG, DAMAGED, FORMAT, PROOF, SEMANTICS, WEIGHTS, Artifact
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import unpack
from pgnas_cli.run import load_tensors, read_json


def read_artifact(path: Path) -> Artifact:
    """Read and check an artifact without building the network.

    Raises:
        RunError: a file is missing, damaged, or of a newer format; or masks and configuration do not fit.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} holds no exported network: {CONFIG} is missing", "pgnas export writes one")
    config = read_json(path / CONFIG, hint=DAMAGED)
    section = config.get("pgnas")
    if not isinstance(section, dict):
        raise RunError(
            f'{path / CONFIG} has no "pgnas" section: it is not an export of pgnas', "pgnas export writes one"
        )
    for key, newest in (("format", FORMAT), ("semantics", SEMANTICS)):
        version = section.get(key)
        if type(version) is not int or version < 1:
            raise RunError(f"{path / CONFIG}: pgnas.{key} should be a whole number, not {version!r}", DAMAGED)
        if version > newest:
            raise RunError(
                f"{path} has {key} {version}, this version reads up to {newest}", "pip install --upgrade pgnas"
            )
    backbone, layout, layer_sizes = section.get("backbone"), section.get("layout"), section.get("masks")
    if not isinstance(backbone, dict) or layout not in ("gather", "dense") or not isinstance(layer_sizes, dict):
        raise RunError(f"{path / CONFIG}: pgnas.backbone, pgnas.layout or pgnas.masks is missing or wrong", DAMAGED)
    if not all(type(size) is int and 0 < size < 2**24 for size in layer_sizes.values()):
        raise RunError(f"{path / CONFIG}: pgnas.masks should map layers to channels", DAMAGED)
    try:
        spec = BuildSpec.from_json(backbone)
    except UsageError as error:
        raise RunError(f"{path / CONFIG}: {error}", DAMAGED) from None
    tensors, _ = load_tensors(path / PROOF, hint=DAMAGED)
    if missing := [name for name in ("masks", "probe_images", "probe_logits") if name not in tensors]:
        raise RunError(f"{path / PROOF} lacks {missing[0]}", DAMAGED)
    masks = unpack(tensors["masks"].numpy()[None], layer_sizes)[0]
    gather = {name.removeprefix("gather."): t for name, t in tensors.items() if name.startswith("gather.")}
    folded = _read_folded(path / CONFIG, section, masks)
    return Artifact(path, config, spec, masks, layout, folded, gather, tensors["probe_images"], tensors["probe_logits"])


def _read_folded(path: Path, section: dict[str, Any], masks: dict[str, np.ndarray]) -> tuple[str, ...]:
    """The list pgnas.folded: masked layers that keep every input, each named once; absent where there are none."""
    if "folded" not in section:
        return ()
    names = section["folded"]
    listed = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    if not listed or len(set(names)) < len(names):
        raise RunError(f"{path}: pgnas.folded should be a list of different layers", DAMAGED)
    if wrong := [name for name in names if name not in masks or not masks[name].all()]:
        raise RunError(f"{path}: pgnas.folded names {wrong[0]}, which is not masked or drops inputs", DAMAGED)
    return tuple(names)


def trace_artifact(artifact: Artifact) -> tuple[nn.Module, compaction.ChannelGraph]:
    """The backbone of an artifact on the meta device, and its channel graph without what was folded away.

    Raises:
        RunError: the backbone cannot be built, or the stored masks or folded layers do not fit it.
    """
    spec = artifact.spec
    try:
        with torch.device("meta"):
            backbone, _ = registry.build_backbone(spec)
    except UsageError as error:
        raise RunError(f"{artifact.path}: its backbone cannot be built: {error}", error.hint) from None
    graph = compaction.trace(backbone.eval(), (spec.in_chans, spec.img_size, spec.img_size), check=False)
    try:
        for name, mask in artifact.masks.items():
            graph.masked_node(name, mask)
        return backbone, graph.folded(artifact.folded)
    except UsageError as error:
        raise RunError(f"{artifact.path}: the masks do not fit {spec.arch}: {error}", DAMAGED) from None


def counted_cost(artifact: Artifact) -> compaction.Cost[int]:
    """Parameters (gathered layout) and MACs that the masks and the stated image size amount to."""
    _, graph = trace_artifact(artifact)
    return compaction.count(graph, compaction.analyse(graph, artifact.masks))


def build_artifact(artifact: Artifact) -> compaction.CompactNetwork:
    """The network of an artifact: backbone on the meta device, traced, compacted by the masks, weights assigned.

    Raises:
        RunError: weights, gather indices or masks do not fit the network that is built.
    """
    backbone, graph = trace_artifact(artifact)
    network = compaction.compact(graph, backbone, artifact.masks, layout=artifact.layout)
    tensors, _ = load_tensors(artifact.path / WEIGHTS, hint=DAMAGED)
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if wrong := sorted(
        name for name in own.keys() | tensors.keys() if name not in tensors or own.get(name) != tensors[name].shape
    ):
        raise RunError(f"{artifact.path / WEIGHTS}: {wrong[0]} is missing, unknown or of another shape", DAMAGED)
    network.load_state_dict(tensors, strict=True, assign=True)
    rebuilt = network.gather_indices()
    if rebuilt.keys() != artifact.gather.keys() or not all(
        torch.equal(rebuilt[k], artifact.gather[k]) for k in rebuilt
    ):
        raise RunError(f"{artifact.path}: the gather indices of {PROOF} differ from those of the masks", DAMAGED)
    network.requires_grad_(True)
    return network.eval()


def probe_difference(artifact: Artifact, network: nn.Module) -> float:
    """Relative difference of the network's logits on the probe images from the stored ones.

    Raises:
        RunError: the probe images do not fit the network.
    """
    try:
        with torch.inference_mode():
            return relative_difference(network(artifact.images), artifact.logits)
    except RuntimeError as error:
        raise RunError(f"{artifact.path}: the probe images do not fit the network: {error}", DAMAGED) from None


def load_artifact(path: Path) -> compaction.CompactNetwork:
    """Read, build and probe; see `read_artifact` and `build_artifact`.

    Raises:
        RunError: also if the logits on the probe images differ from the stored ones by more than 1e-4 relative, which
            leaves room for another processor's arithmetic.
    """
    artifact = read_artifact(path)
    network = build_artifact(artifact)
    difference = probe_difference(artifact, network)
    if not difference <= 10 * TOLERANCE:
        raise RunError(
            f"{path}: the logits of the probe images differ by {difference:.1e} from the stored ones", DAMAGED
        )
    return network
