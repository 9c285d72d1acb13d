"""Exported networks as timm models: importing this module registers the architecture "pgnas" with timm.

    import pgnas_cli.timm_models
    model = timm.create_model("hf-hub:user/repo", pretrained=True)
    model = timm.create_model("local-dir:runs/x/export", pretrained=True, num_classes=5)

timm reads config.json and calls `pgnas` with its `model_args`; the weights come from the same folder or repository. The
network is `pgnas_cli.export.network.ExportedNetwork`, the same as of `pgnas_cli.load`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from timm.models import generate_default_cfgs, load_model_config_from_hf, register_model
from timm.models._hub import download_from_hf

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.artifact import ARCHITECTURE, CONFIG, DAMAGED, PROOF, WEIGHTS, is_artifact
from pgnas_cli.export.building import build_structure
from pgnas_cli.export.feature_maps import FeatureMaps
from pgnas_cli.export.loading import adapt, fresh, load_folder, with_weights
from pgnas_cli.export.network import ExportedNetwork
from pgnas_cli.export.reading import plain_file
from pgnas_cli.export.structure import Structure, structure_of
from pgnas_cli.export.tensor_header import read_header
from pgnas_cli.run import load_tensors
from pgnas_cli.strict_json import shown

__all__ = ["pgnas"]

default_cfgs = generate_default_cfgs({ARCHITECTURE: {}})
WHERE = "model_args.structure"
_SAVED = ("structure", "num_classes", "in_chans")
"""Arguments that a configuration may give: what describes its weights. The rest is for the user to decide."""


@register_model
def pgnas(
    pretrained: bool = False,
    *,
    structure: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | Any = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | int | None = None,
    drop_rate: float | None = None,
    global_pool: str | None = None,
    trust_plugins: bool = False,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    pretrained_model_args: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> ExportedNetwork | FeatureMaps:
    """What `timm.create_model` calls for the architecture "pgnas".

    Args:
        pretrained: the exported weights; else the small structure with initial weights.
        structure: of config.json; see `pgnas_cli.export.structure`.
        pretrained_cfg: timm's; says where the configuration came from.
        num_classes, in_chans, features_only, out_indices: see `pgnas_cli.load`.
        drop_rate: dropout of what the classifier reads, in training; the network's own if None.
        global_pool: only the network's own.
        trust_plugins: also let a plugin build a downloaded network that is not pgnas's own; no configuration says so.
        pretrained_cfg_overlay: what else `pretrained_cfg` of the network says.
        pretrained_model_args: the arguments that the configuration gave; an older timm does not tell.
        cache_dir: where timm keeps the configuration; an export is kept in huggingface_hub's own cache.

    Raises:
        UsageError: there is no structure, or an option that an exported network does not have.
        RunError, HubError: as `pgnas_cli.load`; or the configuration gives an argument that is for the user to give.
    """
    if structure is None:
        raise UsageError(
            f"the timm architecture {ARCHITECTURE!r} has no network of its own",
            'timm.create_model("hf-hub:user/repo", pretrained=True), or "local-dir:PATH"',
        )
    if foreign := sorted(kwargs):
        raise UsageError(
            f"an exported network has no option {foreign[0]!r}", "it is built as it was found: leave it out"
        )
    cfg = _plain(pretrained_cfg) | dict(pretrained_cfg_overlay or {})
    if trust_plugins and pretrained_model_args is None and cfg.get("source") == "hf-hub":  # an older timm
        pretrained_model_args = load_model_config_from_hf(cfg["hf_hub_id"], cache_dir=cache_dir)[2]
    if foreign := sorted((pretrained_model_args or {}).keys() - set(_SAVED)):
        raise RunError(f"model_args of {CONFIG} gives {shown(foreign[0])}, which is for the user to give", DAMAGED)
    trusted = trust_plugins is True or cfg.get("source") == "local-dir"
    described = structure_of(structure, WHERE, trust_plugins=trusted)
    masks = described.masks(WHERE)
    if not pretrained:
        network = ExportedNetwork(fresh(described, masks, WHERE))
    elif (folder := _folder(cfg, cache_dir)) is not None and (folder / PROOF).is_file():
        network = load_folder(folder, trust_plugins=trusted)
    else:
        network = _saved(described, masks, folder, cfg)
    network.pretrained_cfg, network.model_args = {"architecture": ARCHITECTURE, **cfg}, {"structure": dict(structure)}
    if global_pool is not None and global_pool != "avg":
        network.reset_classifier(0, global_pool)
    if drop_rate is not None:
        network.reset_dropout(drop_rate)
    return adapt(
        network, num_classes=num_classes, in_chans=in_chans, features_only=features_only, out_indices=out_indices
    )


def _plain(cfg: Any) -> dict[str, Any]:
    """timm's PretrainedCfg as a dict."""
    if cfg is None:
        return {}
    return dict(cfg) if isinstance(cfg, Mapping) else dict(cfg.to_dict())


def _saved(
    structure: Structure, masks: Mapping[str, np.ndarray], folder: Path, cfg: Mapping[str, Any]
) -> ExportedNetwork:
    """What timm's save_for_hf wrote, maybe with other classes and image channels than the structure's.

    Raises:
        RunError: there are no weights in safetensors; or they do not fit.
    """
    if not (folder / WEIGHTS).is_file():
        raise RunError(f"{folder / WEIGHTS} is missing: no other file of weights is read", "safe_serialization=True")
    header = read_header(plain_file(folder, WEIGHTS))
    numbers = sum(math.prod(entry.shape) for entry in header.values())
    network = ExportedNetwork(build_structure(structure, masks, str(folder)))  # on the meta device, and so its new head
    classes, channels = cfg.get("num_classes"), (cfg.get("input_size") or (None,))[0]
    for key, value in (("num_classes", classes), ("input_size", channels)):
        if type(value) is not int or not 0 <= value <= numbers:
            raise RunError(f"{folder / CONFIG}: {key} is {shown(value)}, {numbers} numbers are stored", DAMAGED)
    adapt(network, num_classes=classes, in_chans=channels)
    tensors, _ = load_tensors(folder / WEIGHTS, hint=DAMAGED)
    with_weights(network, tensors, str(folder / WEIGHTS))
    return network


def _folder(cfg: Mapping[str, Any], cache_dir: str | Path | None) -> Path:
    """Where the weights are that belong to a configuration: its folder, or a download of its repository."""
    if cfg.get("source") == "local-dir" and cfg.get("file"):
        return Path(str(cfg["file"]))
    if cfg.get("hf_hub_id"):
        from pgnas_cli.export import hub
        from pgnas_cli.export.hub_faults import explained

        name = str(cfg["hf_hub_id"])
        with explained(f"download {name}", repo_id=name.partition("@")[0]):
            config = Path(download_from_hf(name, CONFIG, cache_dir=cache_dir))
        if is_artifact(config.parent):
            return hub.fetch(name)
        with explained(f"download {name}", repo_id=name.partition("@")[0]):  # what timm's push_to_hf_hub made
            return Path(download_from_hf(name, WEIGHTS, cache_dir=cache_dir)).parent
    raise UsageError(
        "pretrained=True was given, and the configuration says not where the weights are",
        'timm.create_model("hf-hub:user/repo", pretrained=True), or "local-dir:PATH"',
    )
