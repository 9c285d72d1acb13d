"""A finished artifact for the tests of the model card: of a run with a front and a certificate."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgnas_cli.export.card import render_card
from pgnas_cli.export.export import export
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.run import RunDirectory, read_json, read_jsonl, write_json

ESTIMATE = {"value": 0.5, "low": -0.25, "high": 1.0}


MAY_BE_NULL = ("test_accuracy", "selection_accuracy", "max_params")
"""Keys of the section that are there without a value."""


@dataclass(frozen=True)
class Case:
    """A finished artifact beside the run that it came from."""

    run: RunDirectory
    folder: Path
    ranking: dict[str, Any]

    @property
    def spec(self) -> BuildSpec:
        return BuildSpec.from_json(self.section["backbone"])

    @property
    def section(self) -> dict[str, Any]:
        section: dict[str, Any] = read_json(self.folder / "config.json")["pgnas"]
        return section

    @property
    def class_names(self) -> list[str]:
        names: list[str] = read_json(self.folder / "config.json")["pretrained_cfg"]["label_names"]
        return names

    def card(self, **changes: Any) -> str:
        """The card of the section with other values; None removes one."""
        section = {
            key: value for key, value in {**self.section, **changes}.items() if value is not None or key in MAY_BE_NULL
        }
        return render_card(self.spec, section, class_names=self.class_names)


def parts(run: RunDirectory, ranking: Mapping[str, Any]) -> dict[str, Any]:
    """A front of two networks, and a certificate, as `rank --front --certify` adds them."""
    rows = read_jsonl(run.rank_path / "leaderboard.jsonl")
    winner = next(row for row in rows if row["id"] == ranking["winner"])
    points = [
        {
            "id": row["id"], "params": row["params"], "macs": row["macs"],
            "selection_accuracy": {"value": row["accuracy"], "low": row["accuracy"] - 0.0517,
                                   "high": row["accuracy"] + 0.0483, "n": row["n"]},
            "latency": {"median": 0.00257, "low": 0.00252, "high": 0.00265, "batch": 1, "runs": 20},
        }
        for row in (winner, *(row for row in rows if row is not winner))
    ][:2]  # fmt: skip
    ids = [point["id"] for point in points]
    front = {"confidence": 0.95, "device": "cpu", "batch": 1, "threads": 1, "images": 720, "params": ids, "macs": ids,
             "latency": ids, "points": points}  # fmt: skip
    trained = [
        {"id": row["id"], "supernet_accuracy": row["accuracy"], "scratch_accuracy": 0.61 + 0.01 * place}
        for place, row in enumerate(rows[:3])
    ]
    certify = {"k": 3, "tau": ESTIMATE, "regret_at_1": {"value": 0.0055, "low": 0.0, "high": 0.0078}, "epochs": 7,
               "confidence": 0.95, "images": 479232, "seconds": 637.43, "candidates": trained}  # fmt: skip
    return {"front": front, "certify": certify}


def make_case(exported: RunDirectory, folder: Path) -> Case:
    """A copy of a ranked run, given a front and a certificate, in a folder; its winner exported anew."""
    run = RunDirectory(shutil.copytree(exported.path, folder / "run"))
    ranking = read_json(run.rank_path / "ranking.json")
    ranking |= parts(run, ranking)
    write_json(run.rank_path / "ranking.json", ranking)
    export(run)
    return Case(run, run.export_path, ranking)
