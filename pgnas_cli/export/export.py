"""The export stage: a candidate of a run becomes an artifact."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from pgnas_cli import restore
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.artifact import PICTURE, PROBES, PROOF, WEIGHTS
from pgnas_cli.export.card import FRONT, draw, draw_front, render_card
from pgnas_cli.export.choice import Choice, choose, find_candidate, selection_accuracy
from pgnas_cli.export.deployment import Built, Deployment, build, file_writer
from pgnas_cli.export.facts import card_facts
from pgnas_cli.export.rounded import round_choice, rounded_candidates
from pgnas_cli.export.writing import check_target, write_artifact
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.ranking.candidates import sampled_supernet
from pgnas_cli.ranking.evaluate import Evaluator
from pgnas_cli.ranking.same_data import same_data
from pgnas_cli.recipe.budget import UNITS
from pgnas_cli.run import RunDirectory, expect, read_json
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.data import Data


def export(
    run: RunDirectory,
    *,
    candidate: str | None = None,
    at: str | None = None,
    output: Path | None = None,
    layout: str = "gather",
    fold_bn: bool = False,
    round_to: int | None = None,
    onnx: bool = False,
    pt2: bool = False,
    license: str | None = None,
    data_dir: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the compact network of a run's winner, or of another candidate, as an artifact.

    Masked, compact and reloaded network are compared on the probe images before the artifact takes its place, and so is
    what every further option makes of them. The test split is not read: an artifact has a test accuracy where ranking
    has evaluated its network, which is the winner.

    Args:
        run: a ranked run.
        candidate: an id, or its beginning; the winner if None.
        at: instead, the best-ranked candidate with at most so many parameters: "10M", or "0.5x" of the supernet's.
        output: folder; the run's own export folder if None.
        layout: "gather", "dense", or "auto": the one that is faster on this machine.
        fold_bn: fold BatchNorms into the convolutions in front of them.
        round_to: round the candidate's widths to multiples of this, which makes it another network.
        onnx, pt2: also write model.onnx, model.pt2.
        license: of the network, for the card.
        data_dir, workers: as in training.

    Returns:
        The record that run.json keeps.

    Raises:
        RunError: the run has not been ranked.
        UsageError: no candidate, or several, begin with that id; none is so small; the folder holds something else, or
            cannot be written; a package is not installed; rounding cannot give what is asked for.
        PgnasError: one form of the network differs from another. Nothing is written.
    """
    wanted = Deployment(layout, fold_bn, onnx, pt2)
    check_license(license)
    target = output.absolute() if output is not None else run.export_path
    check_target(target)
    run.begin("export")
    ranking_path, hint = run.rank_path / "ranking.json", f"pgnas rank --force --run {run.path}"
    ranking = read_json(ranking_path, hint=hint)
    winner = expect(ranking, "winner", str, ranking_path, hint=hint)
    recalibrate = expect(ranking, "recalibrate", int, ranking_path, hint=hint)
    choice = choose(run, winner, candidate, at)
    data = same_data(run, data_dir=data_dir, workers=workers)
    evaluator = Evaluator(sampled_supernet(run), data, torch.device("cpu"), recalibrate=recalibrate)
    rounded = None
    if round_to is not None:
        choice, rounded = round_choice(run, evaluator, choice, round_to)
    built = build(evaluator, choice.candidate, data.probe(PROBES), wanted)
    section = describe(run, choice, ranking, is_winner=choice.candidate.id == winner, rounded=rounded)
    section |= {"license": license} if license is not None else {}
    front = draw_front(run, choice, ranking)
    _write(target, evaluator, choice.candidate, built, section, wanted, {} if front is None else {FRONT: front})
    record = {**_record(choice, built, section), "path": str(target) if output is not None else "export"}
    record["sizes"] = three_sizes(evaluator.net, choice.candidate)
    run.finish("export", record)
    return record


def check_license(license: str | None) -> None:
    """UsageError unless it can be one of the Hub's identifiers, which are lower case; "other" stands for all others."""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", license):
        raise UsageError(
            f"--license {license!r} is no identifier of a license", "--license apache-2.0, mit, cc-by-4.0 or other"
        )


def _write(
    target: Path,
    evaluator: Evaluator,
    candidate: Candidate,
    built: Built,
    section: dict[str, Any],
    wanted: Deployment,
    pictures: dict[str, bytes],
) -> None:
    """Complete the section, draw the network and write; `built.differences` gains those of the files."""
    net, data = evaluator.net, evaluator.data
    assert net.spec is not None
    images = data.probe(PROBES)
    section["stored_params"] = sum(parameter.numel() for parameter in built.network.parameters())
    picture, section["architecture"] = draw(net, candidate)
    pictures = {PICTURE: picture, **pictures}
    files = [WEIGHTS, PROOF, *pictures, *wanted.files]
    told = {**section, "layout": built.layout, "fold_bn": wanted.fold_bn, "files": dict.fromkeys(files)}
    card = render_card(net.spec, told, class_names=data.class_names)
    write_artifact(
        target, built.network, net.spec, dict(candidate.masks), images, layout=built.layout,
        folded=net.untouched(candidate.masks), fold_bn=wanted.fold_bn, section=section,
        pretrained_cfg=input_description(data), card=card, pictures=pictures,
        extra=[file_writer(built.network, images, wanted, built.differences)],
    )  # fmt: skip


def _record(choice: Choice, built: Built, section: dict[str, Any]) -> dict[str, Any]:
    """What run.json keeps of an export."""
    differences = dict(built.differences)
    return {
        "candidate": choice.candidate.id,
        "chosen_by": choice.by,
        "max_params": choice.max_params,
        "selection_accuracy": section["selection_accuracy"],
        "test_accuracy": section["test_accuracy"],
        "params": choice.candidate.params,
        "macs": choice.candidate.macs,
        "layout": built.layout,
        "masked_difference": differences.pop("masked"),
        **({"folded_difference": differences.pop("folded")} if "folded" in differences else {}),
        **({"file_differences": differences} if differences else {}),
        **({"layout_choice": built.layout_choice} if built.layout_choice is not None else {}),
        **{key: section[key] for key in ("rounded", "license") if key in section},
    }


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


def describe(
    run: RunDirectory,
    choice: Choice,
    ranking: dict[str, Any],
    *,
    is_winner: bool,
    rounded: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What the "pgnas" section of config.json says besides the structure. Only numbers that stand in the run, and those
    of a rounding."""
    candidate = choice.candidate
    train, sample = run.require("train"), run.require("sample")
    data = {k: v for k, v in train["data"].items() if k not in ("location", "class_names", "corrupt")}
    for prefix in ("folder:", "wds/"):
        if str(data.get("spec", "")).startswith(prefix):
            data["spec"] = prefix + Path(str(data["spec"]).removeprefix(prefix)).name
    if is_winner:
        scores = {name: ranking[name] for name in ("selection_accuracy", "test_accuracy")}
    else:
        found = selection_accuracy(run, candidate.id) if rounded is None else rounded["selection_accuracy"]
        scores = {"selection_accuracy": found, "test_accuracy": None}
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
                     **{f"target_{unit}": train[f"target_{unit}"] for unit in UNITS}},
        "ranking": {"method": ranking["method"], "candidates": ranking["candidates"], "images": ranking["images"],
                    "recalibrate": ranking["recalibrate"], "sample_seed": sample["seed"], "winner": is_winner},
        "data": data,
        **scores,
        **({"rounded": rounded} if rounded is not None else {}),
        **card_facts(run, choice, ranking),
    }  # fmt: skip


def load_run_candidate(
    run: RunDirectory, candidate_id: str, data_dir: Path | None = None
) -> tuple[Evaluator, Candidate]:
    """A run's supernet, ready to compute as one of its candidates exactly as ranking and export did.

    Args:
        run: a ranked run.
        candidate_id: of a candidate, or of a rounded one that was exported.
        data_dir: as in training.

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
    rounded = [found for found in rounded_candidates(run) if found.id == candidate_id]
    return evaluator, rounded[0] if rounded else find_candidate(run, candidate_id)
