"""The runs of the paper's tables in miniature are made once, each from where it is; `pgnas` is played by a recorder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[1] / "bench"
sys.path[:0] = [str(BENCH / "evidence"), str(BENCH)]

from commands import Stopped  # noqa: E402
from paper_runs import Runs  # noqa: E402
from paper_sample import numbers, whole  # noqa: E402

MEAN, RATE = 120_000.4, 0.1 + 0.2


class Recorder:
    """Writes what a stage leaves in run.json, and notes what was asked for."""

    def __init__(self, stop_at: str = "") -> None:
        self.calls: list[list[str]] = []
        self.stop_at = stop_at

    def __call__(self, name: str, *arguments: object, program: Sequence[str] = ()) -> None:
        words = [name, *map(str, arguments)]
        self.calls.append(words)
        run = Path(words[words.index("--run") + 1])
        manifest = run / "run.json"
        if name == "inflate":
            run.mkdir(parents=True)
            manifest.write_text('{"stages": {}}')
            return
        if name == "train" and "--resume" not in words:
            (run / "train").mkdir()
            (run / "train" / "recipe.toml").write_text("")
        if name == self.stop_at:
            self.stop_at = ""
            raise Stopped
        stages = json.loads(manifest.read_text())["stages"]
        found: dict[str, Any] = {"epochs": 2, "fixed_drop": RATE} if name == "train" else {}
        if name == "sample":
            stages.pop("rank", None)
            found = {"params": {"mean": MEAN}, "asked": int(words[words.index("-n") + 1])}
            if "--drop-prob" in words:
                found["drop_prob"] = float(words[words.index("--drop-prob") + 1])
        if name == "rank":
            (run / "rank").mkdir(exist_ok=True)
            finetune = {"finetune": {"epochs": 3}} if "--finetune" in words else {}
            (run / "rank" / "ranking.json").write_text(json.dumps(finetune))
        manifest.write_text(json.dumps({"stages": {**stages, name: found}}))


def options(folder: Path, **given: object) -> argparse.Namespace:
    values = {"epochs": 2, "limit_train": 600, "selection": 0.05, "candidates": 7, "finetune": 3, "many": 30, "both": 5}
    return argparse.Namespace(out=folder, device="cpu", data_dir=Path("data"), **{**values, **given})


def names(recorder: Recorder) -> list[str]:
    return [Path(words[words.index("--run") + 1]).name + " " + words[0] for words in recorder.calls]


def test_a_baseline_has_the_size_of_the_guided_candidates_and_lies_in_their_run(tmp_path: Path) -> None:
    recorder = Recorder()
    runs = Runs(options(tmp_path), recorder)  # type: ignore[arg-type]
    run = runs.made("uniform", 4)
    assert run == tmp_path / "guided-4" / "baselines" / "uniform"
    stages = ["inflate", "train", "sample", "rank", "rank"]  # the second ranking fine-tunes
    assert names(recorder) == [f"{name} {stage}" for name in ("guided-4", "uniform") for stage in stages]
    training = recorder.calls[6]
    assert training[training.index("--fixed-drop") + 1] == "120000"
    assert "--fixed-drop" not in recorder.calls[1]
    runs.made("uniform", 4)
    assert len(recorder.calls) == 10


@pytest.mark.parametrize("stage", ["train", "sample", "rank"])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, stage: str) -> None:
    recorder = Recorder(stop_at=stage)
    runs = Runs(options(tmp_path), recorder)  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        runs.made("tau-0.1", 0)
    before = len(recorder.calls)
    runs.made("tau-0.1", 0)
    again = recorder.calls[before:]
    assert again[0][0] == stage
    assert ("--resume" in again[0]) is (stage == "train")
    assert [words[0] for words in recorder.calls].count("inflate") == 1


def test_a_larger_sample_is_drawn_in_a_copy_without_baselines(tmp_path: Path) -> None:
    recorder = Recorder()
    runs = Runs(options(tmp_path), recorder)  # type: ignore[arg-type]
    runs.made("uniform", 0)
    before = len(recorder.calls)
    many = runs.sample_of_base(0)
    assert [words[0] for words in recorder.calls[before:]] == ["sample", "rank"]
    assert recorder.calls[before][1:3] == ["-n", "30"]
    assert not (many / "baselines").exists()
    runs.sample_of_base(0)
    assert len(recorder.calls) == before + 2


def test_the_guided_supernet_is_drawn_at_the_rate_of_the_uniform_one(tmp_path: Path) -> None:
    recorder = Recorder(stop_at="")
    runs = Runs(options(tmp_path), recorder)  # type: ignore[arg-type]
    runs.made("uniform", 0)
    before = len(recorder.calls)
    run = runs.made("drawn-uniformly", 0)
    sample, rank = recorder.calls[before:]
    assert (sample[0], rank[0], run.name) == ("sample", "rank", "drawn-uniformly-0")
    assert float(sample[sample.index("--drop-prob") + 1]) == RATE
    assert sample[sample.index("--strategy") + 1] == "uniform"
    assert not (run / "baselines").exists()
    runs.made("drawn-uniformly", 0)
    assert len(recorder.calls) == before + 2


def test_l2_is_a_share_of_n(tmp_path: Path) -> None:
    recorder = Recorder()
    Runs(options(tmp_path), recorder).made("l2-0.001", 0)  # type: ignore[arg-type]
    assert "objective.l2=6.0" in recorder.calls[1]


def test_runs_of_other_settings_are_refused(tmp_path: Path) -> None:
    Runs(options(tmp_path), Recorder())  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="name another --out"):
        Runs(options(tmp_path, epochs=9), Recorder())  # type: ignore[arg-type]


def test_table_6_ends_with_the_whole_sample() -> None:
    assert numbers(1000) == [50, 150, 500, 1000]
    assert numbers(500) == [50, 150, 500]
    assert numbers(20) == [20]


def test_histograms_are_there_when_the_last_bins_are() -> None:
    rows = [{"what": "selection accuracy", "count": "4", "of": "4"}, {"what": "p", "count": "3", "of": "5"}]
    assert not whole([])
    assert not whole(rows[:1])
    assert not whole(rows)
    assert whole([*rows, {"what": "p", "count": "2", "of": "5"}])
