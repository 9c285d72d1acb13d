"""Faults while a training runs: one line that names them, the right exit code, and a checkpoint that still goes on."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pgnas_cli import inflate, restore
from pgnas_cli.__main__ import main
from pgnas_cli.run import RunDirectory, read_jsonl
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import checkpoint
from pgnas_cli.training.checkpoint import last_checkpoint

PROGRAM = Path(sysconfig.get_path("scripts"), "pgnas")
EPOCHS = 3
TRAIN = f"train --run run --data digits --limit-train 160 --batch-size 32 --epochs {EPOCHS} --device cpu"
CAPABILITIES_VERSION, CAP_DAC_OVERRIDE = 0x20080522, 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Read only: a run that has been inflated, and one whose training has two of three epochs behind it."""
    root = tmp_path_factory.mktemp("made")
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    restore.create_run(net, root / "run", options={"explicit": ["in_chans", "img_size"]})
    inflated = Path(shutil.copytree(root / "run", root / "inflated"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(checkpoint, "KEEP", EPOCHS)
        assert main(TRAIN.split()) == 0
    run = RunDirectory(root / "run")
    run.forget("train")  # as if it had been stopped in its last epoch
    for name in ("log.jsonl", "posterior.jsonl"):
        path = run.train_path / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: EPOCHS - 1]))
    shutil.rmtree(sorted(run.checkpoints_path.iterdir())[-1])
    return {"inflated": inflated, "stopped": run.path}


@pytest.fixture
def at(made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RunDirectory]:
    """`at("stopped")`: a copy of that run, called `run`, in the current folder."""
    monkeypatch.delenv("PGNAS_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda stage: RunDirectory(Path(shutil.copytree(made[stage], tmp_path / "run")))


def say(capsys: pytest.CaptureFixture[str], arguments: str) -> tuple[int, list[str]]:
    """Exit code and the lines on stderr of one command."""
    capsys.readouterr()
    code = main(arguments.split())
    return code, capsys.readouterr().err.splitlines()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def epochs(run: RunDirectory) -> list[int]:
    return [row["epoch"] for row in read_jsonl(run.train_path / "log.jsonl")]


# ---- checkpoints ----


@pytest.mark.parametrize("name", ["supernet.safetensors", "state.pt", "checkpoint.json"])
def test_a_checkpoint_cut_short_is_passed_over_and_it_says_so(at, capsys, name: str) -> None:
    run = at("stopped")
    before, newest = sorted(run.checkpoints_path.iterdir())
    assert (before.name, newest.name) == ("000000005", "000000010")
    path = newest / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, said = say(capsys, "train --run run --resume")
    assert code == 0
    assert "checkpoint run/train/checkpoints/000000010 is damaged: it is passed over" in said[0]
    assert any("resuming after epoch 1 of 3" in line for line in said)
    assert (epochs(run), run.require("train")["epochs"]) == ([1, 2, 3], 3)
    assert last_checkpoint(run)[1] == []


def test_quiet_hides_no_warning_and_json_keeps_it_off_stdout(at, capsys) -> None:
    run = at("stopped")
    newest = sorted(run.checkpoints_path.iterdir())[-1]
    (newest / "state.pt").write_bytes(b"")
    assert main(["train", "--run", "run", "--resume", "--quiet", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["epochs"] == EPOCHS
    assert err == f"warning: checkpoint run/train/checkpoints/{newest.name} is damaged: it is passed over\n"


def test_gates_that_are_not_well_are_a_warning_also_where_it_is_quiet(at, capsys) -> None:
    at("inflated")
    code, said = say(capsys, f"{TRAIN} --gate-lr 1e-6 --quiet")
    (warning,) = said
    assert code == 0
    assert warning.startswith("warning: 504 of 504 drop probabilities have moved by less than ")
    assert warning.endswith("; a higher --gate-lr, or --gate-optimizer adam")


def test_without_any_whole_checkpoint_it_starts_again_and_says_so(at, capsys) -> None:
    run = at("stopped")
    for folder in run.checkpoints_path.iterdir():
        (folder / "state.pt").write_bytes(b"")
    code, said = say(capsys, "train --run run --resume")
    assert (code, sum("is damaged" in line for line in said)) == (0, 2)
    assert any("no checkpoint was written yet: starting from the first epoch" in line for line in said)
    assert epochs(run) == [1, 2, 3]


# ---- a loss that is not finite ----


def test_a_rate_that_is_far_too_high_names_the_step_and_keeps_the_last_checkpoint(at, capsys) -> None:
    run = at("stopped")
    recipe = run.train_path / "recipe.toml"
    good = recipe.read_text()
    recipe.write_text(re.sub(r"(?m)^lr = .*$", "lr = 1e30", good))
    assert recipe.read_text() != good
    kept, _ = last_checkpoint(run)
    before = content(kept.path)
    code, said = say(capsys, "train --run run --resume")
    assert code == 1
    assert re.fullmatch(
        r"error: the (loss is (nan|inf) at|weights are not finite after) step 1[0-5]( \(.*\))?", said[-2]
    )
    assert said[-1].startswith("hint: pgnas train --force --lr")
    assert last_checkpoint(run) == (kept, [])
    assert content(kept.path) == before
    recipe.write_text(good)
    assert say(capsys, "train --run run --resume")[0] == 0
    assert epochs(run) == [1, 2, 3]


# ---- memory ----


def test_out_of_memory_suggests_what_fits_and_that_does(at, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    run = at("inflated")
    plain = Supernet.forward

    def small(net: Supernet, images: Tensor) -> Tensor:
        if net.training and len(images) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(net, images)

    monkeypatch.setattr(Supernet, "forward", small)
    code, said = say(capsys, TRAIN)
    assert code == 1
    assert said[-2] == "error: out of memory on cpu with 32 images at a time: 8 fit"
    assert said[-1] == "hint: --accumulate 4 takes the same steps in parts, or --batch-size 8"
    assert last_checkpoint(run)[0] is None
    for option in ("--accumulate 4", "--batch-size 8"):
        assert say(capsys, f"{TRAIN} {option} --epochs 1 --force")[0] == 0


# ---- the disk ----


@contextmanager
def without_override() -> Iterator[None]:
    """Inside, root too is refused what the mode of a file does not allow."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)  # of this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, twice 32 bits

    def checked(failed: int) -> None:
        if failed:
            raise OSError(ctypes.get_errno(), "the capability stays")

    checked(libc.capget(header, sets))
    before = sets[0]
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
    checked(libc.capset(header, sets))
    try:
        yield
    finally:
        sets[0] = before
        checked(libc.capset(header, sets))


@pytest.mark.skipif(sys.platform != "linux", reason="modes and capabilities of Linux")
@pytest.mark.parametrize(
    ("stage", "locked", "arguments"),
    [
        ("inflated", ".", TRAIN),
        ("stopped", "train/checkpoints", "train --run run --resume"),
        ("stopped", "train", "train --run run --resume"),
    ],
)
def test_a_read_only_directory(at, capsys, stage: str, locked: str, arguments: str) -> None:
    run = at(stage)
    folder = run.path / locked
    before = content(run.path)
    folder.chmod(0o555)
    try:
        capsys.readouterr()
        with without_override():
            code = main(arguments.split())
    finally:
        folder.chmod(0o755)
    out, err = capsys.readouterr()
    said = err.splitlines()
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"error: .*run/{'' if locked == '.' else locked}.*: Permission denied", said[-2])
    assert said[-1] == "hint: check that the path exists and that you may use it"
    assert {name: data for name, data in content(run.path).items() if "checkpoints" in name} == {
        name: data for name, data in before.items() if "checkpoints" in name
    }
    code = main(arguments.split())
    assert (code, epochs(run)) == (0, [1, 2, 3])


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """A prefix for a command that gets a file system of 3 MB at tmp_path/disk, into which tmp_path/run is copied."""
    (tmp_path / "disk").mkdir()
    script = "mount -t tmpfs -o size=3m small disk && cp -r run disk/ && cd disk && "
    script += '"$@"; code=$?; cp -r run ../after; exit $code'
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        probe = [*unshare, "mount", "-t", "tmpfs", "-o", "size=3m", "small", "disk"]
        if shutil.which("unshare") and subprocess.run(probe, cwd=tmp_path, capture_output=True).returncode == 0:
            return [*unshare, "sh", "-c", script, "sh"]
    pytest.skip("no file system can be mounted here")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(at, environment, small_disk: list[str], tmp_path: Path) -> None:
    run = at("stopped")
    kept, _ = last_checkpoint(run)
    used = sum(len(data) for data in content(run.path).values())
    free = 3 * 2**20 - used
    assert free > 0
    (run.path / "ballast").write_bytes(bytes(max(0, free - 200_000)))
    done = subprocess.run(
        [*small_disk, PROGRAM, "train", "--run", "run", "--resume"], cwd=tmp_path, env=environment, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch(r"error: no space left for .*: it was not written", said[-2])
    assert said[-1] == "hint: free some space, then run it again"
    after = RunDirectory(tmp_path / "after")
    found, damaged = last_checkpoint(after)
    assert (found.epoch, damaged, content(found.path)) == (2, [], content(kept.path))
    (after.path / "ballast").unlink()
    assert main(["train", "--run", str(after.path), "--resume"]) == 0
    assert epochs(after) == [1, 2, 3]
