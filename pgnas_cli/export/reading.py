"""Reading an artifact: checked for consistency, its network built without the run, and probed.

Nothing in the folder is trusted: all that config.json and the headers of both safetensors files say is checked first,
then what it would take to build the network; see `building`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pgnas_cli import compact as compaction
from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import RunError, one_line
from pgnas_cli.export.artifact import (
    ARCHITECTURE,
    CONFIG,
    DAMAGED,
    MOST_CONFIG,
    PROBES,
    PROOF,
    WEIGHTS,
    Artifact,
    file_digest,
)
from pgnas_cli.export.building import build_structure, trace_structure
from pgnas_cli.export.structure import Structure, structure_of
from pgnas_cli.export.tensor_header import Stored, read_header
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.run import absent, load_tensors, read_json
from pgnas_cli.strict_json import shown

__all__ = [
    "Structure", "build_artifact", "build_structure", "counted_cost", "load_artifact", "open_artifact",
    "probe_difference", "read_artifact", "structure_of", "trace_artifact",
]  # fmt: skip

FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
"""As timm calls them."""
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""Of parameters and buffers, as safetensors calls them."""


def read_artifact(path: Path, *, trust_plugins: bool = True) -> Artifact:
    """Read and check an artifact without building the network.

    Args:
        path: its folder.
        trust_plugins: also take an installed plugin that is not pgnas's own.

    Raises:
        RunError: a file is missing, damaged, or of a newer format; masks and configuration do not fit; the backbone is
            of a plugin that is not installed, or not trusted.
    """
    if not (path / CONFIG).is_file():
        raise RunError(f"{path} holds no exported network: {CONFIG} is missing", "pgnas export writes one")
    config = read_json(plain_file(path, CONFIG), hint=DAMAGED, most=MOST_CONFIG)
    section, where = config.get("pgnas"), f"{path / CONFIG}: pgnas"
    if not isinstance(section, dict):
        raise RunError(
            f'{path / CONFIG} has no "pgnas" section: it is not an export of pgnas', "pgnas export writes one"
        )
    structure = structure_of(section, where, trust_plugins=trust_plugins)
    _check_input(config, structure.spec, str(path / CONFIG))
    _check_listed(section, where)
    _check_proof(plain_file(path, PROOF), structure)
    tensors, _ = load_tensors(path / PROOF, hint=DAMAGED)
    for name in ("probe_images", "probe_logits"):
        if not tensors[name].isfinite().all():
            raise RunError(f"{path / PROOF}: {name} holds NaN or infinite numbers", DAMAGED)
    masks = structure.masks(str(path / PROOF), tensors["masks"].numpy().tobytes())
    _check_timm(config, structure, masks, f"{path / CONFIG}: model_args.structure", trust_plugins)
    return Artifact(
        path=path,
        config=config,
        spec=structure.spec,
        masks=masks,
        layout=structure.layout,
        folded=structure.folded,
        gather={name.removeprefix("gather."): t for name, t in tensors.items() if name.startswith("gather.")},
        images=tensors["probe_images"],
        logits=tensors["probe_logits"],
    )


def plain_file(folder: Path, name: str) -> Path:
    """`folder / name`, if it is a file of the folder itself, or of the Hub's cache that the folder belongs to.

    Raises:
        RunError: there is none, it is no plain file, or a link that leads elsewhere.
    """
    path = folder / name
    if not path.is_file():
        raise RunError(absent(path), DAMAGED)
    home, real = folder.resolve(), path.resolve()
    if not real.is_relative_to(home) and real.parent != home.parent.parent / "blobs":
        raise RunError(f"{path} is a link that leads out of its folder", "put a copy of the file in its place")
    return path


def _check_input(config: Mapping[str, Any], spec: BuildSpec, where: str) -> None:
    """What timm is told of architecture, images and classes is what the network has, and can be used."""
    if config.get("architecture") != ARCHITECTURE:
        raise RunError(
            f"{where}: architecture is {shown(config.get('architecture'))}, an export has {ARCHITECTURE!r}", DAMAGED
        )
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, dict):
        raise RunError(f"{where}: pretrained_cfg should be an object, not {shown(cfg)}", DAMAGED)
    size = [spec.in_chans, spec.img_size, spec.img_size]
    for key, value, wanted in (
        ("num_classes", config.get("num_classes"), spec.num_classes),
        ("pretrained_cfg.num_classes", cfg.get("num_classes"), spec.num_classes),
        ("pretrained_cfg.input_size", cfg.get("input_size"), size),
    ):
        if value != wanted:
            raise RunError(f"{where}: {key} is {shown(value)}, its network has {wanted}", DAMAGED)
    features = config.get("num_features")
    if type(features) is not int or features < 0:
        raise RunError(f"{where}: num_features should be a whole number, not {shown(features)}", DAMAGED)
    _check_images(cfg, spec, f"{where}: pretrained_cfg")


def _check_images(cfg: Mapping[str, Any], spec: BuildSpec, where: str) -> None:
    """How images are prepared, and what classes are called: what timm and the card's own lines make use of."""
    for key, least in (("mean", -math.inf), ("std", 0.0)):
        values = cfg.get(key)
        numbers = values if isinstance(values, list) else []
        if len(numbers) not in (1, spec.in_chans) or not all(type(v) in (int, float) and v > least for v in numbers):
            count = "a list of one number" if spec.in_chans == 1 else f"a list of one or {spec.in_chans} numbers"
            above = "" if key == "mean" else " above 0"
            raise RunError(f"{where}.{key} should be {count}{above}, not {shown(values)}", DAMAGED)
    crop, interpolation, names = (cfg.get(key) for key in ("crop_pct", "interpolation", "label_names"))
    if crop is not None and not (type(crop) in (int, float) and 0 < crop <= 1):
        raise RunError(f"{where}.crop_pct should be above 0 and at most 1, not {shown(crop)}", DAMAGED)
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise RunError(f"{where}.interpolation should be bilinear or bicubic, not {shown(interpolation)}", DAMAGED)
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not (strings and len(names) == spec.num_classes):
        raise RunError(
            f"{where}.label_names should be {spec.num_classes} names of classes, not {shown(names)}", DAMAGED
        )


def _check_listed(section: Mapping[str, Any], where: str) -> None:
    """The digests that the configuration lists: of files in the folder, by plain names."""
    if not _is_digest(section.get("weights_sha256")):
        raise RunError(f"{where}.weights_sha256 should be 64 hexadecimal digits", DAMAGED)
    files = section.get("files", {})
    if not isinstance(files, dict):
        raise RunError(f"{where}.files should be an object, not {shown(files)}", DAMAGED)
    for name, entry in files.items():
        if not FILE_NAME.fullmatch(name):
            raise RunError(f"{where}.files names {shown(name)}, which is no file of the folder", DAMAGED)
        known = isinstance(entry, dict) and type(entry.get("size")) is int and _is_digest(entry.get("sha256"))
        if not known:
            raise RunError(f"{where}.files.{name} should give sha256 and size, not {shown(entry)}", DAMAGED)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _check_proof(path: Path, structure: Structure) -> None:
    """pgnas.safetensors by its header: masks, probes and gather indices of the right kind and shape, nothing else."""
    header, spec = read_header(path), structure.spec
    if missing := [name for name in ("masks", "probe_images", "probe_logits") if name not in header]:
        raise RunError(f"{path} lacks {missing[0]}", DAMAGED)
    probes = header["probe_images"].shape[0] if header["probe_images"].shape else 0
    if not 1 <= probes <= PROBES:
        raise RunError(f"{path} holds {probes} probe images, expected 1 to {PROBES}", DAMAGED)
    expected = {
        "masks": Stored("U8", (structure.mask_bytes,)),
        "probe_images": Stored("F32", (probes, spec.in_chans, spec.img_size, spec.img_size)),
        "probe_logits": Stored("F32", (probes, spec.num_classes)),
    }
    for name, stored in header.items():
        if name.startswith("gather.") and stored.dtype == "I64" and len(stored.shape) == 1:
            continue
        if name not in expected and not name.startswith("gather."):
            raise RunError(f"{path} holds a tensor of an unknown name: {shown(name)}", DAMAGED)
        if stored != expected.get(name):
            wanted = expected.get(name, Stored("I64", (-1,)))
            raise RunError(f"{path}: {shown(name)} is {_words(stored)}, expected {_words(wanted)}", DAMAGED)


def _words(stored: Stored) -> str:
    return f"{stored.dtype} of shape {shown(list(stored.shape))}"


def _check_timm(
    config: Mapping[str, Any], structure: Structure, masks: Mapping[str, np.ndarray], where: str, trust_plugins: bool
) -> None:
    """What timm builds from `model_args` is the same network, where there is anything to build from."""
    arguments = config.get("model_args", {})
    if not isinstance(arguments, dict):
        raise RunError(f"{where.partition('.structure')[0]} should be an object, not {shown(arguments)}", DAMAGED)
    if "structure" not in arguments:
        return
    twin = structure_of(arguments["structure"], where, trust_plugins=trust_plugins)
    same = (twin.spec, list(twin.sizes.items()), twin.layout, twin.folded, twin.fold_bn) == (
        structure.spec, list(structure.sizes.items()), structure.layout, structure.folded, structure.fold_bn,
    )  # fmt: skip
    if not same or not all(np.array_equal(mask, masks[name]) for name, mask in twin.masks(where).items()):
        raise RunError(f"{where} describes another network than the pgnas section", DAMAGED)


def trace_artifact(artifact: Artifact) -> tuple[nn.Module, compaction.ChannelGraph]:
    """The backbone of an artifact on the meta device, and its channel graph without what was folded away.

    Raises:
        RunError: the backbone cannot be built, or the stored masks or folded layers do not fit it.
    """
    return trace_structure(artifact_structure(artifact), artifact.masks, str(artifact.path))


def artifact_structure(artifact: Artifact) -> Structure:
    """The structure of an artifact that has been read."""
    sizes = {name: len(mask) for name, mask in artifact.masks.items()}
    fold_bn = bool(artifact.config["pgnas"].get("fold_bn", False))
    return Structure(artifact.spec, sizes, artifact.layout, artifact.folded, fold_bn)


def counted_cost(artifact: Artifact) -> compaction.Cost[int]:
    """Parameters (gathered layout) and MACs that the masks and the stated image size amount to."""
    _, graph = trace_artifact(artifact)
    return compaction.count(graph, compaction.analyse(graph, artifact.masks))


def build_artifact(artifact: Artifact) -> compaction.CompactNetwork:
    """The network of an artifact: backbone on the meta device, traced, compacted by the masks, weights assigned.

    Raises:
        RunError: weights, gather indices or masks do not fit the network that is built; a weight is no number.
    """
    path = plain_file(artifact.path, WEIGHTS)
    header = read_header(path)
    stored = sum(math.prod(entry.shape) for entry in header.values())
    network = build_structure(artifact_structure(artifact), artifact.masks, str(artifact.path), stored=stored)
    _check_weights(path, header, network)
    rebuilt = network.gather_indices()
    if rebuilt.keys() != artifact.gather.keys() or not all(
        torch.equal(rebuilt[k], artifact.gather[k]) for k in rebuilt
    ):
        raise RunError(f"{artifact.path}: the gather indices of {PROOF} differ from those of the masks", DAMAGED)
    tensors, _ = load_tensors(path, hint=DAMAGED)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise RunError(f"{path}: {name} holds NaN or infinite numbers", DAMAGED)
    network.load_state_dict(tensors, strict=True, assign=True)
    network.requires_grad_(True)
    return network.eval()


def _check_weights(path: Path, header: Mapping[str, Stored], network: nn.Module) -> None:
    """The weights file by its header: every tensor of the network, of its dtype and shape, and no other."""
    own = {name: Stored(DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
    if missing := sorted(own.keys() - header.keys()):
        raise RunError(f"{path}: {missing[0]} is missing", DAMAGED)
    if unknown := sorted(header.keys() - own.keys()):
        raise RunError(f"{path}: {shown(unknown[0])} is unknown to its network", DAMAGED)
    for name, wanted in own.items():
        if header[name] != wanted:
            raise RunError(f"{path}: {name} is {_words(header[name])}, expected {_words(wanted)}", DAMAGED)


def probe_difference(artifact: Artifact, network: nn.Module) -> float:
    """Relative difference of the network's logits on the probe images from the stored ones.

    Raises:
        RunError: the probe images do not fit the network.
    """
    try:
        with torch.inference_mode():
            return relative_difference(network(artifact.images), artifact.logits)
    except RuntimeError as error:
        raise RunError(
            f"{artifact.path}: the probe images do not fit the network: {one_line(error)}", DAMAGED
        ) from None


def load_artifact(path: Path, *, trust_plugins: bool = True) -> compaction.CompactNetwork:
    """The network of an artifact; see `open_artifact`."""
    return open_artifact(path, trust_plugins=trust_plugins)[1]


def open_artifact(path: Path, *, trust_plugins: bool = True) -> tuple[Artifact, compaction.CompactNetwork]:
    """Read, build and probe; see `read_artifact` and `build_artifact`.

    Raises:
        RunError: also if the logits on the probe images differ from the stored ones by more than 1e-4 relative, which
            leaves room for another processor's arithmetic; or if a file is not the one that was exported.
    """
    artifact = read_artifact(path, trust_plugins=trust_plugins)
    network = build_artifact(artifact)
    difference = probe_difference(artifact, network)
    if not difference <= 10 * TOLERANCE:
        raise RunError(
            f"{path}: the logits of the probe images differ by {difference:.1e} from the stored ones", DAMAGED
        )
    check_digests(artifact)
    return artifact, network


def check_digests(artifact: Artifact) -> None:
    """Compare what has been read with the digests in config.json.

    Raises:
        RunError: a file is not the one that was exported.
    """
    section = artifact.config["pgnas"]
    listed = [(WEIGHTS, section["weights_sha256"])]
    listed += [(name, entry["sha256"]) for name, entry in section.get("files", {}).items() if name in (WEIGHTS, PROOF)]
    found = {name: file_digest(artifact.path / name) for name in (WEIGHTS, PROOF)}
    if wrong := [name for name, digest in listed if found[name] != digest]:
        raise RunError(
            f"{artifact.path / wrong[0]} is not the file that was exported: its SHA-256 is another than in {CONFIG}",
            DAMAGED,
        )
