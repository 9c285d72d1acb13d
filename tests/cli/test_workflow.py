"""The five commands in order, quickstart, and how a command finds its run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import forking
import pytest

from pgnas_cli import inflate, restore
from pgnas_cli.__main__ import main
from pgnas_cli.commands import quickstart

TRAIN = ("train", "--recipe", "posterior", "--data", "digits", "--limit-train", "320", "--epochs", "1",
         "--target-params", "0.5x")  # fmt: skip
COMMANDS = {
    "inflate": ("inflate", "test_resnet", "--classes", "10", "--in-chans", "1", "--img-size", "8"),
    "train": TRAIN,
    "sample": ("sample", "-n", "4"),
    "rank": ("rank",),
    "export": ("export",),
    "verify": ("verify",),
}


class Journey:
    """The commands one after the other in one folder, each in a process of its own, with --json and without --run."""

    def __init__(self, folder: Path, outputs: Path) -> None:
        self.folder = folder
        self.done: dict[str, subprocess.CompletedProcess[str]] = {}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PGNAS_")}
        for name, arguments in COMMANDS.items():
            environment = kept | {"OMP_NUM_THREADS": "1", "TERM": "dumb"}
            self.done[name] = forking.run((*arguments, "--json"), cwd=folder, env=environment, outputs=outputs)

    def result(self, name: str) -> dict[str, Any]:
        return json.loads(self.done[name].stdout)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    return Journey(tmp_path_factory.mktemp("journey"), tmp_path_factory.mktemp("outputs"))


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """One command line in this process: exit code, stdout, stderr."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- the five commands ----


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_ends_well_with_one_json_document(journey: Journey, name: str) -> None:
    done = journey.done[name]
    assert done.returncode == 0, done.stderr
    assert isinstance(journey.result(name), dict)
    assert not [line for line in done.stderr.splitlines() if line.startswith(("error:", "hint:", "next:", "warning:"))]


@pytest.mark.slow
def test_the_results_fit_together(journey: Journey) -> None:
    inflate, train, sample, rank, export, verify = map(journey.result, COMMANDS)
    run = journey.folder / inflate["run"]
    assert {result["run"] for result in (inflate, train, sample, rank, export)} == {
        str(run.relative_to(journey.folder))
    }
    assert run.name.startswith("test_resnet-")
    assert inflate["supernet"]["params"] == inflate["baseline"]["params"] == train["params"] == 373370
    assert (inflate["gates"], inflate["gated_channels"]) == (14, 880)
    assert train["expected_params"] == pytest.approx(0.5 * train["params"], rel=0.02)
    assert (sample["candidates"], sample["warnings"], rank["candidates"]) == (4, [], 4)
    assert sample["params"]["min"] <= rank["params"] <= sample["params"]["max"]
    assert rank["images"] == 4 * 200
    assert rank["test_accuracy"]["n"] == 400
    assert export["candidate"] == rank["winner"]
    assert (export["params"], export["macs"]) == (rank["params"], rank["macs"])
    assert verify["passed"] is True
    assert len(verify["checks"]) == 9
    files = {path.relative_to(run).parts[0] for path in run.rglob("*")}
    assert files == {
        "run.json", "supernet.safetensors", "train", "candidates.safetensors", "candidates.jsonl", "rank", "export",
    }  # fmt: skip


@pytest.mark.slow
def test_status_before_and_after(journey: Journey, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PGNAS_RUN", raising=False)
    monkeypatch.chdir(journey.folder)
    code, out, err = say(capsys, "status", "--json")
    status = json.loads(out)
    assert (code, err, status["next"], status["unfinished"]) == (0, "", None, False)
    assert list(status["stages"]) == ["inflate", "train", "sample", "rank", "export"]
    assert status["ranking"]["winner"] == journey.result("rank")["winner"]
    code, out, err = say(capsys, "status")
    assert (code, err) == (0, "")
    assert f"winner {status['ranking']['winner']}" in out
    assert out.count("done") == 5
    copy = Path(shutil.copytree(journey.folder / status["run"], tmp_path / "copy"))
    manifest = json.loads((copy / "run.json").read_text())
    for stage in ("rank", "export"):
        del manifest["stages"][stage]
    (copy / "run.json").write_text(json.dumps(manifest))
    assert say(capsys, "status", "--run", str(copy))[2] == f"next: pgnas rank --run {copy}\n"


@pytest.mark.slow
def test_a_person_is_told_what_to_type_next(journey: Journey, capsys, monkeypatch, tmp_path: Path) -> None:
    """Without --json: tables on stdout, `next:` on stderr, and that line works as typed."""
    run = str(shutil.copytree(journey.folder / journey.result("inflate")["run"], tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    code, out, err = say(capsys, "sample", "-n", "3", "--force", "--run", run)
    assert code == 0
    assert "3 distinct candidates" in out
    assert err.splitlines()[-1] == f"next: pgnas rank --run {run}"
    for stage, following in (("rank", f"pgnas export --run {run}"), ("export", f"pgnas verify --run {run}")):
        line = err.splitlines()[-1].removeprefix("next: ").split()
        assert line[1] == stage
        code, out, err = say(capsys, *line[1:])
        assert (code, err.splitlines()[-1]) == (0, f"next: {following}")
        assert out
    code, out, err = say(capsys, *following.split()[1:])
    assert (code, err) == (0, "")
    assert out.count("holds") == 9
    assert "FAILS" not in out


@pytest.mark.slow
def test_verify_exits_1_when_a_link_does_not_hold(journey: Journey, capsys, tmp_path: Path) -> None:
    source = journey.folder / journey.result("inflate")["run"] / "export"
    folder = Path(shutil.copytree(source, tmp_path / "artifact"))
    config = json.loads((folder / "config.json").read_text())
    config["pgnas"]["candidate"]["params"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    code, out, err = say(capsys, "verify", str(folder))
    assert code == 1
    assert out.count("FAILS") == 1
    assert err.startswith(f"error: {folder} does not verify: parameters = counted\nhint: ")


@pytest.mark.slow
def test_quickstart_ends_in_three_networks_in_its_own_run_whatever_the_environment_names(pgnas, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    restore.create_run(inflate("shakeshake26_2x2d", in_chans=1, img_size=8), mine)
    before = {path: path.read_bytes() for path in mine.iterdir()}
    done = pgnas("quickstart", "--tiny", env={"PGNAS_RUN": "mine"})
    assert done.returncode == 0, done.stderr
    for line in ("full supernet", "uniform candidates", "found network"):
        assert [row for row in done.stdout.splitlines() if row.startswith(line) and " ms (" in row], line
    assert "400 test images" in done.stdout
    typed = [line for line in done.stderr.splitlines() if line.startswith("$ pgnas ")]
    assert [line.split()[2] for line in typed[:5]] == ["inflate", "train", "sample", "rank", "export"]
    (quick,) = (tmp_path / "runs").iterdir()
    assert done.stderr.splitlines()[-1] == f"next: pgnas status --run {quick.relative_to(tmp_path)}"
    for run in (quick, quick / "baselines" / "plain", quick / "baselines" / "uniform"):
        assert (run / "export" / "model.safetensors").is_file()
    assert {path: path.read_bytes() for path in mine.iterdir()} == before


def test_quickstart_works_in_the_run_that_is_named() -> None:
    named = [quickstart._inflate_line(True, 0, Path("my run")), quickstart._train_line("0", True, 0, Path("my run"))]
    assert [shlex.split(line)[-2:] for line in named] == [["--run", "my run"]] * 2


def test_the_next_command_names_the_run_where_the_environment_names_another(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGNAS_RUN", "mine")
    code, _, err = say(capsys, "inflate", "shakeshake26_2x2d", "--in-chans", "1", "--img-size", "8")
    assert (code, err.splitlines()[-1].startswith("next: pgnas train --run runs/")) == (0, True)
    code, _, err = say(capsys, "inflate", "shakeshake26_2x2d", "--in-chans", "1", "--img-size", "8", "--run", "mine")
    assert (code, err.splitlines()[-1]) == (0, "next: pgnas train --run mine")


# ---- which run ----


@pytest.fixture
def three_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """./runs/old and ./runs/new, and a run elsewhere."""
    monkeypatch.delenv("PGNAS_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    for path in ("runs/z-old", "elsewhere", "runs/a-new"):
        restore.create_run(inflate("shakeshake26_2x2d", in_chans=1, img_size=8), path)
    return tmp_path


def test_run_option_then_environment_then_newest(three_runs: Path, capsys, monkeypatch) -> None:
    def chosen(*arguments: str) -> str:
        code, out, err = say(capsys, "status", "--json", *arguments)
        assert (code, err) == (0, "")
        return json.loads(out)["run"]

    assert chosen() == "runs/a-new"
    os.utime(three_runs / "runs/z-old/run.json")  # touched later, made earlier
    assert chosen() == "runs/a-new"
    monkeypatch.setenv("PGNAS_RUN", "elsewhere")
    assert chosen() == "elsewhere"
    assert chosen("--run", "runs/z-old") == "runs/z-old"


def test_inflate_without_a_name_takes_the_next_free_one(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(2):
        code, out, _ = say(capsys, "inflate", "shakeshake26_2x2d", "--in-chans", "1", "--img-size", "8", "--json")
        assert code == 0
        names.append(Path(json.loads(out)["run"]))
    assert [name.parent for name in names] == [Path("runs")] * 2
    assert [name.name.rpartition("-")[2] for name in names] == ["1", "2"]


# ---- the zoo ----


def test_zoo_list_is_a_list_of_architectures(capsys) -> None:
    code, out, err = say(capsys, "zoo", "list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err) == (0, "")
    assert {"resnet50", "shakeshake26_2x96d", "shakeshake26_2x160d"} <= rows.keys()
    assert (rows["resnet50"]["plugin"], rows["resnet50"]["params"]) == ("resnet", 25_557_032)
    assert rows["supnet-mi"]["published_params"] == 72.7e6
    assert {"name", "plugin", "params", "macs", "published_params"} <= rows["resnet50"].keys()
    code, out, _ = say(capsys, "zoo", "list")
    assert code == 0
    assert "resnet50" in out


def test_zoo_show_names_what_is_gated(capsys) -> None:
    code, out, err = say(capsys, "zoo", "show", "resnet50", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert (shown["params"], shown["macs"], shown["num_classes"]) == (25_557_032, 4_089_184_256, 1000)
    assert "conv1" in shown["ungated"]
    assert shown["gated"]["layer1.0.conv2"] == [64]
    assert shown["options"] == ["kernels", "stem", "width"]
    code, out, err = say(capsys, "zoo", "show", "resnet50", "--layers")
    assert (code, err) == (0, "next: pgnas inflate resnet50\n")
    assert "layer4.2.conv3" in out
