"""The first table of RESULTS.md: peers.csv, with the latencies of latency.csv."""

from __future__ import annotations

from pathlib import Path

from peer_arms import BOTH, PRUNED, WHAT
from table import Claim, Column, Key, Row, Source, Table, difference, each, mean, numbers, read_csv, span, text

ABOUT = """
Fashion-MNIST at 14x14: 50 000 training, 10 000 selection, 10 000 test images; the network that an arm ends with is
scored on the test images once. Every arm has the same optimiser, rate, schedule and augmentation, and a target of the
plain network's parameters where none in MACs is named. *Inside the default's MACs* means: at most as many multiply-adds
in training as the default recipe's run of that seed had. A *small supernet* has 1.7 to 1.8 times the plain network's
parameters, the others 5.7 to 7.0 times. Candidates are ranked with BatchNorm recalibrated and not
trained on, where nothing else is said; networks that were trained themselves keep the statistics of their training.
Candidates have the target's size on average: a winner may be larger. Earlier trials had scored seven networks of the
ResNet, seed 0, on these test images, before the recipe and the length of this table were settled.

Test error: mean ± standard deviation over the seeds; *one*: half of the 95 % Wilson interval of one run's. Latency of
one image: times the plain network's, eager and in ONNX Runtime, one thread, of the seeds that stand in
results/latency.csv, one of each arm. Two copies of the plain network differ by up to a tenth there. Networks that had
been lost were made again for it up to the step from which on their structure stays, or from the code that builds them;
their parameters are those of the rows. MACs of training: three forward passes for every image
shown. Ranking images: selection images that candidates were shown. Minutes are those of runs two at a time on two
cores.
"""


def read(folder: Path) -> Source:
    """The rows of peers.csv, each with its latencies of one image in columns of their own."""
    peers, latency = read_csv(folder / "peers.csv"), read_csv(folder / "latency.csv")
    times: dict[tuple[str, ...], dict[str, str]] = {}
    for row in latency.rows:
        if row["batch"] == "1":
            times.setdefault((row["family"], row["arm"], row["seed"]), {})[row["runtime"]] = row["of_plain"]
    rows: list[Row] = []
    for row in peers.rows:
        half = (float(row["test_high"]) - float(row["test_low"])) / 2
        rows.append({**row, "wilson": f"{half:.2f}", **times.get((row["family"], row["arm"], row["seed"]), {})})
    return Source(rows, [*peers.notes, *latency.notes])


def order(key: Key) -> tuple[str, int]:
    """By family, and arms as peers.py has them."""
    family, arm = key
    return family, list(WHAT).index(arm)


def to_default(row: Row) -> Key:
    return row["family"], "default"


def million(head: str, column: str, digits: int) -> Column:
    return span(head, column, digits, 1e-6, " M")


def claims(family: str) -> tuple[Claim, ...]:
    """What the project would like to be true of a family."""

    def less(ours: str, theirs: str) -> Claim:
        said = f"{family}: *{WHAT[ours]}* errs less than *{WHAT[theirs]}*"
        return Claim(said, "test_error", (family, ours), (family, theirs))

    beaten = [arm for arm in WHAT if arm not in ("default", *BOTH, "posterior")]
    equal = ("plain-equal", *PRUNED)
    return (
        *(less("default", arm) for arm in beaten),
        *(less(ours, theirs) for ours in BOTH for theirs in equal),
        less("default-small", "default-both"),
        less("posterior", "uniform"),
    )


PEERS = Table(
    title="Peers on the same work",
    about=ABOUT,
    read=read,
    line=("family", "arm"),
    parts=1,
    order=order,
    columns=(
        text("arm", lambda row: WHAT[row["arm"]]),
        mean("test error, %", "test_error"),
        each("each seed", "test_error"),
        mean("one", "wilson"),
        difference("- default, points", "test_error", to_default),
        span("parameters", "params"),
        million("MACs", "macs", 1),
        mean("eager", "eager"),
        mean("ONNX", "ONNX Runtime"),
        million("training images", "training_images", 2),
        span("training MACs", "training_macs", 1, 1e-12, " T"),
        span("ranking images", "ranking_images"),
        Column("training + ranking, min", lambda rows, lines: minutes(rows)),
    ),
    claims=(*claims("resnet"), *claims("shakeshake")),
)


def minutes(rows: list[Row]) -> str:
    """Wall time of all seeds, from and to."""
    totals = [(a + b) / 60 for a, b in zip(numbers(rows, "train_seconds"), numbers(rows, "rank_seconds"), strict=True)]
    return f"{min(totals):.1f} to {max(totals):.1f}"
