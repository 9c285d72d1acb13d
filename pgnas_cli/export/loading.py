"""`pgnas_cli.load`: the network of an artifact, as it is or adapted to another task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from pgnas_cli import compact as compaction
from pgnas_cli import registry
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.artifact import ARCHITECTURE, DAMAGED
from pgnas_cli.export.feature_maps import FeatureMaps
from pgnas_cli.export.network import ExportedNetwork
from pgnas_cli.export.reading import build_structure, open_artifact
from pgnas_cli.export.structure import Structure


@overload
def load(
    path: str | Path,
    revision: str | None = ...,
    *,
    num_classes: int | None = ...,
    in_chans: int | None = ...,
    features_only: Literal[False] = ...,
    out_indices: None = ...,
    trust_plugins: bool = ...,
) -> ExportedNetwork: ...
@overload
def load(
    path: str | Path,
    revision: str | None = ...,
    *,
    num_classes: None = ...,
    in_chans: int | None = ...,
    features_only: Literal[True],
    out_indices: Sequence[int] | int | None = ...,
    trust_plugins: bool = ...,
) -> FeatureMaps: ...
def load(
    path: str | Path,
    revision: str | None = None,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | int | None = None,
    trust_plugins: bool = False,
) -> ExportedNetwork | FeatureMaps:
    """The compact network of an export, in evaluation mode: [B, C, H, W] -> [B, num_classes].

    Its logits on the stored probe images are compared with the stored ones first.

    Args:
        path: a folder that `pgnas export` wrote, or a repository of the Hub, "user/repo" or "user/repo@revision".
        revision: branch, tag or commit of a repository.
        num_classes: a fresh classifier for so many classes; 0 for none: pooled features [B, num_features].
        in_chans: the first convolution adapted to so many image channels.
        features_only: instead, the feature maps of the network, one for each resolution, finest first.
        out_indices: which of them; the last n for an int.
        trust_plugins: of a downloaded network, also let an installed plugin build it that is not pgnas's own. A folder
            is taken for the user's own.

    Raises:
        RunError: the folder holds no export, or it is damaged, or of a newer version, or its plugin is not trusted.
        HubError: the repository cannot be had.
        UsageError: `path` is neither; or the options do not fit together, or the network.
    """
    if features_only and num_classes is not None:
        raise UsageError("num_classes and features_only exclude each other: maps have no classes", "leave one out")
    if out_indices is not None and not features_only:
        raise UsageError("out_indices was given without features_only", "features_only=True")
    folder, own = locate(path, revision)
    network = load_folder(folder, trust_plugins=own or trust_plugins)
    return adapt(
        network, num_classes=num_classes, in_chans=in_chans, features_only=features_only, out_indices=out_indices
    )


def locate(path: str | Path, revision: str | None = None, *, everything: bool = False) -> tuple[Path, bool]:
    """The folder of an export, downloaded where `path` names a repository, and whether it is the user's own.

    Args:
        path, revision: as of `load`.
        everything: of a repository, also the files that loading does without.

    Raises:
        UsageError: `path` is no folder and names no repository; or a folder has no revisions.
        HubError: the repository cannot be had.
    """
    folder = Path(path)
    if folder.exists() or isinstance(path, Path):
        if revision is not None:
            raise UsageError(
                f"{path} is a folder: revision {revision!r} was given, which only a repository of the Hub has",
                "leave it out, or name a repository: user/repo",
            )
        return folder, True
    from pgnas_cli.export import hub

    name = path if isinstance(path, str) else str(path)
    if name.startswith((".", "/", "~")) or name.partition("@")[0].count("/") != 1:
        raise UsageError(
            f"{name} is no folder, and no repository of the Hub", "name an exported folder, or a repository: user/repo"
        )
    owner = name.partition("/")[0]
    if name.endswith("/") or (Path(owner).is_dir() and "@" not in name and revision is None):
        meant = "" if name.endswith("/") else f"; the repository {name} of the Hub would be {name}@main"
        raise UsageError(f"there is no folder {name}", f"name an exported folder{meant}")
    return hub.fetch(name, revision, everything=everything), False


def load_folder(folder: Path, *, trust_plugins: bool) -> ExportedNetwork:
    """The network of an artifact, read, built and probed; see `reading.open_artifact`."""
    artifact, network = open_artifact(folder, trust_plugins=trust_plugins)
    config = artifact.config
    cfg = {"architecture": ARCHITECTURE, **config["pretrained_cfg"]}
    return ExportedNetwork(network, pretrained_cfg=cfg, model_args=config.get("model_args", {}))


def adapt(
    network: ExportedNetwork,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | int | None = None,
) -> ExportedNetwork | FeatureMaps:
    """A network with another classifier or other image channels, or its feature maps; see `load`.

    A classifier of as many classes as there are is kept, as timm does.
    """
    if in_chans is not None:
        network.reset_input(in_chans)
    if features_only:
        return FeatureMaps(network, out_indices)
    if num_classes is not None and num_classes != network.num_classes:
        network.reset_classifier(num_classes)
    return network


def fresh(structure: Structure, masks: Mapping[str, np.ndarray], where: str) -> compaction.CompactNetwork:
    """The compact network of a structure with initial weights, as its family draws them.

    Raises:
        RunError: it cannot be built; see `reading.build_structure`, whose bounds come first.
    """
    build_structure(structure, masks, where)
    spec = structure.spec
    backbone = registry.build_model(spec)
    graph = compaction.trace(backbone.eval(), (spec.in_chans, spec.img_size, spec.img_size), check=False)
    network = compaction.compact(graph.folded(structure.folded), backbone, masks, layout=structure.layout)
    if structure.fold_bn:
        from pgnas_cli.export.fold import fold_batch_norms

        network = fold_batch_norms(network)
    return network.requires_grad_(True).eval()


def with_weights(network: compaction.CompactNetwork, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Give a network other weights of the same names and shapes.

    Raises:
        RunError: they do not fit.
    """
    try:
        own = {name: tensor.dtype for name, tensor in network.state_dict().items()}
        cast = {name: tensor.to(own.get(name, tensor.dtype)) for name, tensor in state.items()}
        network.load_state_dict(cast, strict=True, assign=True)
    except RuntimeError as error:
        raise RunError(
            f"{where}: the weights do not fit the structure: {str(error).splitlines()[-1].strip()}", DAMAGED
        ) from None
    network.requires_grad_(True)
