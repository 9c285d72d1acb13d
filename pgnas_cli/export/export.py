"""The export stage: a candidate of a run becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgnas_cli import restore
from pgnas_cli.compact import CompactNetwork
from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import PgnasError, RunError, UsageError
from pgnas_cli.export.artifact import PROBES
from pgnas_cli.export.card import draw, render_card
from pgnas_cli.export.choice import Choice, choose, find_candidate, selection_accuracy
from pgnas_cli.export.writing import write_artifact
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.run import RunDirectory, expect, read_json
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.data import Data

LAYOUTS = ("gather", "dense")


def export(
    run: RunDirectory,
    *,
    candidate: str | None = None,
    at: str | None = None,
    output: Path | None = None,
    layout: str = "gather",
    data_dir: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the compact network of a run's winner, or of another candidate, as an artifact.

    Masked, compact and reloaded network are compared on the probe images before the artifact takes its place. The test
    split is not read: an artifact has a test accuracy where ranking has evaluated its network, which is the winner.

    Args:
        run: a ranked run.
        candidate: an id, or its beginning; the winner if None.
        at: instead, the best-ranked candidate with at most so many parameters: "10M", or "0.5x" of the supernet's.
        output: folder; the run's own export folder if None.
        layout: "gather" or "dense".
        data_dir, workers: as in training.

    Returns:
        The record that run.json keeps.

    Raises:
        RunError: the run has not been ranked.
        UsageError: no candidate, or several, begin with that id; none is so small; the folder holds something else.
        PgnasError: the compact network differs from the masked one. Nothing is written.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--layout {layout!r} was given, it should be {' or '.join(LAYOUTS)}", "--layout gather")
    run.begin("export")
    ranking_path, hint = run.rank_path / "ranking.json", f"pgnas rank --force --run {run.path}"
    ranking = read_json(ranking_path, hint=hint)
    winner = expect(ranking, "winner", str, ranking_path, hint=hint)
    choice = choose(run, winner, candidate, at)
    chosen = choice.candidate
    data = same_data(run, data_dir=data_dir, workers=workers)
    net = sampled_supernet(run)
    recalibrate = expect(ranking, "recalibrate", int, ranking_path, hint=hint)
    evaluator = Evaluator(net, data, torch.device("cpu"), recalibrate=recalibrate)
    images = data.probe(PROBES)
    network, difference = proved_compact(evaluator, chosen, images, layout)
    folded = net.untouched(chosen.masks)
    section = describe(run, choice, ranking, is_winner=chosen.id == winner)
    assert net.spec is not None
    target = output.absolute() if output is not None else run.export_path
    section["stored_params"] = sum(parameter.numel() for parameter in network.parameters())
    picture, section["architecture"] = draw(net, chosen)
    write_artifact(
        target, network, net.spec, dict(chosen.masks), images, layout=layout, folded=folded, section=section,
        pretrained_cfg=input_description(data), card=render_card(net.spec, section), picture=picture,
    )  # fmt: skip
    record = {
        "candidate": chosen.id,
        "chosen_by": choice.by,
        "max_params": choice.max_params,
        "selection_accuracy": section["selection_accuracy"],
        "test_accuracy": section["test_accuracy"],
        "path": str(target) if output is not None else "export",
        "params": chosen.params,
        "macs": chosen.macs,
        "layout": layout,
        "masked_difference": difference,
        "sizes": three_sizes(net, chosen),
    }
    run.finish("export", record)
    return record


def proved_compact(
    evaluator: Evaluator, candidate: Candidate, images: Tensor, layout: str
) -> tuple[CompactNetwork, float]:
    """The compact network of a candidate as it was ranked, and its relative difference from the masked one.

    Raises:
        PgnasError: they differ by more than 1e-5.
    """
    with evaluator.ready(candidate), torch.inference_mode():
        masked = evaluator.net(images)
        network = evaluator.net.compact(candidate, layout=layout)
        difference = relative_difference(network(images), masked)
    if difference > TOLERANCE:
        raise PgnasError(
            f"the compact network of {candidate.id} differs from the masked one by {difference:.1e}, "
            f"at most {TOLERANCE:.0e} is allowed",
            "this is a bug: report it with the run's run.json",
        )
    return network, difference


def three_sizes(net: Supernet, candidate: Candidate) -> dict[str, int]:
    """Parameters of a candidate in its three forms.

    masked: weights of the supernet that read a kept input, and everything ungated; gathered: the compact network that
    is counted everywhere; dense: the compact network that keeps zero columns instead of gathering.
    """
    dropped = sum(
        layer.weight.numel() // mask.size * int((~mask).sum())
        for layer, mask in ((net.search_layers[name], mask) for name, mask in candidate.masks.items())
    )
    dense = net.compact(candidate, layout="dense")
    return {
        "masked": int(net.kept_cost().params) - dropped,
        "gathered": candidate.params,
        "dense": sum(parameter.numel() for parameter in dense.parameters()),
    }


def input_description(data: Data) -> dict[str, Any]:
    """timm's pretrained_cfg: what an image has to look like."""
    return {
        "input_size": [data.in_chans, data.img_size, data.img_size],
        "mean": list(data.mean),
        "std": list(data.std),
        "num_classes": data.num_classes,
        "label_names": list(data.class_names),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }


def describe(run: RunDirectory, choice: Choice, ranking: dict[str, Any], *, is_winner: bool) -> dict[str, Any]:
    """What the "pgnas" section of config.json says besides the structure. Only numbers that stand in the run."""
    candidate = choice.candidate
    train, sample = run.require("train"), run.require("sample")
    data = {k: v for k, v in train["data"].items() if k not in ("location", "class_names", "corrupt")}
    for prefix in ("folder:", "wds/"):
        if str(data.get("spec", "")).startswith(prefix):
            data["spec"] = prefix + Path(str(data["spec"]).removeprefix(prefix)).name
    if is_winner:
        scores = {name: ranking[name] for name in ("selection_accuracy", "test_accuracy")}
    else:
        scores = {"selection_accuracy": selection_accuracy(run, candidate.id), "test_accuracy": None}
    recipe = restore.run_recipe(run)
    return {
        "versions": dict(run.manifest()["versions"]),
        "candidate": {"id": candidate.id, "strategy": candidate.strategy, "params": candidate.params,
                      "macs": candidate.macs},
        "chosen_by": choice.by,
        "max_params": choice.max_params,
        "supernet": {"params": train["params"], "macs": train["macs"]},
        "training": {"epochs": train["epochs"], "images": train["images"], "seed": train["seed"],
                     "l2": recipe.objective.l2, "num_examples": recipe.objective.num_examples,
                     "temperature": recipe.objective.temperature, "prior_drop": recipe.objective.prior_drop,
                     "granularity": recipe.objective.granularity, "fixed_drop": recipe.objective.fixed_drop,
                     "target_params": train["target_params"]},
        "ranking": {"method": ranking["method"], "candidates": ranking["candidates"], "images": ranking["images"],
                    "recalibrate": ranking["recalibrate"], "sample_seed": sample["seed"], "winner": is_winner},
        "data": data,
        **scores,
    }  # fmt: skip


def load_run_candidate(
    run: RunDirectory, candidate_id: str, data_dir: Path | None = None
) -> tuple[Evaluator, Candidate]:
    """A run's supernet, ready to compute as one of its candidates exactly as ranking and export did.

    Raises:
        RunError, DataError: the run or its data have changed.
    """
    ranking = read_json(run.rank_path / "ranking.json", hint=f"pgnas rank --run {run.path}")
    recalibrate = ranking.get("recalibrate")
    if not isinstance(recalibrate, int):
        raise RunError(
            f"{run.rank_path / 'ranking.json'}: key 'recalibrate' is missing", f"pgnas rank --force --run {run.path}"
        )
    data = same_data(run, data_dir=data_dir)
    evaluator = Evaluator(sampled_supernet(run), data, torch.device("cpu"), recalibrate=recalibrate)
    return evaluator, find_candidate(run, candidate_id)
