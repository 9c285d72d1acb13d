"""The supernet of a run: how it is written, described and restored."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli import registry
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe
from pgnas_cli.run import RunDirectory, load_tensors, remove, save_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pgnas_cli.supernet.supernet import Supernet


def versions() -> dict[str, str]:
    """Versions of python and the libraries that decide a result; a missing one is "not installed"."""
    found = {"python": platform.python_version()}
    for name in ("pgnas", "torch", "torchvision", "timm", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def create_run(
    net: Supernet, path: str | Path | None = None, *, options: Mapping[str, Any] | None = None
) -> RunDirectory:
    """Start a run with a supernet: `path`, or a new folder in ./runs. Nothing is left behind if it fails.

    Args:
        net: as `inflate` returns it.
        path: a folder that does not exist yet or is empty.
        options: what to enter into the manifest's inflate stage.

    Raises:
        UsageError: the folder is taken.
    """
    from pgnas_cli import compact as compaction

    assert net.spec is not None
    compaction.trace(net.backbone, net.input_size, check=True)  # refuses a network that fx does not capture as it is
    existed = path is not None and Path(path).exists()
    run = RunDirectory.create(path, net.spec.arch)
    try:
        save_tensors(run.supernet_path, net.state_dict())
        run.write_manifest(net.spec.to_json(), versions())
        cost = net.kept_cost()
        record = {"params": int(cost.params), "macs": int(cost.macs), "seed": net.spec.seed, **(options or {})}
        run.finish("inflate", record)
    except BaseException:
        remove(run.supernet_path)
        remove(run.manifest_path)
        if not existed:
            remove(run.path)
        raise
    return run


def run_spec(run: RunDirectory) -> BuildSpec:
    """What `pgnas inflate` built in this run.

    Raises:
        RunError: run.json describes no model that can be built.
    """
    try:
        return BuildSpec.from_json(run.manifest()["model"])
    except UsageError as error:
        raise RunError(f"{run.manifest_path}: {error}", "pgnas inflate ARCH makes a new run") from None


def adapted_spec(spec: BuildSpec, recipe: Recipe) -> BuildSpec:
    """The spec with the classes, channels and image size that training adapted it to."""
    changes = {
        name: value
        for name in ("num_classes", "in_chans", "img_size")
        if (value := getattr(recipe.adapted, name)) is not None
    }
    return replace(spec, **changes)


def run_recipe(run: RunDirectory) -> Recipe:
    """The resolved recipe of a run that has been trained, or is in training.

    Raises:
        RunError: train/recipe.toml is missing or damaged.
    """
    try:
        return load_recipe(str(run.train_path / "recipe.toml"))
    except UsageError as error:
        raise RunError(str(error), f"pgnas train --force --run {run.path} trains again") from None


def default_candidates(run: RunDirectory, source: str) -> int:
    """How many candidates are drawn where nobody says: the recipe's number, or 1 after a commit to one of them."""
    if source == "final" and run.require("train").get("soft") is not None:
        return 1
    return run_recipe(run).sampling.candidates


def apply_recipe(net: Supernet, recipe: Recipe) -> None:
    """Give the gates, and the branches, of a freshly built supernet what a recipe asks for.

    What else is to be gated comes first, so that those gates start as the others do.
    """
    objective = recipe.objective
    if objective.gate_stem:
        net.gate_stem()
    if objective.gate_classifier:
        net.gate_classifier()
    net.set_gates(
        initial_drop=objective.initial_drop,
        temperature=objective.temperature,
        fixed_drop=objective.fixed_drop,
        noise=objective.noise,
    )
    net.set_granularity(objective.granularity)
    net.set_branch_noise(objective.branch_noise)


def load_trained(run: RunDirectory, checkpoint: str) -> Supernet:
    """The trained supernet of a run, in evaluation mode.

    Args:
        run: a run whose train stage is done.
        checkpoint: path of the weights file inside the run.

    Raises:
        RunError: the weights are missing, truncated or of another network.
    """
    recipe = run_recipe(run)
    net = registry.build(adapted_spec(run_spec(run), recipe))
    apply_recipe(net, recipe)
    path = run.path / checkpoint
    tensors, _ = load_tensors(path, hint=f"pgnas train --run {run.path} --force trains again")
    load_weights(net, tensors, str(path))
    return net.eval()


def load_surrogates(net: Supernet, path: Path) -> None:
    """Give a supernet on the meta device the trained weights of its surrogates, and nothing else.

    Raises:
        RunError: the file is missing, damaged or of another network.
    """
    from torch import nn

    from pgnas_cli.supernet.surrogate import SurrogateConv2d

    layers = {name: layer for name, layer in net.search_layers.items() if isinstance(layer, SurrogateConv2d)}
    if not layers:
        return
    hint = "pgnas train --force trains again"
    tensors, _ = load_tensors(path, hint=hint, names=[f"backbone.{name}.weight" for name in layers])
    for name, layer in layers.items():
        weight = tensors[f"backbone.{name}.weight"]
        if weight.shape != layer.weight.shape:
            raise RunError(f"{path}: the tensor backbone.{name}.weight has shape {list(weight.shape)}", hint)
        layer.weight = nn.Parameter(weight, requires_grad=False)


def load_weights(net: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Strict load; a mismatch names the first tensor that does not fit.

    Raises:
        RunError: a tensor is missing, unknown or of the wrong shape.
    """
    own = net.state_dict()
    for name in own.keys() | tensors.keys():
        if name not in tensors:
            raise RunError(f"{source} lacks the tensor {name}", "it belongs to another network or version")
        if name not in own:
            raise RunError(f"{source} has an unknown tensor {name}", "it belongs to another network or version")
        if own[name].shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)}, expected {list(own[name].shape)}"
            raise RunError(
                f"{source}: the tensor {name} has shape {shapes}", "it belongs to another network or version"
            )
    net.load_state_dict(dict(tensors), strict=True)
