"""One tiny ranked run and its export, shared by the tests of this folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pgnas_cli import inflate, restore
from pgnas_cli.export.export import export
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory
from pgnas_cli.training.loop import train


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: one epoch at half the size, four candidates, ranked with recalibration, the winner exported."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("exported") / "run"
    run = restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})
    changes = {"data.name": "digits", "data.batch_size": 32, "schedule.epochs": 1, "budget.target_params": "0.5x"}
    train(run, override(load_recipe("posterior"), changes), device="cpu")
    sample(run, n=4, seed=1)
    rank(run, device="cpu", recalibrate=64)
    export(run)
    return run


@pytest.fixture
def run(exported: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that the test may change."""
    return RunDirectory(shutil.copytree(exported.path, tmp_path / "run"))


@pytest.fixture
def artifact(exported: RunDirectory, tmp_path: Path) -> Path:
    """The exported folder alone, without its run."""
    return Path(shutil.copytree(exported.export_path, tmp_path / "artifact"))


@pytest.fixture
def cards_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """For made-up artifacts, which say too little for a card to be written for their place on the Hub."""
    card: Callable[..., str] = lambda folder, name=None: (folder / "README.md").read_text()  # noqa: E731
    monkeypatch.setattr("pgnas_cli.export.hub_push.card_for", card)
