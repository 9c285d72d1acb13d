"""How a run stands: what its files say of a training that is done or under way, of the ranking and of the export.

Nothing here imports torch, and nothing large is read.
"""

from __future__ import annotations

import shlex
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgnas_cli.run import RunDirectory, expect, read_json, read_jsonl

if TYPE_CHECKING:
    from pgnas_cli.recipe import Recipe

Row = dict[str, Any]

PROOF = "pgnas.safetensors"
"""The file of an artifact that holds masks, probe images and logits."""
LOW, HIGH = 0.05, 0.95
"""Between these drop probabilities a group is open: candidates differ in it."""
RECENT = 5
"""Epochs whose median time tells how long the rest takes."""
GRACE = 60.0
"""Seconds beyond two epochs without a new line after which a training seems to have stopped."""
FIRST_GRACE = 900.0
"""The same before the first line: a checkpoint inside an epoch is written every ten minutes by default."""

_NONE = type(None)
_COUNTED = {"value": float, "low": float, "high": float}
_TAU = {"value": (float, _NONE), "low": (float, _NONE), "high": (float, _NONE)}
_LOG = {
    "epoch": int, "selection_accuracy?": (float, _NONE), "images_per_second?": float, "seconds?": float,
    "expected_params?": float, "expected_macs?": float, "expected_latency?": float,
    "target_params?": float, "target_macs?": float, "target_latency?": float,
    "warnings?": [{"kind": str, "message": str, "hint": str}],
}  # fmt: skip
_RANKING = {
    "winner": str, "params": int, "method": str, "confidence": float, "margin": float, "images": int,
    "images_exhaustive": int, "test_accuracy": _COUNTED, "selection_accuracy": _COUNTED,
    "front?": {"points": list}, "certify?": {"k": int, "tau": _TAU, "regret_at_1": _TAU},
    "finetune?": {"epochs": int, "test_accuracy": _COUNTED},
}  # fmt: skip


# ---- training ----------------------------------------------------------------------------------------------


def log_rows(run: RunDirectory) -> list[Row]:
    """A row for each whole epoch of the last training, also of one that is not finished.

    Raises:
        RunError: the log is damaged.
    """
    from pgnas_cli.report.facts import check, typed

    path = run.train_path / "log.jsonl"
    if not path.is_file():
        return []
    hint = f"{typed(run, 'train', '--resume')} goes on, pgnas train --force trains again"
    rows = read_jsonl(path, hint=hint, whole_lines=True)
    for row in rows:
        check(row, _LOG, path, hint)
    return rows


def warnings(rows: list[Row]) -> list[Row]:
    """What the training had to say about the gates, with the epoch."""
    return [
        {
            "epoch": row["epoch"],
            "gate": warning.get("gate"),
            **{key: warning[key] for key in ("kind", "message", "hint")},
        }
        for row in rows
        for warning in row.get("warnings", ())
    ]


def training(run: RunDirectory, stages: Row, rows: list[Row]) -> Row | None:
    """How the last training goes, or went; None before it has begun.

    Args:
        run: where it is written.
        stages: of its manifest.
        rows: of its log.

    Returns:
        JSON-ready. epoch, epochs: done, planned. running: it is not finished, and its files have changed lately.
        selection_accuracy: of the most probable network {last, best, best_epoch, epochs}. costs: see `_costs`.
        posterior: see `_posterior`. age: seconds since its last line (without one, since it began).

    Raises:
        RunError: the recipe or the log of the posterior is damaged.
    """
    from pgnas_cli import restore

    if not (run.train_path / "recipe.toml").is_file():
        return None
    recipe, finished = restore.run_recipe(run), "train" in stages
    last = rows[-1] if rows else {}
    epoch, epochs = last.get("epoch", 0), recipe.schedule.epochs
    times = [row["seconds"] for row in rows[-RECENT:] if "seconds" in row]
    each = statistics.median(times) if times else None
    return {
        "epoch": epoch,
        "epochs": epochs,
        "finished": finished,
        "running": not finished and _silence(run) < (FIRST_GRACE if each is None else 2 * each + GRACE),
        "selection_accuracy": _accuracy(rows),
        "costs": _costs(recipe, stages, rows),
        "posterior": _posterior(run, recipe, epoch),
        "images_per_second": last.get("images_per_second"),
        "seconds_per_epoch": each,
        "seconds_left": None if each is None or finished else each * (epochs - epoch),
        "age": _age(run.train_path / ("log.jsonl" if rows else "recipe.toml")),
    }


def following(run: RunDirectory, begun: Row | None, *, named: bool) -> str | None:
    """The command of the first stage that is not done; None after the last, and while a training is running.

    Args:
        run: what it is for.
        begun: how its training goes, see `training`.
        named: whether the command has to name it.
    """
    upcoming = run.next_stage()
    unfinished = begun is not None and not begun["finished"]
    if upcoming is None or (unfinished and begun is not None and begun["running"]):
        return None
    resume = ["--resume"] if upcoming == "train" and unfinished else []
    return shlex.join(["pgnas", upcoming, *resume, *(["--run", str(run.path)] if named else [])])


def _accuracy(rows: list[Row]) -> Row | None:
    """Of the most probable network on the selection split; an epoch whose masks cannot be used has None."""
    values = [row.get("selection_accuracy") for row in rows]
    known = [(value, row["epoch"]) for value, row in zip(values, rows, strict=True) if value is not None]
    if not known:
        return None
    best, epoch = max(known, key=lambda pair: pair[0])
    return {"last": values[-1], "best": best, "best_epoch": epoch, "epochs": values}


def _costs(recipe: Recipe, stages: Row, rows: list[Row]) -> list[Row]:
    """The costs that have targets, else the parameters; what no line tells of is left out.

    Returns:
        unit: "params", "macs" or "latency" (seconds). expected: by the last line that tells. target: of that moment;
        None without one. goal: the target of the end, as the recipe has it. whole: the supernet's; None for a latency.
    """
    found = []
    for unit in recipe.budget.units or ("params",):
        expected = [row[f"expected_{unit}"] for row in rows if f"expected_{unit}" in row]
        target = [row[f"target_{unit}"] for row in rows if f"target_{unit}" in row]
        if expected:
            found.append({
                "unit": unit,
                "expected": expected[-1],
                "target": target[-1] if target else None,
                "goal": getattr(recipe.budget, f"target_{unit}"),
                "whole": (stages.get("train") or stages["inflate"]).get(unit),
            })  # fmt: skip
    return found


def _posterior(run: RunDirectory, recipe: Recipe, epoch: int) -> Row | None:
    """The drop probabilities of all groups after the last epoch; None before the first.

    Returns:
        groups: how many. mean. kept, open, dropped: shares with p < 0.05, between, and p > 0.95. entropy: mean, bits.
        committed: the epoch after which they gave way to one candidate. fixed: the one rate of a uniform baseline.
    """
    import numpy as np

    from pgnas_cli.report.structure import drop_probabilities
    from pgnas_cli.training.health import entropy_bits

    p = np.array([value for values in drop_probabilities(run).values() for value in values], dtype=float)
    if not p.size:
        return None
    kept, dropped = float((p < LOW).mean()), float((p > HIGH).mean())
    committed = recipe.commit_epoch
    return {
        "groups": p.size,
        "mean": float(p.mean()),
        "kept": kept,
        "open": 1 - kept - dropped,
        "dropped": dropped,
        "entropy": float(entropy_bits(p).mean()),
        "committed": committed if committed is not None and epoch > committed else None,
        "fixed": float(p.mean()) if recipe.objective.fixed_drop is not None else None,
    }


def _age(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


def _silence(run: RunDirectory) -> float:
    """Seconds since the training wrote anything: a line, or a checkpoint inside an epoch."""
    signs = [run.train_path / "recipe.toml", run.train_path / "log.jsonl", *run.checkpoints_path.glob("*")]
    return min(_age(path) for path in signs if path.exists())


# ---- what comes after --------------------------------------------------------------------------------------


def ranking(run: RunDirectory, stages: Row) -> Row | None:
    """rank/ranking.json of a run that is ranked.

    Raises:
        RunError: it is missing or damaged.
    """
    from pgnas_cli.report.facts import check, typed

    if "rank" not in stages:
        return None
    path, hint = run.rank_path / "ranking.json", typed(run, "rank", "--force")
    found = read_json(path, hint=hint)
    check(found, _RANKING, path, hint)
    return found


def exported(run: RunDirectory, stages: Row) -> Row | None:
    """The artifact of a run: path, whether it is there, bytes of its files, whether its proof is among them."""
    from pgnas_cli.report.facts import typed

    if "export" not in stages:
        return None
    path = run.path / expect(stages["export"], "path", str, run.manifest_path, hint=typed(run, "export"))
    files = [file for file in path.rglob("*") if file.is_file()]
    return {
        "path": str(path),
        "found": bool(files),
        "bytes": sum(file.stat().st_size for file in files),
        "proof": (path / PROOF).is_file(),
    }
