"""What a user can get wrong: one `error:` line, a hint where there is something to type, the right exit code."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pgnas_cli import inflate, restore
from pgnas_cli.__main__ import main
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl
from pgnas_cli.training.checkpoint import last_checkpoint
from pgnas_cli.training.loop import train
from pgnas_cli.training.progress import TrainProgress

TINY = "shakeshake26_2x4d"


def recipe(epochs: int = 1):
    changes = {"data.name": "digits", "data.limit_train": 160, "data.batch_size": 32, "schedule.epochs": epochs}
    return override(load_recipe("posterior"), {**changes, "budget.target_params": "0.5x"})


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read only: a run after each stage."""
    root = tmp_path_factory.mktemp("stages")
    net = inflate(TINY, in_chans=1, img_size=8, seed=0)
    made = {"inflated": root / "inflated"}
    restore.create_run(net, made["inflated"], options={"explicit": ["in_chans", "img_size"]})
    steps: dict[str, Callable[[RunDirectory], object]] = {
        "trained": lambda run: train(run, recipe(), device="cpu"),
        "sampled": lambda run: sample(run, n=2),
        "ranked": lambda run: rank(run, device="cpu"),
    }
    last = "inflated"
    for name, step in steps.items():
        made[name] = Path(shutil.copytree(made[last], root / name))
        step(RunDirectory(made[name]))
        last = name
    return made


@pytest.fixture
def at(stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """`at("trained")`: a copy of that run, called `run`, in the current folder."""
    monkeypatch.delenv("PGNAS_RUN", raising=False)
    monkeypatch.delenv("PGNAS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda stage: str(shutil.copytree(stages[stage], tmp_path / "run") and "run")


def check(code: int, out: str, err: str, wanted: int, message: str, hint: str) -> None:
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert (code, out) == (wanted, ""), err
    assert len(errors) == 1
    assert message in errors[0]
    assert len(hints) == (1 if hint else 0)
    assert hint in "".join(hints)
    assert lines[-1] == (hints or errors)[0]
    assert "Traceback" not in err


def refused(capsys, arguments: str, wanted: int, message: str, hint: str) -> None:
    capsys.readouterr()
    code = main(arguments.split())
    captured = capsys.readouterr()
    check(code, captured.out, captured.err, wanted, message, hint)


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("resnet5", "unknown architecture 'resnet5'; did you mean resnet50", "pgnas zoo list"),
        ("shakeshake26_2x0d", "did you mean shakeshake26_2x", "pgnas zoo list"),
        ("vgg:resnet50", "unknown architecture 'vgg:resnet50'", "pgnas zoo list"),
        ("resnet18 --width 0", "width of 0", "--width"),
        ("resnet18 --width -1", "width of -1", "--width"),
        ("resnet18 --width wide", "--width", "pgnas inflate --help"),
        ("resnet18 --params many", "--params 'many'", "44M"),
        ("resnet18 --params 0", "--params '0'", "44M"),
        ("resnet18 --params 0.5x", "--params '0.5x' is relative", "44M"),
        ("resnet18 --params 5M --width 2", "--width", "leave one of them out"),
        ("resnet18 --kernels 1,x", "--kernels '1,x'", "--kernels 1,3,5,9"),
        ("resnet18 --kernels 1,2", "kernel 2", "--kernels 1,3,5,9"),
        ("resnet18 --kernels 3,3", "named twice", "--kernels 1,3,5,9"),
        (f"{TINY} --kernels 1,3", "no --kernels", "--width"),
        ("resnet18 --stem wide", "stem 'wide'", "--stem auto"),
        ("resnet18 --classes 0", "--classes is 0", "--classes"),
        ("resnet18 --img-size 0", "--img-size is 0", "--img-size"),
    ],
)
def test_inflate(at, capsys, tmp_path: Path, arguments: str, message: str, hint: str) -> None:
    refused(capsys, f"inflate {arguments}", 2, message, hint)
    assert not list(tmp_path.iterdir())


def test_inflate_into_a_run_that_exists(at, capsys) -> None:
    refused(capsys, f"inflate {TINY} --run {at('inflated')}", 2, "already exists", "--run")


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        ("--set schedule.epoch=3", 2, "unknown key 'schedule.epoch'; did you mean schedule.epochs", "valid keys"),
        ("--set nonsense", 2, "KEY=VALUE", "--set schedule.epochs=40"),
        ("--set schedule.epochs=many", 2, "schedule.epochs should be int", "default.toml"),
        ("--epochs 0", 2, "schedule.epochs is 0", "--epochs"),
        ("--lr -1", 2, "optimizer.lr is -1", "--lr"),
        ("--recipe cifar1000", 2, "no recipe is called 'cifar1000'", "default"),
        ("--recipe mine.toml", 2, "no such recipe file: mine.toml", "default"),
        ("--granularity layer", 2, "granularity", "--granularity group"),
        ("--gate-optimizer rmsprop", 2, "gate_optimizer", "--gate-optimizer adam"),
        ("--data digitz", 2, "unknown data set 'digitz'; did you mean digits", "folder:DIR"),
        ("--data folder:missing", 4, "missing", "train"),
        ("--data torch/mnist --data-dir nowhere", 4, "mnist", " "),
        ("--gpus 7", 2, "--gpus 7: there is no GPU 7", "devices here: "),
        ("--device toaster", 2, "toaster", "devices here: "),
        ("--gpus 0 --device cpu", 2, "--gpus 0 and --device cpu contradict", "leave --device out"),
        ("--amp fp16", 2, "compute.amp is 'fp16'", "--amp bfloat16"),
        ("--amp float16 --device cpu", 2, "--amp float16 needs a GPU", "--amp bfloat16"),
        ("--sync-bn --device cpu", 2, "--sync-bn needs GPUs", "leave --sync-bn out"),
        ("--checkpoint-every often", 2, "--checkpoint-every 'often'", "--checkpoint-every 10m, or 500"),
        ("--batch-size 16 --accumulate 9", 2, "fewer than two images", "--batch-size 18"),
        ("--target-macs 2x --target-params 2x", 2, "E[params] cannot be held at", "--target-params"),
        ("--target-macs 0.5x --target-params 0.0001x", 2, "E[params] cannot be held at", "--target-params"),
        ("--target-macs many", 2, "(--target-macs) 'many'", "0.5x"),
        ("--target-latency 3", 2, "(--target-latency) '3'", "3ms"),
        ("--target-params large", 2, "(--target-params) 'large'", "0.5x"),
        ("--target-params 0.0001x", 2, "cannot be held at", "--target-params"),
        ("--target-params 2x", 2, "cannot be held at", "--target-params"),
        ("--fixed-drop 1", 2, "--fixed-drop 1", "--fixed-drop 0.4"),
        ("--fixed-drop 0.3 --target-params 0.5x", 2, "exclude each other", "leave one of them out"),
        ("--resume", 3, "no training to resume", "pgnas train --run run"),
        ("--resume --epochs 5", 2, "--epochs cannot be changed", "leave it out"),
        ("--resume --ema 0.9", 2, "--ema cannot be changed", "leave it out"),
        ("--resume --fixed-drop 0.3", 2, "--fixed-drop cannot be changed", "leave it out"),
    ],
)
def test_train(at, capsys, tmp_path: Path, arguments: str, code: int, message: str, hint: str) -> None:
    run = at("inflated")
    data = "" if "--data" in arguments or "--resume" in arguments else "--data digits"
    refused(capsys, f"train --run {run} {data} {arguments}", code, message, hint)
    assert not (tmp_path / run / "train").exists()


@pytest.mark.parametrize(
    ("stage", "command", "code", "message", "hint"),
    [
        ("inflated", "sample", 3, "no finished train stage", "pgnas train --run run"),
        ("inflated", "rank", 3, "no finished train stage", "pgnas train --run run"),
        ("trained", "rank", 3, "no finished sample stage", "pgnas sample --run run"),
        ("trained", "export", 3, "no finished sample stage", "pgnas sample --run run"),
        ("sampled", "export", 3, "no finished rank stage", "pgnas rank --run run"),
        ("ranked", "verify", 3, "no finished export stage", "pgnas export --run run"),
        ("sampled", "train", 3, "sample already used what train wrote", "pgnas train --force --run run"),
        ("ranked", "sample", 3, "rank already used what sample wrote", "pgnas sample --force --run run"),
        ("trained", "sample -n 0", 2, "at least 1", "-n 100"),
        ("trained", "sample --strategy best", 2, "unknown strategy 'best'", "posterior, uniform"),
        ("trained", "sample --max-params big", 2, "--max-params 'big'", "0.5x"),
        ("trained", "sample --max-params 0.01x", 2, "within the limits", "--max-params"),
        ("sampled", "rank --method luck", 2, "--method 'luck'", "--method race"),
        ("sampled", "rank --recalibrate -1", 2, "--recalibrate -1", "--recalibrate"),
        ("sampled", "rank --gpus 7", 2, "there is no GPU 7", "devices here: "),
        ("ranked", "export --candidate zz", 2, "no candidate", "leaderboard.jsonl"),
        ("ranked", "export --layout thin", 2, "--layout 'thin'", "--layout gather"),
        ("ranked", "export --output run", 2, "no pgnas artifact", "--output"),
    ],
)
def test_stages_out_of_order_and_their_options(at, capsys, stage: str, command: str, code, message, hint) -> None:
    name, _, options = command.partition(" ")
    refused(capsys, f"{name} --run {at(stage)} {options}", code, message, hint)


# ---- runs ----


@pytest.mark.parametrize("command", ["train --data digits", "sample", "rank", "export", "status"])
def test_a_run_that_is_none(at, capsys, tmp_path: Path, command: str) -> None:
    (tmp_path / "photos").mkdir()
    refused(capsys, f"{command} --run photos", 3, "photos is not a run directory: it has no run.json", "pgnas inflate")
    refused(capsys, f"{command} --run nowhere", 3, "no such run directory: nowhere", "pgnas inflate")
    refused(capsys, command, 3, "there is no run under ./runs", "pgnas inflate ARCH")


def test_environment_that_names_no_run(at, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGNAS_RUN", "gone")
    refused(capsys, "status", 3, "no such run directory: gone", "--run DIR")


def edit(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        document = json.loads((run / "run.json").read_text())
        change(document)
        (run / "run.json").write_text(json.dumps(document))

    return damage


def cut(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "run.json").write_text("{"), "run.json is not valid JSON"),
        (lambda run: (run / "run.json").write_text("[]"), "should hold a JSON object"),
        (edit(lambda document: document.pop("stages")), "key 'stages' is missing"),
        (edit(lambda document: document.update(format="1")), "key 'format' should be int"),
        (edit(lambda document: document.update(format=99)), "has format 99"),
        (edit(lambda document: document["model"].pop("arch")), "key 'arch' should be str"),
        (edit(lambda document: document["model"].update(img_size=0)), "img_size is 0"),
        (cut("supernet.safetensors"), "supernet.safetensors is damaged or truncated"),
        (lambda run: (run / "supernet.safetensors").unlink(), "supernet.safetensors is missing"),
        (lambda run: shutil.copy(run.parent / "other", run / "supernet.safetensors"), "tensor"),
    ],
)
def test_a_damaged_run(at, capsys, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    damage(tmp_path / at("inflated"))
    refused(capsys, "train --run run --data digits --epochs 1", 3, message, " ")
    assert not (tmp_path / "run" / "train").exists()


@pytest.mark.parametrize(
    ("stage", "name", "command"),
    [
        ("sampled", "candidates.safetensors", "rank"),
        ("sampled", "candidates.jsonl", "rank"),
        ("ranked", "rank/ranking.json", "export"),
        ("ranked", "rank/ranking.json", "status"),
        ("trained", "train/recipe.toml", "sample"),
    ],
)
def test_results_that_are_damaged(at, capsys, tmp_path: Path, stage: str, name: str, command: str) -> None:
    path = tmp_path / at(stage) / name
    path.write_bytes(path.read_bytes()[:100])
    refused(capsys, f"{command} --run run", 3, path.name, "pgnas")


# ---- real processes, and real limits ----


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        ("inflate resnet5", 2, "did you mean resnet50", "pgnas zoo list"),
        ("train --run run --data folder:missing", 4, "missing", "train"),
        ("sample --run run", 3, "no finished train stage", "pgnas train --run run"),
    ],
)
def test_from_the_shell(at, forked, tmp_path: Path, arguments: str, code: int, message: str, hint: str) -> None:
    at("inflated")
    done = forked(*arguments.split(), cwd=tmp_path)
    check(done.returncode, done.stdout, done.stderr, code, message, hint)


def with_little_space(
    capsys: pytest.CaptureFixture[str], *arguments: str, limit: int = 100_000
) -> tuple[int, str, str]:
    """`pgnas` in this process under a real limit of `limit` bytes a file: exit code, stdout, stderr."""
    capsys.readouterr()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code = main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return code, *capsys.readouterr()


@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
@pytest.mark.parametrize("named", [(), ("--run", "mine")])
def test_no_space_for_a_run_leaves_none(at, capsys, tmp_path: Path, named: tuple[str, ...]) -> None:
    arguments = ("inflate", TINY, "--in-chans", "1", "--img-size", "8", *named)
    code, out, err = with_little_space(capsys, *arguments)
    check(code, out, err, 1, "no space left for", "free some space")
    assert "supernet.safetensors" in err
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no RLIMIT_FSIZE")
def test_no_space_for_a_checkpoint_keeps_the_last_one(at, stages, capsys, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / at("inflated"))

    def stop(progress: TrainProgress) -> None:
        if progress.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, recipe(epochs=2), device="cpu", report=stop)
    kept, _ = last_checkpoint(run)
    assert (kept.epoch, run.stage("train")) == (1, None)
    before = {path.name: path.read_bytes() for path in kept.path.iterdir()}
    code, out, err = with_little_space(capsys, "train", "--run", "run", "--resume")
    check(code, out, err, 1, "no space left for", "free some space")
    assert [path.name for path in run.checkpoints_path.iterdir()] == [kept.path.name]
    assert {path.name: path.read_bytes() for path in kept.path.iterdir()} == before
    assert last_checkpoint(run) == (kept, [])
    train(run, device="cpu", resume=True)
    assert [row["epoch"] for row in read_jsonl(run.train_path / "log.jsonl")] == [1, 2]
    whole = RunDirectory(Path(shutil.copytree(stages["inflated"], tmp_path / "whole")))
    train(whole, recipe(epochs=2), device="cpu")
    ours, theirs = (load_tensors(r.path / r.require("train")["checkpoint"], hint="")[0] for r in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(at, capsys, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(capsys, f"inflate {TINY} --run locked/run", 1, "locked/run: Permission denied", "check that the path")
