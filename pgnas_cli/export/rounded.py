"""--round-to: a candidate of a run, rounded, scored beside what it was, and kept in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgnas_cli.errors import UsageError
from pgnas_cli.export.choice import Choice, selection_accuracy
from pgnas_cli.export.rounding import STRATEGY, Rounded, round_candidate
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import Posterior
from pgnas_cli.ranking.candidates import MASKS, load_candidates, save_candidates
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.run import RunDirectory, remove, replace_folder
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.loop import trained_supernet


def round_choice(
    run: RunDirectory, evaluator: Evaluator, choice: Choice, multiple: int
) -> tuple[Choice, dict[str, Any]]:
    """The rounded candidate, and what config.json says of it under "rounded".

    It is another network: scored on the whole selection split, with the ranking's recalibration, beside the one that
    it was made from. The test split is not read.

    Args:
        run: a ranked run; a candidate that is new to it is kept in its rank folder.
        evaluator: of its supernet, as the ranking had it.
        choice: what to round.
        multiple: see `round_candidate`.

    Returns:
        (the choice, `choice` itself where nothing had to change; the section).

    Raises:
        UsageError: no width can be a multiple; or what was chosen by its size is larger than that when it is rounded.
    """
    net, before = evaluator.net, choice.candidate
    rounded = round_candidate(net, before, multiple, _posterior(run, net))
    if not rounded.after.multiples:
        raise UsageError(
            f"--round-to {multiple} was given: no width of this network can be a multiple of it", "--round-to 8"
        )
    if choice.max_params is not None and rounded.candidate.params > choice.max_params:
        more = rounded.candidate.params - before.params
        raise UsageError(
            f"rounded to multiples of {multiple} the candidate has {rounded.candidate.params:,} parameters, "
            f"--at allows {choice.max_params:,}",
            f"leave room for rounding: --at {max(choice.max_params - more, 1)}, or a smaller --round-to",
        )
    section = _describe(choice, rounded, multiple)
    section["from"]["selection_accuracy"] = selection_accuracy(run, before.id) or _scored(evaluator, before)
    if rounded.candidate is before:
        return choice, section | {"selection_accuracy": section["from"]["selection_accuracy"]}
    _keep(run, net, rounded.candidate)
    section["selection_accuracy"] = _scored(evaluator, rounded.candidate)
    return Choice(rounded.candidate, STRATEGY, choice.max_params), section


def _posterior(run: RunDirectory, net: Supernet) -> Posterior:
    """What the run knows of single channels: its posterior before it committed, if it did."""
    committed = run.require("train").get("soft") and run.require("sample").get("source", "final") == "final"
    return trained_supernet(run, source="soft").posterior() if committed else net.posterior()


def _scored(evaluator: Evaluator, candidate: Candidate) -> dict[str, Any]:
    score = evaluator.score(candidate, "selection")
    return wilson(score.correct, score.n).to_json()


def _describe(choice: Choice, rounded: Rounded, multiple: int) -> dict[str, Any]:
    before, after = choice.candidate, rounded.candidate
    changes = [(after.masks[name], mask) for name, mask in before.masks.items()]
    return {
        "to": multiple,
        "from": {"id": before.id, "chosen_by": choice.by, "params": before.params, "macs": before.macs},
        "added": sum(int((new & ~old).sum()) for new, old in changes),
        "dropped": sum(int((old & ~new).sum()) for new, old in changes),
        "widths": {"before": rounded.before.to_json(), "after": rounded.after.to_json()},
        "left": rounded.left,
    }


# ---- in the run ----


def rounded_candidates(run: RunDirectory) -> list[Candidate]:
    """The rounded candidates that were exported since the run was ranked.

    Raises:
        RunError: their files are damaged.
    """
    folder = _folder(run)
    if not (folder / MASKS).is_file():
        return []
    return load_candidates(folder, f"pgnas rank --force --run {run.path} ranks anew")


def _folder(run: RunDirectory) -> Path:
    """A ranking that is made anew takes it away with the rest."""
    return run.rank_path / STRATEGY


def _keep(run: RunDirectory, net: Supernet, candidate: Candidate) -> None:
    known = rounded_candidates(run)
    if candidate not in known:
        new = run.rank_path / f".{STRATEGY}.tmp"
        remove(new)
        try:
            save_candidates(new, net, [*known, candidate])
            replace_folder(new, _folder(run))
        finally:
            remove(new)
