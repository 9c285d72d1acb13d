"""`pgnas status`: what a run holds, and what comes next."""

from __future__ import annotations

from typing import Any

from pgnas_cli.commands._options import RunOption
from pgnas_cli.commands._ranking import interval
from pgnas_cli.console import console, human, percent
from pgnas_cli.errors import RunError
from pgnas_cli.run import STAGES, RunDirectory, expect, read_json, read_jsonl


def status(run: RunOption = None) -> None:
    """Show what a run holds and what comes next."""
    found = RunDirectory.open(run)
    manifest = found.manifest()
    stages: dict[str, Any] = manifest["stages"]
    unfinished = "train" not in stages and (found.train_path / "recipe.toml").is_file()
    upcoming = found.next_stage()
    command = None
    if upcoming is not None:
        command = f"pgnas {upcoming}{' --resume' if upcoming == 'train' and unfinished else ''}"
        if run is not None:
            command += f" --run {run}"
    ranking_path = found.rank_path / "ranking.json"
    hint = f"pgnas rank --force --run {found.path}"
    ranking = read_json(ranking_path, hint=hint) if "rank" in stages else None
    if ranking is not None:
        expect(ranking, "winner", str, ranking_path, hint=hint)
        expect(ranking, "test_accuracy", dict, ranking_path, hint=hint)
    warnings = _warnings(found)
    result = {
        "run": str(found.path),
        "model": manifest["model"],
        "created": manifest["created"],
        "stages": stages,
        "unfinished": unfinished,
        "ranking": ranking,
        "warnings": warnings,
        "next": command,
    }

    def render() -> None:
        rows = []
        for name in STAGES:
            record = stages.get(name)
            state = "done" if record else "unfinished" if name == "train" and unfinished else "to do"
            rows.append([name, state, "" if record is None else _detail(name, record, ranking)])
        console.table(f"{found.path}: {manifest['model'].get('arch')}", ["stage", "", "result"], rows)
        if warnings:
            shown = [[str(warning["epoch"]), warning["message"], warning["hint"]] for warning in warnings]
            console.table("warnings of the training", ["epoch", "warning", "what helps"], shown)

    console.result(result, render)
    if command is not None:
        console.next_command(command)


def _warnings(run: RunDirectory) -> list[dict[str, Any]]:
    """What the last training, also an unfinished one, had to say about the gates, with the epoch.

    Raises:
        RunError: its log is damaged.
    """
    path = run.train_path / "log.jsonl"
    if not path.is_file():
        return []
    hint = f"pgnas train --resume --run {run.path} goes on, pgnas train --force trains again"
    found = []
    for row in read_jsonl(path, hint=hint, whole_lines=True):
        for warning in expect(row, "warnings", list, path, hint=hint) if "warnings" in row else ():
            if not isinstance(warning, dict):
                raise RunError(f"{path}: warnings should be objects, not {warning!r}", hint)
            texts = {key: expect(warning, key, str, path, hint=hint) for key in ("kind", "message", "hint")}
            found.append({"epoch": expect(row, "epoch", int, path, hint=hint), "gate": warning.get("gate"), **texts})
    return found


def _detail(name: str, record: dict[str, Any], ranking: dict[str, Any] | None) -> str:
    if name == "inflate":
        return f"{human(record['params'])} parameters, {human(record['macs'])} MACs"
    if name == "train":
        share = record["expected_params"] / record["params"]
        accuracy = record["selection_accuracy"]
        shown = "-" if accuracy is None else percent(accuracy)
        return f"{record['epochs']} epochs, E[parameters] {share:.3f} of the supernet, selection {shown}"
    if name == "sample":
        return f"{record['candidates']} candidates ({record['strategy']})"
    if name == "rank" and ranking is not None:
        return f"winner {ranking['winner']}: test {interval(ranking['test_accuracy'])}"
    if name == "export":
        return f"{record['path']}: {human(record['params'])} parameters"
    return ""
