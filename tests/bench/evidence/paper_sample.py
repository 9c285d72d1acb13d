"""Tables from the base's candidates: their number (Table 6), selecting on the test split, and the two histograms.

The evidence is made without choosing anything by it: no recipe, arm or setting depends on what stands here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import Stopped
from numpy.typing import NDArray
from paper_arms import BASE, BINS, FIGURES
from paper_maths import correlation, counts, expected_best
from paper_runs import IN_THIS_PROCESS, Runs, channel_probabilities, error, leaderboard, rounded
from run_steps import ranking_of

from pgnas_cli import RunDirectory
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import read_candidates, sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator, Way
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.run import append_jsonl, read_jsonl, write_jsonl

NUMBERS = (50, 150, 500, 1500, 5000, 10_000)
IMAGES = ("epochs", "train_images", "selection_images", "test_images")
NUMBER_COLUMNS = (
    "candidates", "seed", *IMAGES, "sample", "drawn", "expected_selection_error", "winners", "selection_error",
    "test_error", "params",
)  # fmt: skip
NUMBER_KEY = ("candidates", "seed")
OPTIMISM_COLUMNS = (
    "seed", *IMAGES, "candidates", "mean_selection_error", "std_selection_error", "mean_test_error", "std_test_error",
    "by_selection_selection_error", "by_selection_test_error", "by_test_selection_error", "by_test_test_error",
    "correlation", "promised_fifth", "promised_half", "seconds",
)  # fmt: skip
OPTIMISM_KEY = ("seed",)
HISTOGRAM_COLUMNS = ("what", "arm", "seed", "low", "high", "count", "of", "epochs", "train_images")
HISTOGRAM_KEY = ("what", "arm", "seed", "low")
Row = dict[str, Any]


def numbers(most: int) -> list[int]:
    """The numbers of candidates of Table 6 in a sample of so many, which is one of them."""
    return sorted({n for n in NUMBERS if n < most} | {most})


def best(rows: Sequence[Row]) -> Row:
    """The winner as `pgnas rank` chooses it, of rows of a leaderboard that saw the whole split, in any order."""
    return min(rows, key=lambda row: row["rank"])


def scores_on_test(runs: Runs, run: Path, candidates: Sequence[Candidate], kept: Path) -> dict[str, Row]:
    """id -> {correct, n, seconds, right} on the whole test split; `right` is a bit for each image, in hexadecimal.

    The logits are those of the run's ranking up to rounding: it scores its winner with masks, this may build the
    compact network. What has been scored is a line of `kept`, and is not scored again.

    Raises:
        Stopped: the time is up.
    """
    rows = read_jsonl(kept, whole_lines=True) if kept.is_file() else []
    write_jsonl(kept, rows)  # without a line that a kill broke off
    found = {row["id"]: row for row in rows}
    missing = [candidate for candidate in candidates if candidate.id not in found]
    if not missing:
        return found
    opened, device, ranking = RunDirectory(run), torch.device(runs.options.device), ranking_of(run)
    with IN_THIS_PROCESS:
        data = same_data(opened, data_dir=runs.options.data_dir)
        evaluator = Evaluator(sampled_supernet(opened, device), data, device, way=Way(**ranking["way"]))
        positions = data.readable("test").numpy()
        for candidate in missing:
            if runs.pgnas.stopped:
                raise Stopped
            started = time.perf_counter()
            right, _ = evaluator.outcomes([candidate], "test", positions, lambda: None)
            bits = np.packbits(right[0]).tobytes().hex()
            row = {"id": candidate.id, "correct": int(right.sum()), "n": right.size, "right": bits}
            found[candidate.id] = {**row, "seconds": time.perf_counter() - started}
            append_jsonl(kept, found[candidate.id])
    return found


def number_rows(runs: Runs, seed: int) -> Iterator[Row]:
    """Table 6: the best of the first n candidates of one large sample, for each n.

    The expected selection error of the best of n is that over all ways to draw n of the sample, exactly. Only winners
    are scored on the test split: those of disjoint parts of n candidates, in the order in which they were drawn; what
    is given is their mean.
    """
    run = runs.sample_of_base(seed)
    board = {row["id"]: row for row in leaderboard(run)}
    candidates = read_candidates(RunDirectory(run))
    drawn = [board[candidate.id] for candidate in candidates]
    accuracies = [row["accuracy"] for row in drawn]
    winners = {n: [best(part) for part in parts(drawn, n)] for n in numbers(runs.options.many)}
    chosen = {row["id"] for found in winners.values() for row in found}
    scores = scores_on_test(
        runs, run, [found for found in candidates if found.id in chosen], runs.options.out / f"winners-{seed}.jsonl"
    )
    for n, found in winners.items():
        correct = [scores[row["id"]]["correct"] / scores[row["id"]]["n"] for row in found]
        yield rounded({
            "candidates": n, "seed": seed, **runs.images(run), "sample": len(drawn), "drawn": min(n, len(drawn)),
            "expected_selection_error": error(expected_best(accuracies, min(n, len(drawn)))), "winners": len(found),
            "selection_error": error(statistics.fmean(row["accuracy"] for row in found)),
            "test_error": error(statistics.fmean(correct)),
            "params": round(statistics.fmean(row["params"] for row in found)),
        })  # fmt: skip


def parts(drawn: Sequence[Row], n: int) -> list[Sequence[Row]]:
    """Disjoint parts of n, in their order; what is left over is not used, and of fewer than n there is one part."""
    return [drawn[first : first + n] for first in range(0, max(1, len(drawn) - n + 1), n)]


def optimism_rows(runs: Runs, seed: int) -> Iterator[Row]:
    """What selecting on the test split would have promised: the one place where --both candidates are scored on it."""
    run, many = runs.made(BASE, seed), runs.sample_of_base(seed)
    candidates = read_candidates(RunDirectory(many))[: runs.options.both]
    board = {row["id"]: row for row in leaderboard(many)}
    scores = scores_on_test(runs, many, candidates, runs.options.out / f"optimism-{seed}.jsonl")
    selection = {found.id: board[found.id]["accuracy"] for found in candidates}
    test = {found.id: scores[found.id]["correct"] / scores[found.id]["n"] for found in candidates}
    right = np.stack([answers(scores[found.id]) for found in candidates])
    by_selection = best([board[found.id] for found in candidates])["id"]
    by_test = max(test, key=lambda name: (test[name], -board[name]["params"], name))
    yield rounded({
        "seed": seed, **runs.images(run), "candidates": len(candidates),
        **spread("selection", list(selection.values())), **spread("test", list(test.values())),
        "by_selection_selection_error": error(selection[by_selection]),
        "by_selection_test_error": error(test[by_selection]),
        "by_test_selection_error": error(selection[by_test]), "by_test_test_error": error(test[by_test]),
        "correlation": correlation(list(selection.values()), list(test.values())),
        "promised_fifth": promised(right, right.shape[1] // 5), "promised_half": promised(right, right.shape[1] // 2),
        "seconds": sum(scores[found.id]["seconds"] for found in candidates),
    })  # fmt: skip


def answers(score: Row) -> NDArray[np.bool_]:
    """[n]: whether each image was classified rightly, of a row of `scores_on_test`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(score["right"]), np.uint8), count=score["n"]).astype(bool)


def promised(right_KN: NDArray[np.bool_], images: int, *, divisions: int = 200, seed: int = 0) -> float:
    """Points by which the best of K candidates on some of N images is less far ahead of the average on the others.

    The mean over random divisions of the images in two; 0 in expectation where the answers on both parts are alike.

    Args:
        right_KN: which candidate classifies which image rightly.
        images: on which the best is chosen.
        divisions, seed: of the images.
    """
    generator, found = np.random.default_rng(seed), []
    for _ in range(divisions):
        order = generator.permutation(right_KN.shape[1])
        chosen_K, other_K = right_KN[:, order[:images]].mean(1), right_KN[:, order[images:]].mean(1)
        best_one = int(chosen_K.argmax())
        found.append(100 * ((chosen_K[best_one] - chosen_K.mean()) - (other_K[best_one] - other_K.mean())))
    return statistics.fmean(found)


def spread(split: str, accuracies: Sequence[float]) -> Row:
    """Mean and standard deviation of errors in percent; no deviation of one candidate."""
    deviation = 100 * statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return {f"mean_{split}_error": error(statistics.fmean(accuracies)), f"std_{split}_error": deviation}


def histogram_rows(runs: Runs, seed: int) -> Iterator[Row]:
    """Bins of the candidates' selection accuracies, guided and uniform, and of the learned p of the channels."""
    base, uniform = runs.made(BASE, seed), runs.made("uniform", seed)
    p, sizes = channel_probabilities(base)
    samples: list[tuple[str, str, list[float], list[int] | None]] = [
        ("selection accuracy", BASE, [row["accuracy"] for row in leaderboard(base)], None),
        ("selection accuracy", "uniform", [row["accuracy"] for row in leaderboard(uniform)], None),
        ("p", BASE, p, sizes),
    ]
    common = {name: runs.images(base)[name] for name in ("epochs", "train_images")}
    for what, arm, values, weights in samples:
        width = BINS[what]
        found = counts(values, width, weights)
        total = sum(count for _, count in found)
        for index, count in found:
            ends = {"low": index * width, "high": (index + 1) * width}
            yield rounded({"what": what, "arm": arm, "seed": seed, **ends, "count": count, "of": total, **common})


def whole(rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether a seed's rows of the histograms are all there; those of p are written last."""
    last = [row for row in rows if row["what"] == "p"]
    return bool(last) and sum(int(row["count"]) for row in last) == int(last[0]["of"])


def picture_paths(folder: Path) -> dict[str, Path]:
    """Figure of a report -> where it goes."""
    return {name: folder / f"paper_{name}.svg" for name in FIGURES}


def pictures(runs: Runs, seed: int, folder: Path) -> Iterator[Row]:
    """Put the figures of the base's report into `folder`, as SVG files; there are no rows."""
    run = runs.made(BASE, seed)
    runs.made("uniform", seed)  # a baseline of that run: its candidates stand on the same axis
    runs.pgnas("report", "--figures", "--run", run)
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in picture_paths(folder).items():
        path.write_bytes((run / "figures" / f"{name}.svg").read_bytes())
    return iter(())
