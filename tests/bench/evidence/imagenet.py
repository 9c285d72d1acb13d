"""What ImageNet would take on 1, 8 and 64 GPUs: worked out from measured speeds and stated assumptions.

    python tests/bench/evidence/imagenet.py [--results DIR] [--measure-export]

prints the page: supnet-r50 and supnet-d121 trained by their paper recipes, sampled, ranked in a race and exported, with
the formulas and with a range for every time. Every number is computed here from DIR/throughput.csv (speeds that were
measured, with their provenance), from the recipes, and from the networks; assumptions that nothing measures are the
constants below, with their reasons, and stand on the page as such. It takes a few seconds and trains nothing.

Speeds of the networks themselves at 224 pixels, once somebody has measured them on a GPU, replace the extrapolation
from resnet50: rows of throughput.csv with their name, from

    python tests/bench/gate_overhead.py supnet-r50 supnet-d121 --image-size 224 --batch-size 64 --device cuda \\
        --layout channels_last --amp --compile

--measure-export adds what `pgnas export` takes for each of them on this machine's CPU (`imagenet_export.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagenet_model import Assumptions, Network, Range, Speed, Step, Task
from imagenet_page import Case, page
from ledger import RESULTS, Ledger, Row

from pgnas_cli import registry
from pgnas_cli.plugin import Inflation
from pgnas_cli.ranking.method import BUDGET
from pgnas_cli.recipe_file import load_recipe

COLUMNS = ("network", "img_size", "batch", "device", "compiled", "what", "value", "low", "high")
KEY = COLUMNS[:6]
ABOUT = "Measured speeds that imagenet.py extrapolates from: a median and its quartiles, or the lowest and highest of n"
PLAIN, GATED = "step without gates in s", "step over the same without gates"
TRAINER = "images per second of pgnas train over a plain loop"
COSTS, COSTED = "exact costs of 10 000 candidates in s", 10_000
EXPORT = "pgnas export, CPU time of the command in s"

SIZE = 224
NETWORKS = {"supnet-r50": "paper/imagenet-r50", "supnet-d121": "paper/imagenet-d121"}
EFFICIENCY = {1: Range(1.0, 1.0), 8: Range(0.8, 0.95), 64: Range(0.6, 0.9)}
"""Assumed: eight GPUs of one machine, and eight such machines. Gradients are sent while others are still computed,
which hides most of it or little, by the network between them. Several GPUs could not be tried."""
FORWARD = 1 / 3
"""Assumed: the backward pass costs twice the forward pass, as MACs are counted."""


def ledger(folder: Path = RESULTS) -> Ledger:
    """The file of measured speeds."""
    return Ledger("throughput", ABOUT, COLUMNS, KEY, folder)


# ---- what is known ------------------------------------------------------------------------------------------


def network(name: str, img_size: int = SIZE) -> Network:
    """Counted on torch's meta device."""
    from torch import nn

    net = registry.build_on_meta(registry.make_spec(name, Inflation(), num_classes=1000, img_size=img_size))
    convolutions = sum(isinstance(module, nn.Conv2d) for module in net.backbone.modules())
    cost, channels = net.kept_cost(), sum(gate.channels for gate in net.gates.values())
    return Network(name, int(cost.params), int(cost.macs), convolutions, channels)


def task(name: str) -> Task:
    """What the recipe of a network asks for; its candidates race at the budget that `pgnas rank` has by itself."""
    recipe = load_recipe(NETWORKS[name])
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


def cases(rows: Sequence[Row]) -> tuple[list[Case], Assumptions]:
    """What the page is made of: each network with its task, its speeds and what else was measured of it."""
    from pgnas_cli.ranking.evaluate import BATCH

    places = {(row["network"], int(row["img_size"])) for row in found(rows, PLAIN, device="cuda", compiled="yes")}
    costed = found(rows, COSTS, device="cpu")[0]
    places.add((costed["network"], SIZE))
    known = {place: network(*place) for place in sorted(places)}
    one = number(costed) / (COSTED * known[costed["network"], SIZE].channels)
    result = []
    for name in NETWORKS:
        net, exported = network(name), found(rows, EXPORT, network=name)
        gated, plain = (own(steps(rows, known, gated=gates), name) for gates in (True, False))
        result.append(
            Case(
                net, task(name), Speed.of(gated, SIZE), Speed.of(plain, SIZE), gated[0].network.name == name,
                one * net.channels, number(exported[0]) if exported else None,
            )
        )  # fmt: skip
    return result, Assumptions(EFFICIENCY, overhead(rows), FORWARD, BATCH)


def lines(rows: Sequence[Row], sittings: Sequence[str]) -> list[str]:
    """The page, from the rows of throughput.csv and its sittings."""
    return page(rows, sittings, *cases(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--measure-export", action="store_true")
    options = parser.parse_args()
    table = ledger(options.results)
    if options.measure_export:
        from imagenet_export import seconds

        for name in NETWORKS:
            where = {"network": name, "img_size": SIZE, "batch": None, "device": "cpu", "compiled": "no"}
            if not found(table.rows(), EXPORT, network=name):
                value = f"{seconds(name, SIZE):.3g}"
                table.add({**where, "what": EXPORT, "value": value, "low": None, "high": None})
    print("\n".join(lines(table.rows(), table.sittings())))


if __name__ == "__main__":
    main()
