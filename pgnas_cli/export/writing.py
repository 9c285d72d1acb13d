"""Writing an artifact: into a folder beside its place, which it takes when it is whole and has been loaded again.

The same run gives the same bytes: nothing in it is a time, a path or a random number.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import UsageError
from pgnas_cli.export.artifact import (
    ARCHITECTURE,
    CARD,
    CONFIG,
    FORMAT,
    PROOF,
    SEMANTICS,
    WEIGHTS,
    file_digest,
    is_artifact,
    weights_digest,
)
from pgnas_cli.export.maps import find_classifier, find_first_convolutions
from pgnas_cli.export.reading import load_artifact
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import pack
from pgnas_cli.run import remove, replace_folder, save_tensors, write_bytes, write_json


def write_artifact(
    target: Path,
    network: compaction.CompactNetwork,
    spec: BuildSpec,
    masks: dict[str, np.ndarray],
    images: Tensor,
    *,
    layout: str,
    folded: Sequence[str] = (),
    fold_bn: bool = False,
    section: dict[str, Any],
    pretrained_cfg: dict[str, Any],
    card: str,
    pictures: Mapping[str, bytes],
    extra: Sequence[Callable[[Path], None]] = (),
) -> None:
    """Write an artifact beside `target` and put it in its place when it is whole and has been loaded again.

    Args:
        target: folder; an artifact in it is replaced, anything else is refused.
        network: the compact network, in evaluation mode, on the CPU, with BatchNorms folded if `fold_bn`.
        spec: how its backbone is built.
        masks: of the candidate, in the network's order.
        images: probe images [P, C, H, W], normalised.
        layout: of the compact network.
        folded: the surrogates that were left out of it, `Supernet.untouched`.
        fold_bn: whether `fold_batch_norms` was applied to it.
        section: what else the "pgnas" section says.
        pretrained_cfg: timm's description of the input.
        card: text of README.md.
        pictures: file name -> the PNG file.
        extra: each is called with the unfinished folder and writes further files into it, such as model.onnx; what it
            raises is passed on, and nothing is left.

    Raises:
        UsageError: `target` holds something that is no artifact, or another process writes to it now.
    """
    check_target(target)
    with torch.inference_mode():
        logits = network(images)
    packed = pack([masks])[0]
    structure = {
        "format": FORMAT,
        "semantics": SEMANTICS,
        "backbone": spec.to_json(),
        "masks": {name: len(mask) for name, mask in masks.items()},
        "layout": layout,
        **({"folded": list(folded)} if folded else {}),
        **({"fold_bn": True} if fold_bn else {}),
    }
    with beside(target) as folder:
        save_tensors(folder / WEIGHTS, network.state_dict(), {"format": "pt"})
        proof = {
            "masks": torch.from_numpy(packed),
            "probe_images": images,
            "probe_logits": logits.clone(),
            **{f"gather.{name}": index for name, index in network.gather_indices().items()},
        }
        save_tensors(folder / PROOF, proof)
        for name, picture in pictures.items():
            write_bytes(folder / name, picture)
        for write in extra:
            write(folder)
        own = {**structure, **section, "weights_sha256": weights_digest(folder), "files": _described(folder)}
        for_timm = {"structure": {**structure, "kept": base64.b64encode(packed.tobytes()).decode()}}
        config = _timm_config(spec, network, pretrained_cfg, for_timm)
        write_json(folder / CONFIG, {**config, "pgnas": own})
        write_bytes(folder / CARD, card.encode())
        load_artifact(folder)
        replace_folder(folder, target)


def check_target(target: Path) -> None:
    """Whether an artifact may take this place.

    Raises:
        UsageError: something else is there, or nothing can be written there.
    """
    elsewhere = "name another folder with --output"
    if target.exists() and not is_artifact(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists and is no pgnas artifact: it is left alone", elsewhere)
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir():
        raise UsageError(f"{target} cannot be made: {parent} is a file", elsewhere)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"{target} cannot be made: {parent} may not be written", elsewhere)


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, locked while it is written; it is gone afterwards.

    What a process that was killed has left there is removed.

    Raises:
        UsageError: another process writes to `target` now.
    """
    folder = target.with_name(f".{target.name}.writing")
    busy = UsageError(
        f"another process writes an export to {target}", "wait until it is done, or name another --output"
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:  # a file system that takes no folders
        raise UsageError(f"{target} cannot be made: {error.strerror}", "name another folder with --output") from None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # put in its place this moment
        raise busy from None
    try:
        if not _locked(handle, folder):
            raise busy
        for left in folder.iterdir():
            remove(left)
        try:
            yield folder
        finally:
            if _same(handle, folder):  # not in the place of `target` by now
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _locked(handle: int, folder: Path) -> bool:
    """Lock the open folder; False if it is another's, or no longer the one at that path."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return _same(handle, folder)


def _same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> SHA-256 and size in bytes of every file in a folder."""
    return {path.name: {"sha256": file_digest(path), "size": path.stat().st_size} for path in sorted(folder.iterdir())}


def _timm_config(
    spec: BuildSpec, network: fx.GraphModule, pretrained_cfg: Mapping[str, Any], model_args: dict[str, Any]
) -> dict[str, Any]:
    """The keys of config.json that timm reads."""
    first = find_first_convolutions(network)
    classifier = find_classifier(network)
    return {
        "architecture": ARCHITECTURE,
        "num_classes": spec.num_classes,
        "num_features": num_features(network),
        "pretrained_cfg": {
            **pretrained_cfg,
            "first_conv": first[0] if len(first) == 1 else first,
            "classifier": classifier or None,
        },
        "model_args": model_args,
    }


def num_features(network: nn.Module) -> int:
    """Inputs of the last linear layer."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return linears[-1].in_features if linears else 0
