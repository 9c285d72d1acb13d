"""`pgnas status`: what a run holds, whether it is going well, and what comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgnas_cli.commands import _standing
from pgnas_cli.commands._bars import bar, curve, parts
from pgnas_cli.commands._options import RunOption
from pgnas_cli.console import Styled, console, human, percent, seconds
from pgnas_cli.run import STAGES, RunDirectory

Row = dict[str, Any]
_STATES = {"done": "green", "running": "cyan", "unfinished": "yellow", "to do": "dim"}
_WIDEST, _BESIDE = 30, 16
"""Characters of a bar at most; and of what stands left of it in a narrow terminal."""
_NAMES = {"params": "parameters", "macs": "MACs", "latency": "latency"}


def status(run: RunOption = None) -> None:
    """Show what a run holds, how its training goes, and what comes next."""
    found = RunDirectory.open(run)
    manifest = found.manifest()
    stages: Row = manifest["stages"]
    log = _standing.log_rows(found)
    training = _standing.training(found, stages, log)
    unfinished = training is not None and not training["finished"]
    result = {
        "run": str(found.path),
        "model": manifest["model"],
        "created": manifest["created"],
        "stages": stages,
        "unfinished": unfinished,
        "training": training,
        "ranking": _standing.ranking(found, stages),
        "export": _standing.exported(found, stages),
        "warnings": _standing.warnings(log),
        "next": _standing.following(found, training, named=run is not None),
    }
    console.result(result, lambda: _render(result))
    if result["next"] is not None:
        console.next_command(result["next"])


def _render(result: Row) -> None:
    training, ranking, exported = result["training"], result["ranking"], result["export"]
    rows: list[list[str | Styled]] = []
    for name in STAGES:
        state = "done" if name in result["stages"] else "to do"
        if name == "train" and result["unfinished"]:
            state = "running" if training["running"] else "unfinished"
        rows.append([name, Styled(state, _STATES[state]), _stage(name, result)])
    console.table(f"{result['run']}: {result['model'].get('arch')}", ["stage", "", "result"], rows)
    if training is not None:
        _section("training", _training(training))
    if ranking is not None:
        _section("ranking", _ranking(ranking, result["stages"]))
    if exported is not None:
        _section("export", _export(exported, result["stages"]["export"]))
    if result["warnings"]:
        shown = [[str(warning["epoch"]), warning["message"], warning["hint"]] for warning in result["warnings"]]
        console.line()
        console.table("warnings of the training", ["epoch", "warning", "what helps"], shown)


def _section(title: str, rows: list[list[str | Styled]]) -> None:
    if rows:
        console.line()
        console.table("", [title, ""], rows)


def _stage(name: str, result: Row) -> str:
    """A stage in a few words."""
    record, training = result["stages"].get(name), result["training"]
    if record is None:
        begun = name == "train" and training is not None
        return f"epoch {training['epoch']} of {training['epochs']}" if begun else ""
    if name == "inflate":
        return f"{human(record['params'])} parameters, {human(record['macs'])} MACs"
    if name == "train":
        accuracy = record["selection_accuracy"]
        shown = "-" if accuracy is None else percent(accuracy)
        share = record["expected_params"] / record["params"]
        done = _many(record["epochs"], "epoch")
        return f"{done}, E[parameters] {share:.3f} of the supernet, selection {shown}"
    if name == "sample":
        return f"{_many(record['candidates'], 'candidate')} ({record['strategy']})"
    if name == "rank":
        return f"winner {result['ranking']['winner']}: test {_proportion(result['ranking']['test_accuracy'])}"
    return f"{record['path']}: {human(record['params'])} parameters"


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _proportion(found: Row) -> str:
    """A share in the digits that its interval justifies, in characters that every terminal has."""
    from pgnas_cli.report.numbers import DASH, proportion

    return proportion(found).text.replace(DASH, "-")


# ---- the training ------------------------------------------------------------------------------------------


def _training(found: Row) -> list[list[str | Styled]]:
    width = max(8, min(_WIDEST, console.width - _BESIDE))
    rows: list[list[str | Styled]] = []
    if not found["finished"]:
        left = "" if found["seconds_left"] is None else f", about {seconds(found['seconds_left'])} left"
        share = found["epoch"] / found["epochs"]
        rows.append(["epochs", f"{bar(share, width)} {found['epoch']} of {found['epochs']}{left}"])
        rows.append(_sign(found))
    if (accuracy := found["selection_accuracy"]) is not None:
        last = "unusable masks" if accuracy["last"] is None else percent(accuracy["last"])
        best = f"best {percent(accuracy['best'])} after epoch {accuracy['best_epoch']}"
        rows.append(["selection", f"{curve(accuracy['epochs'], width)} {last}, {best}"])
    for cost in found["costs"]:
        rows.append([f"E[{_NAMES[cost['unit']]}]", _cost(cost, width, finished=found["finished"])])
    if found["posterior"] is not None:
        rows += _posterior(found["posterior"], width)
    if found["images_per_second"] is not None:
        each = "" if found["seconds_per_epoch"] is None else f", {seconds(found['seconds_per_epoch'])} an epoch"
        rows.append(["speed", f"{human(found['images_per_second'])} images/s{each}"])
    return rows


def _sign(found: Row) -> list[str | Styled]:
    """How long ago a training that is not finished wrote its last line."""
    ago = f"{found['age']:.0f} s ago" if found["age"] < 60 else f"{seconds(found['age'])} ago"
    name, said = ("last epoch", f"finished {ago}") if found["epoch"] else ("begun", f"{ago}, no epoch is finished yet")
    return [name, said if found["running"] else Styled(f"{said}: the training has stopped, or hangs", "yellow")]


def _cost(found: Row, width: int, *, finished: bool) -> str:
    """What is expected, of the whole, with a mark at the target."""
    from pgnas_cli.report.numbers import change

    shown: Callable[[float], str] = _milliseconds if found["unit"] == "latency" else human
    expected, target = found["expected"], found["target"]
    whole = found["whole"] or max(expected, target or 0.0)
    drawn = bar(expected / whole, width, mark=None if target is None else target / whole)
    text = f"{drawn} {shown(expected)}" + (f" of {shown(whole)}" if found["whole"] else "")
    if target is None:
        return text
    off = change(expected / target).text
    return f"{text}, target {shown(target)} ({off})" + ("" if finished else f", in the end {found['goal']}")


def _milliseconds(duration: float) -> str:
    return f"{1e3 * duration:.3g} ms"


def _posterior(found: Row, width: int) -> list[list[str | Styled]]:
    if found["fixed"] is not None:
        return [["posterior", f"none: every group is dropped at the rate {found['fixed']:.3f}"]]
    if found["committed"] is not None:
        kept = f"{100 * found['kept']:.0f} % of {found['groups']:,} groups"
        return [["posterior", f"committed to one candidate after epoch {found['committed']}: {kept} kept"]]
    text = (
        f"{parts(found['kept'], found['open'], width)} {100 * found['kept']:.0f} % of {found['groups']:,} groups "
        f"kept (p < {_standing.LOW}), {100 * found['open']:.0f} % open, {100 * found['dropped']:.0f} % dropped "
        f"(p > {_standing.HIGH})"
    )
    return [["posterior", text], ["", f"mean p {found['mean']:.3f}, entropy {found['entropy']:.3f} bits a group"]]


# ---- what comes after --------------------------------------------------------------------------------------


def _ranking(found: Row, stages: Row) -> list[list[str | Styled]]:
    from pgnas_cli.report.numbers import estimate

    share = found["params"] / stages["train"]["params"]
    rows: list[list[str | Styled]] = [
        ["winner", f"{found['winner']}, {human(found['params'])} parameters, {100 * share:.1f} % of the supernet"],
        ["accuracy", ", ".join(f"{name} {_proportion(found[f'{name}_accuracy'])}" for name in ("test", "selection"))],
    ]
    if found["method"] == "race":
        cost = 100 * found["images"] / found["images_exhaustive"]
        margin = f"no candidate is more than {100 * found['margin']:.2f} points above it"
        rows.append(["margin", f"{margin} ({100 * found['confidence']:g} %); {cost:.1f} % of all images read"])
    if "front" in found:
        rows.append(["front", _many(len(found["front"]["points"]), "network")])
    if "certify" in found:
        tau = estimate(found["certify"]["tau"]).text
        regret = estimate(found["certify"]["regret_at_1"], times=100, unit=" points").text
        rows.append(["certified", f"{found['certify']['k']} trained from scratch: Kendall tau {tau}, regret {regret}"])
    if "finetune" in found:
        tuned = found["finetune"]
        rows.append(["fine-tuned", f"{_many(tuned['epochs'], 'epoch')}: test {_proportion(tuned['test_accuracy'])}"])
    return rows


def _export(found: Row, record: Row) -> list[list[str | Styled]]:
    if not found["found"]:
        return [["where", Styled(f"{found['path']} is not there any more", "yellow")]]
    proof = "with its proof, pgnas verify replays it" if found["proof"] else Styled("without its proof", "yellow")
    return [
        ["where", found["path"]],
        ["size", f"{human(found['bytes'])}B, {human(record['params'])} parameters"],
        ["proof", proof],
    ]
