"""Before the first step: the data, the recipe as it will be used, and a supernet that fits the data."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pgnas_cli import registry, restore
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.recipe import Adapted, Recipe
from pgnas_cli.run import RunDirectory, load_tensors
from pgnas_cli.supernet.pretrained import fit_tensors
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.budget import resolve_target, uniform_rate
from pgnas_cli.training.data import Data, find_data, open_data

FILE_SETS = ("folder:", "wds/", "hfds/", "torch/image_folder", "torch/imagenet")
"""Sets of image files, which take the supernet's image size; the others have a size of their own."""


@dataclass(frozen=True)
class Prepared:
    """Everything the loop needs.

    Args:
        net: the supernet, with gates as the recipe wants them.
        data: the opened data set.
        recipe: resolved: nothing is left open.
        notices: what was adapted, for the user.
    """

    net: Supernet
    data: Data
    recipe: Recipe
    notices: tuple[str, ...]


def with_data(recipe: Recipe, notice: Callable[[str], None]) -> Recipe:
    """The recipe with a data set named: its own, else $PGNAS_DATA, else ./data, else the digits, with a notice.

    Folders become absolute, so that ranking finds them from anywhere.
    """
    spec, line = find_data(None, recipe.data.name, os.environ, Path.cwd())
    if line:
        notice(line)
    if spec.startswith("folder:"):
        spec = f"folder:{Path(spec.removeprefix('folder:')).expanduser().absolute()}"
    if spec.startswith("wds/") and recipe.data.dir is None and (shards := Path(spec[4:]).expanduser()).is_dir():
        spec = f"wds/{shards.absolute()}"
    folder = recipe.data.dir and str(Path(recipe.data.dir).expanduser().absolute())
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, name=spec, dir=folder))


def open_run_data(
    run: RunDirectory, recipe: Recipe, *, data_dir: Path | None = None, workers: int | None = None
) -> Data:
    """The data set that a recipe names, in the size that the run's supernet reads.

    An image size or a number of channels that was named when the supernet was inflated scales the images; otherwise
    image files take the supernet's size, and sets with a size of their own keep it. `data_dir` wins over the recipe's.
    """
    spec = restore.run_spec(run)
    explicit = (run.stage("inflate") or {}).get("explicit", [])
    name = recipe.data.name or "digits"
    files = name.startswith(FILE_SETS)
    folder = data_dir or (Path(recipe.data.dir) if recipe.data.dir else None)
    return open_data(
        name,
        data_dir=folder,
        selection=recipe.data.selection,
        limit_train=recipe.data.limit_train,
        seed=recipe.seed,
        augmentation=recipe.data,
        img_size=spec.img_size if files or "img_size" in explicit else None,
        in_chans=spec.in_chans if (files or "in_chans" in explicit) and spec.in_chans in (1, 3) else None,
        workers=workers,
    )


def prepare(run: RunDirectory, recipe: Recipe, data: Data, fixed_drop: str | None = None) -> Prepared:
    """Load the inflated supernet, adapt it to the data as timm does, and resolve the recipe.

    Where classes, channels or image size differ, the classifier and the stem are adapted and every other weight is
    kept: the stem's input channels are summed or repeated (timm's adapt_input_conv), a classifier or a stem of another
    shape starts anew.

    Args:
        run: an inflated run.
        recipe: what was asked for.
        data: the opened data set.
        fixed_drop: a rate, or a size ("0.5x", "12M") that the constant rate is solved for.
    """
    spec = restore.run_spec(run)
    wanted = {"num_classes": data.num_classes, "in_chans": data.in_chans, "img_size": data.img_size}
    changes = {name: value for name, value in wanted.items() if getattr(spec, name) != value}
    recipe = dataclasses.replace(recipe, adapted=Adapted(**changes))
    adapted = restore.adapted_spec(spec, recipe)
    net = registry.build(adapted)
    tensors, _ = load_tensors(run.supernet_path, hint="pgnas inflate makes a new run")
    notices = []
    if changes:
        started_anew = _load_adapted(net, tensors)
        notices.append(_describe(spec, adapted, started_anew))
    else:
        restore.load_weights(net, tensors, str(run.supernet_path))
    restore.apply_recipe(net, recipe)
    if fixed_drop is not None:
        rate = _resolve_rate(net, fixed_drop)
        recipe = dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, fixed_drop=rate))
        net.set_gates(fixed_drop=rate)
    return Prepared(net, data, recipe, tuple(notices))


def _resolve_rate(net: Supernet, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.inf
    if rate > 1:
        return uniform_rate(net, resolve_target(text, net.kept_cost().params, "--fixed-drop"))
    if not 0 <= rate < 1:
        raise UsageError(
            f"--fixed-drop {text} was given, it should be at least 0 and below 1, or a size",
            "--fixed-drop 0.4, or 0.5x",
        )
    return rate


def _load_adapted(net: Supernet, tensors: Mapping[str, Tensor]) -> list[str]:
    """Load what fits, adapt the stem's channels; the names of the weights that start anew."""
    fitted, anew = fit_tensors(net.state_dict(), tensors)
    net.load_state_dict(fitted, strict=True)
    return [name.removeprefix("backbone.") for name in anew]


def _describe(before: BuildSpec, after: BuildSpec, anew: list[str]) -> str:
    names = {"num_classes": "classes", "in_chans": "channels", "img_size": "image size"}
    parts = [
        f"{label} {getattr(before, name)} -> {getattr(after, name)}"
        for name, label in names.items()
        if getattr(before, name) != getattr(after, name)
    ]
    started = f"; starting anew: {', '.join(anew)}" if anew else ""
    return f"adapted the supernet to the data: {', '.join(parts)}{started}"
