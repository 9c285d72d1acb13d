"""A finished training whose newest checkpoint is gone or damaged: what resuming does to it and to what used it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pgnas_cli import inflate, restore
from pgnas_cli.errors import RunError
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors
from pgnas_cli.training.loop import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two epochs on 320 digits, and candidates drawn from them."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8)
    folder = tmp_path_factory.mktemp("finished") / "run"
    run = restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})
    recipe = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320, "schedule.epochs": 2}
    train(run, override(load_recipe("posterior"), recipe), device="cpu")
    sample(run, n=3)
    return run


@pytest.fixture
def run(finished: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))


def newest(run: RunDirectory) -> Path:
    return max(run.checkpoints_path.iterdir())


def test_a_removed_checkpoint_is_trained_again_and_what_used_it_goes(run: RunDirectory) -> None:
    whole = load_tensors(newest(run) / "supernet.safetensors", hint="")[0]
    shutil.rmtree(newest(run))
    with pytest.raises(RunError, match="sample already used what train wrote") as error:
        train(run, resume=True, device="cpu")
    assert error.value.hint.startswith("pgnas train --resume --force")
    assert run.stage("sample") is not None
    record = train(run, resume=True, force=True, device="cpu")
    again = load_tensors(run.path / record["checkpoint"], hint="")[0]
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert run.next_stage() == "sample"
    assert not (run.path / "candidates.jsonl").exists()


def test_an_interrupted_repair_is_unfinished_not_finished(run: RunDirectory) -> None:
    (newest(run) / "state.pt").write_bytes(b"damaged")

    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, resume=True, force=True, device="cpu", report=interrupt)
    assert run.next_stage() == "train"
    said: list[str] = []
    train(run, resume=True, device="cpu", notice=said.append)
    assert said == ["resuming after epoch 1 of 2"]
    assert run.next_stage() == "sample"


def test_a_recipe_without_data_takes_what_the_environment_names(run: RunDirectory, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGNAS_DATA", raising=False)
    said: list[str] = []
    recipe = override(load_recipe("posterior"), {"schedule.epochs": 1, "data.limit_train": 64, "data.batch_size": 32})
    train(run, recipe, force=True, device="cpu", notice=said.append)
    assert said[0].startswith("no data named: using the embedded digits")
    assert restore.run_recipe(run).data.name == "digits"
