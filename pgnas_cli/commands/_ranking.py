"""What a ranking looks like in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgnas_cli.console import console, human, percent, seconds
from pgnas_cli.run import read_jsonl

SHOWN = 5


def interval(proportion: dict[str, Any]) -> str:
    """A share with its interval, in percent."""
    return percent(proportion["value"], proportion["low"], proportion["high"])


def render(folder: Path, ranking: dict[str, Any]) -> None:
    """The head of the leaderboard, and what the winner scores."""
    rows = [
        [row["rank"], row["id"], percent(row["accuracy"]), f"{row['n']:,}",
         None if row["log_likelihood"] is None else f"{row['log_likelihood']:.4f}",
         human(row["params"]), human(row["macs"])]
        for row in read_jsonl(folder / "leaderboard.jsonl")[:SHOWN]
    ]  # fmt: skip
    where = f"{ranking['processes']} x {ranking['device']}" if ranking["processes"] > 1 else ranking["device"]
    cost = f"{ranking['images']:,} images, {seconds(ranking['seconds'])} on {where}"
    console.table(
        f"{ranking['candidates']} candidates, {cost}",
        ["rank", "candidate", "selection accuracy", "images", "log-likelihood", "parameters", "MACs"],
        rows,
        justify=["right", "left", "right", "right", "right", "right", "right"],
    )
    if asked := ranking["asked"]["evolve"]:
        fewer = "" if ranking["evolved"] == asked else f" of {asked} that were asked for: it found no more new ones"
        console.line(f"{ranking['evolved']} candidates were added by evolution{fewer}")
    if ranking["method"] == "race":
        console.line(_race(ranking))
    spread = ranking["distribution"]
    estimated = ", estimated" if ranking["method"] == "race" else ""
    console.line(f"all candidates{estimated}: {percent(spread['mean'])} +- {100 * spread['std']:.2f} "
                 f"(standard deviation), {percent(spread['min'])} to {percent(spread['max'])}")  # fmt: skip
    effect = ranking["recalibration_effect"]
    if effect is not None:
        console.line(
            f"recalibration on {ranking['recalibrate']} images: {100 * effect['mean']:+.2f} points of accuracy "
            f"(standard deviation {100 * effect['std']:.2f}, {effect['candidates']} candidates)"
        )
    console.line(f"winner {ranking['winner']}: selection {interval(ranking['selection_accuracy'])}, "
                 f"test {interval(ranking['test_accuracy'])}, n = {ranking['test_accuracy']['n']}")  # fmt: skip
    if "finetune" in ranking:
        console.line(_finetuned(ranking["finetune"]))
    if "certify" in ranking:
        _certified(ranking["certify"])
    if "front" in ranking:
        _front(ranking["front"])


def _race(ranking: dict[str, Any]) -> str:
    """What a race cost, and what it certifies."""
    share = ranking["images"] / ranking["images_exhaustive"]
    return (
        f"race: {100 * share:.1f} % of the images of an exhaustive ranking; no candidate is more than "
        f"{100 * ranking['margin']:.2f} points above the winner on the selection split "
        f"({100 * ranking['confidence']:g} % confidence)"
    )


def _finetuned(found: dict[str, Any]) -> str:
    """The winner after more training."""
    return (
        f"fine-tuned {found['epochs']} epochs ({found['images']:,} images, {seconds(found['seconds'])}): "
        f"selection {interval(found['selection_accuracy'])}, test {interval(found['test_accuracy'])}"
    )


def _certified(found: dict[str, Any]) -> None:
    """Candidates trained from scratch, and how far their order is that of the ranking."""
    rows = [
        [place, row["id"], percent(row["supernet_accuracy"]), percent(row["scratch_accuracy"])]
        for place, row in enumerate(found["candidates"], 1)
    ]
    console.line()
    console.table(
        f"{found['k']} candidates trained from scratch, {found['epochs']} epochs each "
        f"({found['images']:,} images, {seconds(found['seconds'])})",
        ["", "candidate", "with the supernet's weights", "from scratch"],
        rows,
        justify=["right", "left", "right", "right"],
    )
    tau, regret = _estimate(found["tau"], 1, ""), _estimate(found["regret_at_1"], 100, " points")
    level = f"({100 * found['confidence']:g} % bootstrap intervals)"
    console.line(f"Kendall tau {tau}, regret at 1 {regret} {level}")


def _estimate(found: dict[str, Any], times: float, unit: str) -> str:
    if found["value"] is None:
        return "not defined: the accuracies are all alike"
    if found["low"] is None:
        return f"{times * found['value']:.2f}{unit}"
    return f"{times * found['value']:.2f}{unit} ({times * found['low']:.2f} to {times * found['high']:.2f})"


def _front(found: dict[str, Any]) -> None:
    """The non-dominated networks, and by what."""
    names = {"params": "parameters", "macs": "MACs", "latency": "latency"}
    rows = []
    for point in found["points"]:
        latency = point["latency"]
        on = [name for key, name in names.items() if point["id"] in found[key]]
        rows.append([
            point["id"], human(point["params"]), human(point["macs"]), f"{1e3 * latency['median']:.3g} ms",
            interval(point["selection_accuracy"]), ", ".join(on) or "the winner",
        ])  # fmt: skip
    threads = f", {found['threads']} thread{'s' if found['threads'] > 1 else ''}" if found["device"] == "cpu" else ""
    console.line()
    images = f"{found['batch']} image{'s' if found['batch'] > 1 else ''}"
    console.table(
        f"the front (latency of {images} on {found['device']}{threads})",
        ["candidate", "parameters", "MACs", "latency", "selection accuracy", "not dominated in"],
        rows,
        justify=["left", "right", "right", "right", "right", "left"],
    )
