"""The data set of a run, refused where it is not the one that the run was trained with."""

from __future__ import annotations

from pathlib import Path

from pgnas_cli import restore
from pgnas_cli.errors import DataError, RunError
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.data import Data
from pgnas_cli.training.setup import open_run_data


def same_data(run: RunDirectory, *, data_dir: Path | None = None, workers: int | None = None) -> Data:
    """The data set that the run was trained with.

    Raises:
        DataError: it has changed since: other images, labels, or splits (by the checksums of Data.describe), or other
            classes.
    """
    recipe = restore.run_recipe(run)
    trained = run.require("train").get("data")
    if not isinstance(trained, dict):
        raise RunError(f"{run.manifest_path}: stages.train.data is missing", "pgnas train --force trains again")
    data = open_run_data(run, recipe, data_dir=data_dir, workers=workers)
    now = data.describe()
    before = trained.get("sha256")
    changed = [
        f"{key} is {now[key]}, it was {trained.get(key)}"
        for key in ("num_classes", "in_chans", "img_size")
        if now[key] != trained.get(key)
    ] or [
        f"the {split} images, their labels or their order differ"
        for split, digest in now["sha256"].items()
        if not isinstance(before, dict) or before.get(split) != digest
    ]
    if changed:
        raise DataError(
            f"{recipe.data.name} has changed since training: {changed[0]}",
            "put back what the supernet was trained on (--data-dir names another place), or train again: "
            f"pgnas train --run {run.path} --data {recipe.data.name} --force",
        )
    return data
