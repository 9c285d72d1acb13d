"""Writing an artifact: into a folder beside its place, which it takes when it is whole and has been loaded again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import UsageError
from pgnas_cli.export.artifact import (
    ARCHITECTURE,
    CARD,
    CONFIG,
    FORMAT,
    PICTURE,
    PROOF,
    SEMANTICS,
    WEIGHTS,
    is_artifact,
    weights_digest,
)
from pgnas_cli.export.reading import load_artifact
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import pack
from pgnas_cli.run import replace_folder, save_tensors, write_bytes, write_json


def write_artifact(
    target: Path,
    network: compaction.CompactNetwork,
    spec: BuildSpec,
    masks: dict[str, np.ndarray],
    images: Tensor,
    *,
    layout: str,
    folded: Sequence[str] = (),
    section: dict[str, Any],
    pretrained_cfg: dict[str, Any],
    card: str,
    picture: bytes,
) -> None:
    """Write an artifact beside `target` and put it in its place when it is whole and has been loaded again.

    Args:
        target: folder; an artifact in it is replaced, anything else is refused.
        network: the compact network, in evaluation mode, on the CPU.
        spec: how its backbone is built.
        masks: of the candidate, in the network's order.
        images: probe images [P, C, H, W], normalised.
        layout: of the compact network.
        folded: the surrogates that were left out of it, `Supernet.untouched`.
        section: what else the "pgnas" section says.
        pretrained_cfg: timm's description of the input.
        card: text of README.md.
        picture: the PNG file that the card shows.

    Raises:
        UsageError: `target` holds something that is no artifact.
    """
    if target.exists() and not is_artifact(target) and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(
            f"{target} exists and is no pgnas artifact: it is left alone", "name another folder with --output"
        )
    with torch.inference_mode():
        logits = network(images)
    structure = {
        "format": FORMAT,
        "semantics": SEMANTICS,
        "backbone": spec.to_json(),
        "masks": {name: len(mask) for name, mask in masks.items()},
        "layout": layout,
        **({"folded": list(folded)} if folded else {}),
    }
    folder = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        save_tensors(folder / WEIGHTS, network.state_dict(), {"format": "pt"})
        own = {**structure, **section, "weights_sha256": weights_digest(folder)}
        write_json(folder / CONFIG, _timm_config(spec, network, pretrained_cfg) | {"pgnas": own})
        proof = {
            "masks": torch.from_numpy(pack([masks])[0]),
            "probe_images": images,
            "probe_logits": logits.clone(),
            **{f"gather.{name}": index for name, index in network.gather_indices().items()},
        }
        save_tensors(folder / PROOF, proof)
        write_bytes(folder / CARD, card.encode())
        write_bytes(folder / PICTURE, picture)
        load_artifact(folder)
        replace_folder(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _timm_config(spec: BuildSpec, network: nn.Module, pretrained_cfg: dict[str, Any]) -> dict[str, Any]:
    """The keys of config.json that timm reads."""
    return {
        "architecture": ARCHITECTURE,
        "num_classes": spec.num_classes,
        "num_features": num_features(network),
        "pretrained_cfg": pretrained_cfg,
        "model_args": {},
    }


def num_features(network: nn.Module) -> int:
    """Inputs of the last linear layer."""
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return linears[-1].in_features if linears else 0
