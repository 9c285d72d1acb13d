"""The page of `imagenet.py`: pure functions from what is known to lines of Markdown. Every number in it is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imagenet_model import Assumptions, Network, Range, Speed, Task, ranking, training
from ledger import Row

from pgnas_cli import units

HOUR = 3600.0


@dataclass(frozen=True)
class Case:
    """A network that is asked about.

    Args:
        network, task: what it is, and what its recipe asks for.
        gated, plain: speeds of a training step with and without gates.
        itself: they are of this network, not of another one.
        costing: seconds to count one candidate.
        export: seconds of `pgnas export`; None where that was not measured.
    """

    network: Network
    task: Task
    gated: Speed
    plain: Speed
    itself: bool
    costing: Range
    export: Range | None

    def sampling(self) -> Range:
        """Seconds for the exact costs of all candidates."""
        return self.costing * self.task.candidates


def page(
    title: str, rows: Sequence[Row], sittings: Sequence[str], cases: Sequence[Case], assumed: Assumptions
) -> list[str]:
    """The whole page."""
    return [
        f"## {title}",
        "",
        "Worked out, not run: times follow from measured speeds and from assumptions. Each is a range between two "
        "readings of what was measured; the truth may lie outside if an assumption is wrong.",
        *_measured(rows, sittings),
        *_assumptions(cases, assumed),
        *_formulas(),
        *_training(cases, assumed),
        *_ranking(cases, assumed),
        *_whole(cases, assumed),
    ]


def _measured(rows: Sequence[Row], sittings: Sequence[str]) -> Iterator[str]:
    yield from ["", "### Measured", "", "| network | pixels | batch | on | compiled | what | | |", "|" + "---|" * 8]
    for row in rows:
        between = f"{row['low']} to {row['high']}" if row["low"] else ""
        places = [row[key] for key in ("network", "img_size", "batch", "device", "compiled", "what")]
        yield f"| {' | '.join([*places, row['value'], between])} |"
    yield ""
    yield from (f"- {sitting}" for sitting in sittings)


def _assumptions(cases: Sequence[Case], assumed: Assumptions) -> Iterator[str]:
    yield from ["", "### Assumed", ""]
    for gpus, share in assumed.efficiency.items():
        if gpus > 1:
            yield f"- {gpus} GPUs are {_range(share)} times as fast as {gpus} times one. Not measured."
    yield (
        f"- An epoch takes {_range(assumed.overhead)} times its steps: at best what the trainer does besides is "
        "hidden, at worst it is the share that was measured where images are small. Images are decoded as fast as "
        "they are needed."
    )
    yield "- The processor launches operations as fast as that of the measured machine: a faster one lowers the floor."
    yield f"- A forward pass takes {assumed.forward:.2f} of a training step without gates."
    yield "- Where a network was not measured itself, its steps take the time of resnet50's, by MACs and convolutions:"
    yield ""
    yield from ["| network | parameters | MACs of an image | convolutions | gated channels | measured itself |"]
    yield "|---|---|---|---|---|---|"
    for case in cases:
        net = case.network
        yield (
            f"| {net.name} | {net.params:,} | {units.human(net.macs)} | {net.convolutions} | {net.channels:,} | "
            f"{'yes' if case.itself else 'no'} |"
        )
    yield ""
    yield "- By the recipes, with `--amp bfloat16 --channels-last --compile`; compilation itself is left out:"
    yield ""
    yield "| network | training images | epochs | batch | steps | selection images | candidates | the race sees |"
    yield "|---|---|---|---|---|---|---|---|"
    for case in cases:
        work = case.task
        yield (
            f"| {case.network.name} | {work.train:,} | {work.epochs} | {work.batch} | {work.steps:,} | "
            f"{work.selection:,} | {work.candidates:,} | {work.budget:g} x {work.candidates:,} x {work.selection:,} = "
            f"{work.ranked:,} images |"
        )


def _formulas() -> Iterator[str]:
    yield from [
        "",
        "### Formulas",
        "",
        "    step(n)  = max(floor x convolutions, n x MACs / rate)         n images on one GPU",
        "    floor    = the shortest measured step / its network's convolutions",
        "    rate     = images x MACs / seconds of a measured step: at best the highest of all, at worst the lowest of",
        "               those at 224 pixels",
        "    training = epochs x ceil(images / batch) x step(images of one GPU) x overhead / efficiency",
        "    ranking  = ceil(race's images / GPUs / n) x step without gates(n) x forward / efficiency",
        "               n images in a batch of evaluation",
        "    sampling = candidates x gated channels x time of a candidate's costs / its gated channels",
    ]


# ---- results ------------------------------------------------------------------------------------------------


def _training(cases: Sequence[Case], assumed: Assumptions) -> Iterator[str]:
    yield from [
        "",
        "### Training",
        "",
        "With the recipe's batch, whatever the number of GPUs: few images for each of many GPUs leave them waiting, "
        "and the time stops falling.",
        "",
        *_training_table(cases, assumed, split=True),
        "",
        "With the recipe's batch on every GPU, in fewer steps. That is another recipe: its rate would have to grow "
        "with the batch, and nothing here says that it scores the same.",
        "",
        *_training_table(cases, assumed, split=False),
    ]


def _training_table(cases: Sequence[Case], assumed: Assumptions, *, split: bool) -> Iterator[str]:
    yield "| network | GPUs | images of a GPU | step, ms | TFLOP/s of a GPU | images a second to decode | hours |"
    yield "|---|---|---|---|---|---|---|"
    for case in cases:
        for gpus in assumed.efficiency:
            images = math.ceil(case.task.batch / gpus) if split else case.task.batch
            step = case.gated.seconds(case.network, images)
            whole = training(case.gated, case.network, case.task, gpus, split, assumed)
            work = Range.exactly(6 * images * case.network.macs)  # two operations a MAC, three passes
            seen = Range.exactly(case.task.epochs * case.task.train)
            yield (
                f"| {case.network.name} | {gpus} | {images} | {_range(step * 1e3)} | {_range(work / step / 1e12)} | "
                f"{_range(seen / whole)} | {_range(whole / HOUR)} |"
            )


def _ranking(cases: Sequence[Case], assumed: Assumptions) -> Iterator[str]:
    yield from [
        "",
        "### Ranking",
        "",
        f"The race in batches of {assumed.evaluated} images; writing masks into the weights is left out.",
        "",
        "| network | GPUs | a batch, ms | hours |",
        "|---|---|---|---|",
    ]
    for case in cases:
        batch = case.plain.times(assumed.forward).seconds(case.network, assumed.evaluated)
        for gpus in assumed.efficiency:
            whole = ranking(case.plain, case.network, case.task, gpus, assumed)
            yield f"| {case.network.name} | {gpus} | {_range(batch * 1e3)} | {_range(whole / HOUR)} |"


def _whole(cases: Sequence[Case], assumed: Assumptions) -> Iterator[str]:
    yield from [
        "",
        "### From the first command to the last",
        "",
        "Training, with the recipe's batch and with that batch on every GPU, sampling, ranking, export.",
        "",
        "| network | GPUs | batch | training, h | sampling, s | ranking, h | export, s | in all, h | GPU-days |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        export = "not measured" if case.export is None else _range(case.export)
        for gpus in assumed.efficiency:
            rank = ranking(case.plain, case.network, case.task, gpus, assumed)
            for split in (True, False)[: 1 if gpus == 1 else 2]:
                train = training(case.gated, case.network, case.task, gpus, split, assumed)
                whole = train + case.sampling() + rank + (case.export or Range.exactly(0.0))
                yield (
                    f"| {case.network.name} | {gpus} | {case.task.batch * (1 if split else gpus):,} | "
                    f"{_range(train / HOUR)} | {_range(case.sampling())} | {_range(rank / HOUR)} | {export} | "
                    f"{_range(whole / HOUR)} | {_range(whole * gpus / (24 * HOUR))} |"
                )


def _range(found: Range) -> str:
    """Two significant digits: no more are known."""
    return " to ".join(dict.fromkeys([_digits(found.low), _digits(found.high)]))


def _digits(value: float) -> str:
    if value <= 0:
        return "0"
    places = 1 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(0, places)}f}"
