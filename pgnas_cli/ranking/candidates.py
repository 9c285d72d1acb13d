"""The sample stage: candidates drawn from a run's posterior, kept as bit-packed masks."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pgnas_cli import restore
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.posterior import strategies
from pgnas_cli.posterior.candidate import Candidate, pack, unpack
from pgnas_cli.posterior.diversity import diversity
from pgnas_cli.posterior.sampling import SampleReport, sample_candidates
from pgnas_cli.posterior.strategies.strategy import Options, Size, Strategy
from pgnas_cli.ranking.network_costs import NetworkCosts
from pgnas_cli.run import RunDirectory, expect, load_tensors, read_jsonl, remove, save_tensors, sync_folder, write_jsonl
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.loop import trained_supernet

MASKS = "candidates.safetensors"
ROWS = "candidates.jsonl"


def sample(
    run: RunDirectory,
    n: int | None = None,
    *,
    strategy: str = "posterior",
    source: str = "final",
    drop_prob: float | None = None,
    params: Size | None = None,
    macs: Size | None = None,
    seed: int = 0,
    max_params: float | None = None,
    max_macs: float | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Draw distinct candidates from a run's posterior and keep them in the run.

    Args:
        run: a trained run.
        n: how many; None for what the run's recipe says (`sampling.candidates`).
        strategy: "posterior": the learned probabilities; "uniform": the rate `drop_prob` (a run that was trained with
            --fixed-drop draws at its own rate if none is named); "tilted": the posterior conditioned on a mean size;
            "stratified": equally many at each of several sizes.
        source: "final": the posterior and the weights at the end of the training; "soft": as they were before it
            committed to one candidate (recipes with commit.at).
        drop_prob: rate of the uniform strategy.
        params, macs: what tilted draws have on average, or (lowest, highest) of the stratified ones; one of the two.
            Stratified without either goes from 0.3 to 0.9 of the supernet's parameters.
        seed: of the draws.
        max_params, max_macs: limits of the exact cost.
        force: draw again although a ranking has used the last candidates.
        progress: called with the number of candidates found.

    Returns:
        The record that run.json keeps, with `warnings`, a list of lines for the user.

    Raises:
        RunError: the run has not been trained, or a later stage has used the candidates.
        UsageError: the strategy does not fit the options or the run, a size cannot be reached, or see
            `sample_candidates`.
    """
    run.begin("sample", force=force)
    net = trained_supernet(run, source=source)
    n = restore.default_candidates(run, source) if n is None else n
    trained_rate = run.require("train").get("fixed_drop")
    if strategy == "uniform" and drop_prob is None and isinstance(trained_rate, float):
        drop_prob = trained_rate
    committed = source == "final" and run.require("train").get("soft") is not None
    started = time.perf_counter()
    proposals = _strategy(net, strategy, Options(drop_prob, params, macs), n, seed, committed=committed)
    found, report = sample_candidates(
        proposals, n, assess_many=net.assess_many, max_params=max_params, max_macs=max_macs, progress=progress
    )
    digest = write_candidates(run, net, found)
    record = {
        "candidates": len(found),
        "asked": n,
        "strategy": strategy,
        "source": source,
        "drop_prob": drop_prob,
        "seed": seed,
        "max_params": max_params,
        "max_macs": max_macs,
        **_facts(proposals, found, report),
        "sha256": digest,
        "seconds": time.perf_counter() - started,
    }
    run.finish("sample", record)
    return {**record, "warnings": _warnings(record, trained_rate, committed=committed)}


def _strategy(net: Supernet, name: str, options: Options, n: int, seed: int, *, committed: bool) -> Strategy:
    """The strategy that was asked for, refused where this posterior gives it nothing to work with."""
    kind = strategies.find(name)
    if kind.needs_scores:
        others = [other.name for other in strategies.STRATEGIES.values() if not other.needs_scores]
        raise UsageError(
            f"--strategy {name} goes on from how candidates scored, and a sample has no scores",
            f"one of: {', '.join(others)}",
        )
    if kind.needs_width and committed:
        raise UsageError(
            f"the training committed to one candidate, which leaves --strategy {name} nothing to choose from",
            "--from soft",
        )
    return strategies.make(name, net.posterior(), NetworkCosts(net), options, n=n, seed=seed)


def _facts(proposals: Strategy, found: list[Candidate], report: SampleReport) -> dict[str, Any]:
    """What the record says of how a set was drawn, and of what it is like."""
    return {
        "draws": report.draws,
        "duplicates": report.duplicates,
        "unusable": report.unusable,
        "too_large": report.too_large,
        "surplus": report.surplus,
        "params": _spread([candidate.params for candidate in found]),
        "macs": _spread([candidate.macs for candidate in found]),
        "strategy_facts": proposals.facts(found, report.strata),
        "diversity": asdict(diversity([candidate.masks for candidate in found])),
    }


def _spread(costs: list[int]) -> dict[str, float]:
    return {"mean": sum(costs) / len(costs), "min": min(costs), "max": max(costs)}


def sampled_supernet(run: RunDirectory, device: torch.device | str = "cpu") -> Supernet:
    """The supernet that a run's candidates were drawn from, and have their weights from."""
    return trained_supernet(run, device, source=run.require("sample").get("source", "final"))


def _warnings(record: dict[str, Any], trained_rate: float | None, *, committed: bool) -> list[str]:
    """What the user should know of a set that was drawn."""
    lines = []
    if record["strategy"] == "uniform" and record["drop_prob"] != trained_rate:
        trained = "with a learned posterior" if trained_rate is None else f"at {trained_rate:g}"
        lines.append(
            f"the supernet was trained {trained}, candidates are drawn uniformly at {record['drop_prob']}: "
            "a fair uniform baseline is trained and drawn at the same rate (train --fixed-drop)"
        )
    if record["candidates"] < record["asked"]:
        many = "candidates" if record["candidates"] > 1 else "candidate"
        instead = "; the training committed to it: --from soft draws from its posterior before" if committed else ""
        lines.append(
            f"{record['candidates']} distinct {many} in {record['draws']} draws, {record['asked']} were asked for "
            f"({record['duplicates']} repeated, {record['too_large']} above the limits, {record['unusable']} unusable)"
            f"{instead}"
        )
    return lines


def write_candidates(run: RunDirectory, net: Supernet, candidates: list[Candidate]) -> str:
    """Write masks and summaries; returns the hash that both carry."""
    folder = run.path / ".candidates.tmp"
    remove(folder)
    try:
        digest = save_candidates(folder, net, candidates)
        run.forget("sample")
        for name in (MASKS, ROWS):
            os.replace(folder / name, run.path / name)
        sync_folder(run.path)
    finally:
        remove(folder)
    return digest


def save_candidates(folder: Path, net: Supernet, candidates: Sequence[Candidate]) -> str:
    """Put candidates into a folder; returns the hash that both files carry."""
    bits = pack([candidate.masks for candidate in candidates])
    layout = json.dumps({name: gate.channels for name, gate in net.gates.items()})
    rows = [candidate.summary() for candidate in candidates]
    digest = _digest(layout, bits.tobytes(), rows)
    save_tensors(folder / MASKS, {"masks": torch.from_numpy(bits)}, {"layout": layout, "sha256": digest})
    write_jsonl(folder / ROWS, [{"sha256": digest, "candidates": len(candidates)}, *rows])
    return digest


def _digest(layout: str, bits: bytes, rows: list[dict[str, Any]]) -> str:
    """The hash that masks and summaries share: it covers both."""
    return hashlib.sha256(layout.encode() + bits + json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_candidates(run: RunDirectory) -> list[Candidate]:
    """The candidates of a run.

    Raises:
        RunError: there are none, or the two files do not belong together.
    """
    run.require("sample")
    return load_candidates(run.path, f"pgnas sample --force --run {run.path} draws them anew")


def ranked_candidates(run: RunDirectory) -> list[Candidate]:
    """The candidates of a run, and after them those that its ranking added by evolution.

    Raises:
        RunError: as `read_candidates`.
    """
    found = read_candidates(run)
    if (run.rank_path / MASKS).is_file():
        found += load_candidates(run.rank_path, f"pgnas rank --force --run {run.path} ranks anew")
    return found


def load_candidates(folder: Path, hint: str) -> list[Candidate]:
    """The candidates that `save_candidates` put into a folder.

    Raises:
        RunError: there are none, or the two files do not belong together.
    """
    tensors, metadata = load_tensors(folder / MASKS, hint=hint)
    header, *rows = read_jsonl(folder / ROWS, hint=hint) or [{}]
    digest = expect(header, "sha256", str, folder / ROWS, hint=hint)
    try:
        layout = json.loads(metadata["layout"])
        bits = tensors["masks"].numpy()
    except (KeyError, ValueError):
        raise RunError(f"{folder / MASKS} holds no masks", hint) from None
    actual = _digest(metadata["layout"], bits.tobytes(), rows)
    if not digest == metadata.get("sha256") == actual or len(rows) != len(bits):
        raise RunError(f"{MASKS} and {ROWS} in {folder} do not belong together", hint)
    return [_candidate(masks, row, folder / ROWS, hint) for masks, row in zip(unpack(bits, layout), rows, strict=True)]


def _candidate(masks: Any, row: dict[str, Any], path: Path, hint: str) -> Candidate:
    log_prob = row.get("log_prob")
    candidate = Candidate(
        masks,
        expect(row, "strategy", str, path, hint=hint),
        expect(row, "params", int, path, hint=hint),
        expect(row, "macs", int, path, hint=hint),
        float(log_prob) if isinstance(log_prob, int | float) else float("nan"),
    )
    if candidate.id != row.get("id"):
        raise RunError(f"{path}: the masks of {row.get('id')} have the identity {candidate.id}", hint)
    return candidate
