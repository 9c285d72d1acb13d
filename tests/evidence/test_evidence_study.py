"""study.py and found_plain.py: what a run does, its row, what is not run again, and the tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli.commands.train import make_recipe
from pgnas_cli.recipe_file import load_recipe

EVIDENCE = Path(__file__).parents[1] / "bench" / "evidence"
sys.path[:0] = [str(EVIDENCE), str(EVIDENCE.parent)]

import found_plain  # noqa: E402
import study  # noqa: E402
from commands import PGNAS  # noqa: E402
from ledger import Ledger  # noqa: E402
from study_arms import ARMS  # noqa: E402
from study_runs import Runs, options_of  # noqa: E402
from study_table import FOUND_PLAIN, STUDY  # noqa: E402

SOFT = {"epoch": 5, "expected_params": 106_000.5, "sampled": {"params": {"mean": 105_999.0}}}


class Pgnas:
    """Stands in for the commands: notes them, and leaves what they would in the run."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.programs: list[str] = []
        self.stopped, self.signum = False, 0

    def stop_at_signals(self, minutes: float | None) -> None: ...

    def __call__(self, name: str, *arguments: object, program: Sequence[str] = (PGNAS,)) -> None:
        self.programs.append(Path(program[-1]).name)
        self.calls.append([name, *map(str, arguments)])
        run = Path(self.calls[-1][self.calls[-1].index("--run") + 1])
        run.mkdir(parents=True, exist_ok=True)
        path = run / "run.json"
        manifest = json.loads(path.read_text()) if path.is_file() else {"stages": {}}
        if name == "train":
            resumed = "--resume" in arguments
            epochs = 24 if resumed else int(self.calls[-1][self.calls[-1].index("--epochs") + 1])
            manifest["stages"][name] = {
                "epochs": epochs, "seconds": 12.34, "device": "cpu", "soft": SOFT, "images": 1000 * epochs, "macs": 900,
            }  # fmt: skip
        elif name == "rank":
            (run / "rank").mkdir()
            accuracy = {"value": 0.875, "low": 0.86, "high": 0.89, "n": 6000}
            (run / "rank" / "ranking.json").write_text(json.dumps({
                "params": 105_000, "macs": 300, "candidates": 1, "selection_accuracy": accuracy,
                "test_accuracy": accuracy | {"value": 0.8712},
            }))  # fmt: skip
        manifest["stages"].setdefault(name, {})
        path.write_text(json.dumps(manifest))


def runs_of(script: Any, tmp_path: Path, epochs: int = 24) -> Runs:
    words = ["--data-dir", "data", "--out", str(tmp_path / "out"), "--epochs", str(epochs), "--seeds", "0", "1"]
    options = options_of("", seeds=[0]).parse_args([*words, "--results", str(tmp_path)])
    extra = script.soft if script is study else script.on_the_test_split
    ledger = Ledger(script.__name__, "about", list(script.TYPES), ("arm", "seed"), tmp_path)
    runs = Runs(options, ledger, script.TYPES, extra)
    runs.pgnas = Pgnas()  # type: ignore[assignment]
    return runs


def test_a_run_is_four_commands_and_a_row_that_is_not_made_again(tmp_path: Path) -> None:
    runs = runs_of(study, tmp_path)
    runs.all_of(["anneal"])
    calls: list[list[str]] = runs.pgnas.calls  # type: ignore[attr-defined]
    assert [call[0] for call in calls] == ["inflate", "train", "sample", "rank"] * 2
    train = calls[1]
    assert train[train.index("--temperature") + 1] == "1"
    assert "annealing.temperature_end=0.2" in train
    assert (train[train.index("--limit-train") + 1], train[train.index("--seed") + 1]) == ("10000", "0")
    row = runs.rows()["anneal", 1]
    assert (row["params"], row["selection_accuracy"], row["soft_expected_params"]) == (105_000, 0.875, 106_000.5)
    assert row["training_macs"] == 3 * 1000 * (5 * 900 + 19 * 300)
    assert "test_accuracy" not in row
    runs.all_of(["anneal"])
    assert (len(calls), runs.exit_status()) == (8, 0)


def test_an_arm_with_a_script_of_its_own_trains_with_it(tmp_path: Path) -> None:
    runs = runs_of(study, tmp_path)
    runs.all_of(["distill"])
    assert runs.pgnas.programs == ["pgnas", "distilled.py", "pgnas", "pgnas"] * 2  # type: ignore[attr-defined]
    assert runs.rows()["distill", 0]["training_macs"] == 3 * 1000 * (1.9 * 5 * 900 + 19 * 300)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_what_was_done_of_a_run_is_not_done_again(done: int, tmp_path: Path) -> None:
    """The run was interrupted in the stage after those that are done; in training after its recipe was written."""
    runs, run = runs_of(study, tmp_path), tmp_path / "out" / "plain-0"
    for command in (("inflate",), ("train", "--epochs", 24), ("sample",))[:done]:
        runs.pgnas(*command, "--run", run)
    if done == 1:
        (run / "train").mkdir()
        (run / "train" / "recipe.toml").write_text("")
    runs.all_of(["plain"])
    calls: list[list[str]] = runs.pgnas.calls  # type: ignore[attr-defined]
    made = [call for call in calls if str(run) in call][done:]
    assert [call[0] for call in made] == ["inflate", "train", "sample", "rank"][done:]
    assert ("--resume" in made[0]) == (done == 1)
    assert (runs.rows()["plain", 0]["epochs"], runs.failures) == (24, 0)


def test_found_plain_keeps_the_test_accuracy(tmp_path: Path) -> None:
    runs = runs_of(found_plain, tmp_path)
    runs.all_of(["plain"])
    row = runs.rows()["plain", 1]
    assert (row["test_accuracy"], row["test_low"], row["test_high"], row["test_images"]) == (0.8712, 0.86, 0.89, 6000)
    assert runs.exit_status() == 0


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    runs_of(study, tmp_path, epochs=12).all_of(["plain-73"])
    assert runs_of(study, tmp_path, epochs=12).rows()["plain-73", 0]["epochs"] == 36
    with pytest.raises(SystemExit, match="arm plain-73, seed 0 had 36 epochs, not 73"):
        runs_of(study, tmp_path).rows()


def test_the_arm_that_is_called_the_default_recipe_is_it() -> None:
    recipe = load_recipe(None)
    assert (recipe.objective.temperature, recipe.annealing.temperature_end, recipe.commit.at) == (0.2, 0.05, 0.2)
    assert not any(option in ARMS["harden"].train for option in ("--set", "--temperature"))
    constant = make_recipe(None, {}, [text for text in ARMS["commit"].train if "=" in text])
    assert constant.annealing.temperature_end == constant.objective.temperature


def test_the_tables_show_the_seeds_and_the_difference_to_what_they_are_changes_of(tmp_path: Path) -> None:
    head = "sitting,arm,seed,params,macs,selection_accuracy,test_accuracy,training_macs,seconds\n"
    rows = [
        "1,commit,0,1000,2000000,0.88,0.87,7000000000000,400", "1,commit,1,1000,2000000,0.87,0.86,7000000000000,410",
        "1,harden,0,1100,2000000,0.885,0.89,7000000000000,400", "1,harden,1,1100,2000000,0.877,0.88,7000000000000,410",
        "1,plain,0,1100,1000000,0.86,0.85,3000000000000,200", "1,plain,1,1100,1000000,0.85,0.84,3000000000000,210",
    ]  # fmt: skip
    for name in ("study", "found_plain"):
        (tmp_path / f"{name}.csv").write_text(head + "\n".join(rows) + "\n")
    selection, test = STUDY.render(tmp_path), FOUND_PLAIN.render(tmp_path)
    wanted = "| 88.50 / 87.70 | 88.10 ± 0.57 | +0.60 ± 1.27 | 1,100 | 2.0 M | 7.0 T | 400 to 410 |"
    assert f"| {ARMS['harden'].description} | {ARMS['harden'].network} {wanted}" in selection
    assert "is more accurate than *plain* (+2.00 ± 0.00, n = 2)" in selection
    assert "| 89.00 / 88.00 | 88.50 ± 0.71 | +4.00 ± 0.00 |" in test
    said = "*default recipe: commit, temperature 0.2 to 0.05* (shakeshake26_2x16d) is more accurate than *plain*"
    assert f"- **holds**: {said}" in test
    assert found_plain.TYPES.keys() - study.TYPES.keys() == {"test_accuracy", "test_low", "test_high", "test_images"}
