"""What ImageNet would take on 1, 8 and 64 GPUs: worked out from measured speeds and stated assumptions.

    python tests/bench/evidence/imagenet.py [--results DIR] [--measure-export]

prints the page: supnet-r50 and supnet-d121 trained by their paper recipes, sampled, ranked in a race and exported, with
the formulas and with a range for every time. Every number is computed: from DIR/throughput.csv (speeds that were
measured, with their provenance), DIR/networks.csv (what the package counts of the networks; what is missing there is
counted first) and the recipes. What nothing measures is assumed: the constants below, with their reasons, stand on the
page as such. It takes seconds and trains nothing.

Speeds of the networks themselves at 224 pixels, once somebody has measured them on a GPU, replace the extrapolation
from resnet50: rows of throughput.csv with their name, from

    python tests/bench/gate_overhead.py supnet-r50 supnet-d121 --image-size 224 --batch-size 64 --device cuda \\
        --layout channels_last --amp --compile

--measure-export adds what `pgnas export` takes for each of them on this machine's CPU (`imagenet_measure.py`): two to
three minutes of a quiet core by estimate.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from imagenet_model import Assumptions, Network, Range, Speed, Step, Task
from imagenet_page import Case, page
from ledger import RESULTS, Ledger, Row
from section import Section

from pgnas_cli.ranking.method import BUDGET
from pgnas_cli.recipe_file import load_recipe

COLUMNS = ("network", "img_size", "batch", "device", "compiled", "what", "value", "low", "high")
KEY = COLUMNS[:6]
ABOUT = "Measured speeds that imagenet.py extrapolates from: a median and its quartiles, or the lowest and highest of n"
PLAIN, GATED = "step without gates in s", "step over the same without gates"
TRAINER = "images per second of pgnas train over a plain loop"
COSTS, COSTED = "exact costs of 10 000 candidates in s", 10_000
EXPORT = "pgnas export, CPU time of the command in s"

TITLE = "What ImageNet would take"
SIZE = 224
RECIPES = {"supnet-r50": "paper/imagenet-r50", "supnet-d121": "paper/imagenet-d121"}
EFFICIENCY = {1: Range(1.0, 1.0), 8: Range(0.8, 0.95), 64: Range(0.6, 0.9)}
"""Assumed: eight GPUs of one machine, and eight such machines. Gradients are sent while others are still computed,
which hides most of it or little, by the network between them. Several GPUs could not be tried."""
FORWARD = 1 / 3
"""Assumed: the backward pass costs twice the forward pass, as MACs are counted."""
EVALUATED = 256
"""Images of an evaluation batch: BATCH of pgnas_cli/ranking/evaluate.py, which needs torch."""


def ledger(folder: Path = RESULTS) -> Ledger:
    """The file of measured speeds."""
    return Ledger("throughput", ABOUT, COLUMNS, KEY, folder)


def network_ledger(folder: Path = RESULTS) -> Ledger:
    """The file of what the package counts of networks, so that the page needs no torch."""
    columns = ("network", "img_size", "params", "macs", "convolutions", "channels")
    about = "What the package counts of networks with everything kept; channels: gated ones"
    return Ledger("networks", about, columns, columns[:2], folder)


# ---- what is known ------------------------------------------------------------------------------------------


def networks(rows: Iterable[Row]) -> dict[tuple[str, int], Network]:
    """What networks.csv says, by name and image size."""
    return {
        (row["network"], int(row["img_size"])): Network(
            row["network"], int(row["params"]), int(row["macs"]), int(row["convolutions"]), int(row["channels"])
        )
        for row in rows
    }


def needed(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """The networks that must be counted: those asked about, and those whose speeds were measured."""
    measured = found(rows, PLAIN, device="cuda", compiled="yes") + found(rows, COSTS, device="cpu")
    return list(
        dict.fromkeys([(name, SIZE) for name in RECIPES] + [(r["network"], int(r["img_size"])) for r in measured])
    )


def task(name: str) -> Task:
    """What the recipe of a network asks for; its candidates race at the budget that `pgnas rank` has by itself."""
    recipe = load_recipe(RECIPES[name])
    epochs, batch, candidates = recipe.schedule.epochs, recipe.data.batch_size, recipe.sampling.candidates
    images, selection = int(recipe.objective.num_examples or 0), int(recipe.data.selection)
    return Task(epochs, batch, images - selection, selection, candidates, BUDGET)


def number(row: Row) -> Range:
    """From the lower to the upper quartile, where there are quartiles."""
    return Range(float(row["low"] or row["value"]), float(row["high"] or row["value"]))


def found(rows: Sequence[Row], what: str, **where: str) -> list[Row]:
    """The rows of one quantity on one kind of device."""
    return [row for row in rows if row["what"] == what and all(row[key] == value for key, value in where.items())]


def steps(rows: Sequence[Row], known: Mapping[tuple[str, int], Network], *, gated: bool) -> list[Step]:
    """The compiled steps that were measured on a GPU, with gates or without.

    Args:
        known: the networks by name and image size.
    """
    result = []
    for row in found(rows, PLAIN, device="cuda", compiled="yes"):
        where = {key: row[key] for key in ("network", "img_size", "batch", "device", "compiled")}
        factor = found(rows, GATED, **where)
        seconds = number(row) * number(factor[0]) if gated and factor else number(row)
        if factor or not gated:
            size = int(row["img_size"])
            result.append(Step(known[row["network"], size], size, int(row["batch"]), seconds))
    return result


def own(measured: Sequence[Step], name: str) -> list[Step]:
    """The steps of a network itself at ImageNet's size; those of all where it was not measured."""
    return [step for step in measured if step.network.name == name and step.img_size == SIZE] or list(measured)


def overhead(rows: Sequence[Row]) -> Range:
    """An epoch of `pgnas train` over its steps: from nothing up to what was measured where images are small."""
    worst = [
        1 / float(row["value"]) / float(gates["value"])
        for row in found(rows, TRAINER, device="cuda", compiled="yes")
        for gates in found(rows, GATED, device="cuda", compiled="yes", network=row["network"], img_size=row["img_size"])
    ]
    return Range(1.0, max([1.0, *worst]))


def cases(rows: Sequence[Row], known: Mapping[tuple[str, int], Network]) -> tuple[list[Case], Assumptions]:
    """What the page is made of: each network with its task, its speeds and what else was measured of it."""
    costed = found(rows, COSTS, device="cpu")[0]
    one = number(costed) / (COSTED * known[costed["network"], int(costed["img_size"])].channels)
    result = []
    for name in RECIPES:
        net, exported = known[name, SIZE], found(rows, EXPORT, network=name)
        gated, plain = (own(steps(rows, known, gated=gates), name) for gates in (True, False))
        result.append(
            Case(
                net, task(name), Speed.of(gated, SIZE), Speed.of(plain, SIZE), gated[0].network == net,
                one * net.channels, number(exported[0]) if exported else None,
            )
        )  # fmt: skip
    return result, Assumptions(EFFICIENCY, overhead(rows), FORWARD, EVALUATED)


def lines(rows: Sequence[Row], sittings: Sequence[str], counted: Sequence[Row]) -> list[str]:
    """The page, from the rows and sittings of throughput.csv and the rows of networks.csv."""
    known = networks(counted)
    if not rows or any(place not in known for place in needed(rows)):
        return [f"## {TITLE}", "", "No rows yet."]
    return page(TITLE, rows, sittings, *cases(rows, known))


def render(folder: Path) -> str:
    """The section of RESULTS.md, from the files of a folder."""
    speeds = ledger(folder)
    return "\n".join(lines(speeds.rows(), speeds.sittings(), network_ledger(folder).rows()))


IMAGENET = Section(TITLE, render)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure-export", action="store_true")
    options = parser.parse_args()
    speeds, known = ledger(options.results), network_ledger(options.results)
    for name, img_size in needed(speeds.rows()):
        if not known.has(network=name, img_size=img_size):
            from imagenet_measure import counted

            known.add({"network": name, "img_size": img_size, **counted(name, img_size)})
    for name in RECIPES:
        if options.measure_export and not found(speeds.rows(), EXPORT, network=name):
            from imagenet_measure import export_seconds

            where = {"network": name, "img_size": SIZE, "batch": None, "device": "cpu", "compiled": "no"}
            value = f"{export_seconds(name, SIZE):.3g}"
            speeds.add({**where, "what": EXPORT, "value": value, "low": None, "high": None})
    print(render(options.results))


if __name__ == "__main__":
    main()
