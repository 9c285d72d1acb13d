"""`pgnas rank` with evolution, front, certification and fine-tuning: what it prints, refuses, and survives."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forking
import pytest
import torch

from pgnas_cli import inflate, restore
from pgnas_cli.__main__ import main
from pgnas_cli.commands.rank import compare
from pgnas_cli.console import Grid, console, human, percent
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.ranking.journal import FOLDER
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, read_json, read_jsonl
from pgnas_cli.training.loop import train

BESIDES = ("--front", "--certify", "3", "--certify-epochs", "1", "--finetune", "1", "--evolve", "8")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: a supernet after five steps, eight candidates."""
    net = inflate("shakeshake26_2x2d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("sampled") / "run"
    run = restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})
    changes = {"data.name": "digits", "data.limit_train": 160, "data.batch_size": 32, "schedule.epochs": 1}
    train(run, override(load_recipe("posterior"), {**changes, "budget.target_params": "0.5x"}), device="cpu")
    sample(run, n=8, seed=1)
    return run


@pytest.fixture
def run(sampled: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy that the test may change."""
    return RunDirectory(shutil.copytree(sampled.path, tmp_path / "run"))


def say(capsys: pytest.CaptureFixture[str], run: RunDirectory, *options: str) -> tuple[int, str, str]:
    """`pgnas rank` in this process: exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(["rank", "--run", str(run.path), "--device", "cpu", *options])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def stored(run: RunDirectory) -> dict[str, Any]:
    return read_json(run.rank_path / "ranking.json")


def interval(found: dict[str, Any]) -> str:
    return percent(found["value"], found["low"], found["high"])


def table(out: str, title: str) -> list[str]:
    """The rows under a title, each with its cells one space apart."""
    lines = out.splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(title)]
    assert set(lines[start + 2]) == {"─"}
    rows = []
    for line in lines[start + 3 :]:
        if not line or "  " not in line:
            break
        rows.append(" ".join(line.split()))
    return rows


def estimate(found: dict[str, Any], times: float, unit: str) -> str:
    if found["value"] is None:
        return "not defined: the accuracies are all alike"
    text = f"{times * found['value']:.2f}{unit}"
    return text if found["low"] is None else f"{text} ({times * found['low']:.2f} to {times * found['high']:.2f})"


def test_the_tables_say_what_the_file_says(run: RunDirectory, capsys) -> None:
    code, out, err = say(capsys, run, *BESIDES)
    ranking, rows = stored(run), read_jsonl(run.rank_path / "leaderboard.jsonl")
    assert code == 0
    assert err.splitlines()[-1] == f"next: pgnas export --run {run.path}"
    assert "16 candidates, 3,200 images, " in out.splitlines()[0]
    assert table(out, "16 candidates") == [
        f"{row['rank']} {row['id']} {percent(row['accuracy'])} 200 {row['log_likelihood']:.4f} "
        f"{human(row['params'])} {human(row['macs'])}"
        for row in rows[:5]
    ]
    assert "8 candidates were added by evolution" in out.splitlines()
    tuned, certified, front = ranking["finetune"], ranking["certify"], ranking["front"]
    (line,) = [line for line in out.splitlines() if line.startswith("fine-tuned ")]
    assert line.startswith(f"fine-tuned 1 epochs ({tuned['images']:,} images, ")
    assert line.endswith(f"selection {interval(tuned['selection_accuracy'])}, test {interval(tuned['test_accuracy'])}")
    assert f"3 candidates trained from scratch, 1 epochs each ({certified['images']:,} images, " in out
    assert table(out, "3 candidates trained") == [
        f"{place} {row['id']} {percent(row['supernet_accuracy'])} {percent(row['scratch_accuracy'])}"
        for place, row in enumerate(certified["candidates"], 1)
    ]
    tau, regret = estimate(certified["tau"], 1, ""), estimate(certified["regret_at_1"], 100, " points")
    assert f"Kendall tau {tau}, regret at 1 {regret} (95 % bootstrap intervals)" in out.splitlines()
    names = {"params": "parameters", "macs": "MACs", "latency": "latency"}
    assert table(out, "the front (latency of 1 image on cpu, ") == [
        f"{point['id']} {human(point['params'])} {human(point['macs'])} {1e3 * point['latency']['median']:.3g} ms "
        f"{interval(point['selection_accuracy'])} "
        + (", ".join(name for key, name in names.items() if point["id"] in front[key]) or "the winner")
        for point in front["points"]
    ]
    assert certified["candidates"][0]["id"] == ranking["winner"]


def test_json_is_one_document_and_what_is_there_stays(run: RunDirectory, capsys) -> None:
    code, out, err = say(capsys, run, "--certify", "3", "--certify-epochs", "1", "--evolve", "8", "--json", "--quiet")
    first = json.loads(out)
    assert (code, err) == (0, "")
    assert first == {"run": str(run.path), **stored(run)}
    assert first["evolved"] == 8
    assert first["certify"]["k"] == len(first["certify"]["candidates"]) == 3
    code, out, err = say(capsys, run, *BESIDES, "--json", "--quiet")
    second = json.loads(out)
    assert (code, err) == (0, "")
    assert second == {"run": str(run.path), **stored(run)}
    assert second.keys() - first.keys() == {"front", "finetune"}
    assert {name: second[name] for name in first} == first
    assert {*second["front"]["params"], *second["front"]["macs"]} <= {
        point["id"] for point in second["front"]["points"]
    }
    assert second["finetune"]["epochs"] == 1


def test_without_them_nothing_is_said_of_them(run: RunDirectory, capsys) -> None:
    code, out, _ = say(capsys, run)
    assert code == 0
    for word in ("evolution", "fine-tuned", "trained from scratch", "Kendall", "the front"):
        assert word not in out


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ("--evolve -1", "--evolve -1 was given, it should be at least 0", "--evolve 100"),
        ("--certify 2", "--certify 2 was given, it should be at least 3", "--certify 3"),
        ("--certify 9", "--certify 9 was given, and 8 candidates are ranked", "--certify 8"),
        ("--certify 3 --certify-epochs 0", "--certify-epochs 0 was given, it should be at least 1", "--certify-epochs"),
        ("--certify-epochs 3", "--certify-epochs says how long --certify trains, which was not given", "--certify 8"),
        ("--finetune 0", "--finetune 0 was given, it should be at least 1", "--finetune 5"),
        ("--front --finetune 1 --evolve -5", "--evolve -5 was given", "--evolve 100"),
    ],
)
def test_bad_numbers(sampled: RunDirectory, capsys, options: str, message: str, hint: str) -> None:
    code, out, err = say(capsys, sampled, *options.split())
    assert (code, out) == (2, "")
    said = err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"error: {message}")
    assert said[1].startswith(f"hint: {hint}")
    assert not sampled.rank_path.exists()
    assert not (sampled.path / FOLDER).exists()


@pytest.mark.parametrize("option", ["--evolve", "--certify", "--certify-epochs", "--finetune"])
def test_what_is_no_number_is_a_usage_error(sampled: RunDirectory, capsys, option: str) -> None:
    code, out, err = say(capsys, sampled, option, "many")
    assert (code, out) == (2, "")
    assert option in err


# ---- progress ----


class Shown:
    """A bar that keeps what it is given."""

    def __init__(self) -> None:
        self.below: list[Grid] = []
        self.metrics: list[dict[str, Any]] = []
        self.completed: list[float] = []

    def update(self, advance=0, *, completed=None, metrics=None, below=None) -> None:
        self.completed.append(completed)
        self.metrics.append(metrics)
        if below is not None:
            self.below.append(below)


def test_bars_show_who_leads_and_what_is_trained(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: dict[str, Shown] = {}
    closed: list[str] = []

    @contextmanager
    def progress(title: str, total: float, *, unit: str) -> Iterator[Shown]:
        assert title not in bars
        assert len(closed) == len(bars)  # one at a time
        bars[title] = Shown()
        yield bars[title]
        closed.append(title)

    monkeypatch.setattr(console, "progress", progress)
    ranking = compare(run, device="cpu", evolve=8, certify=3, certify_epochs=1, finetune=1)
    assert list(bars) == closed == ["rank", "certify", "finetune"]
    columns, rows = bars["rank"].below[-1]
    assert list(columns) == ["rank", "candidate", "accuracy", "images seen", "parameters", "MACs"]
    assert [list(row) for row in rows] == [
        [str(row["rank"]), row["id"], percent(row["accuracy"]), "200", human(row["params"]), human(row["macs"])]
        for row in read_jsonl(run.rank_path / "leaderboard.jsonl")[:5]
    ]
    assert bars["rank"].metrics[-1]["leader"] == ranking["winner"]
    assert bars["rank"].completed == sorted(bars["rank"].completed)
    assert bars["rank"].completed[-1] == 1.0
    assert not bars["rank"].below[0][1]  # nobody leads before the first look
    assert [metrics["candidate"] for metrics in bars["certify"].metrics] == [
        f"{number} of 3" for number in (1, 2, 3) for _ in range(5)
    ]
    assert bars["finetune"].completed == [1, 2, 3, 4, 5]
    assert not bars["certify"].below + bars["finetune"].below


# ---- a kill ----


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_ends_the_same(
    run: RunDirectory, tmp_path: Path, environment, forked
) -> None:
    sample(run, n=56, seed=3, force=True)
    other = RunDirectory(shutil.copytree(run.path, tmp_path / "other"))

    def command(run: RunDirectory) -> list[str]:
        return ["rank", "--run", str(run.path), "--device", "cpu", "--evolve", "8", "--quiet"]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rank(run, device="cpu", evolve=8)
    finally:
        torch.set_num_threads(threads)
    outputs = {"out": tmp_path / "out", "err": tmp_path / "err"}
    with forking.started(command(other), cwd=tmp_path, env=environment, **outputs) as process:
        deadline = time.monotonic() + 240
        while len(list((other.path / FOLDER).glob("*.safetensors"))) < 2:
            assert process.is_alive(), "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not other.rank_path.exists()
    done = forked(*command(other))
    assert done.returncode == 0, done.stderr
    for name in ("leaderboard.jsonl", "candidates.jsonl"):
        assert (other.rank_path / name).read_bytes() == (run.rank_path / name).read_bytes()
    ranking = stored(other)
    assert 2 * 16 * 200 <= ranking["images_resumed"] < ranking["images"] == 64 * 200
    assert stored(run)["images_resumed"] == 0
    times = {"seconds": 0, "images_resumed": 0}
    assert {**ranking, **times} == {**stored(run), **times}
    assert not (other.path / FOLDER).exists()
