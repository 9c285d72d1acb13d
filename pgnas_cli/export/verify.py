"""Verification: every link between the network that was ranked and the one on disk, replayed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pgnas_cli.compact.equality import TOLERANCE, relative_difference
from pgnas_cli.errors import DataError, RunError
from pgnas_cli.export.artifact import CONFIG, DAMAGED, WEIGHTS, weights_digest
from pgnas_cli.export.export import load_run_candidate
from pgnas_cli.export.reading import build_artifact, counted_cost, probe_difference, read_artifact
from pgnas_cli.posterior.candidate import masks_id
from pgnas_cli.run import RunDirectory


@dataclass(frozen=True)
class Check:
    """One link.

    Args:
        name: what is compared with what.
        difference: relative to max(1, max |logit|) for logits; a count otherwise.
        tolerance: largest difference that passes.
        detail: what was compared, or why it could not be.
    """

    name: str
    difference: float
    tolerance: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """All links of an artifact.

    Args:
        path: the artifact.
        checks: in the order they were made.
        skipped: link -> why it could not be replayed.
    """

    path: str
    checks: tuple[Check, ...]
    skipped: dict[str, str]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"path": self.path, "passed": self.passed, "checks": checks, "skipped": self.skipped}


def verify(path: str | Path, run: RunDirectory | None = None, *, data_dir: Path | None = None) -> Verification:
    """Replay the equality checks of an artifact.

    By itself an artifact proves: it loads strictly; its masks have the identity that the configuration names; its
    parameters and MACs are as many as were counted; its weights file is the one that was written; its logits on the
    probe images are the stored ones. With the run that it came from: masked = compact = reloaded.

    Args:
        path: the artifact's folder.
        run: the run that it came from; if None, the folder that holds it, where that is a run.
        data_dir: where the run's torchvision set lies now; the masked link is skipped where its data are not found.

    Raises:
        RunError: the artifact cannot be read at all, or does not fit together; or the run's own files are damaged.
    """
    folder = Path(path)
    artifact = read_artifact(folder)
    network = build_artifact(artifact)
    section = artifact.config["pgnas"]
    stated = section.get("candidate")
    if not isinstance(stated, dict) or any(type(stated.get(key)) is not int for key in ("params", "macs")):
        raise RunError(f"{folder / CONFIG}: pgnas.candidate.params and .macs should be whole numbers", DAMAGED)
    params = sum(parameter.numel() for parameter in network.parameters())
    macs = counted_cost(artifact).macs
    checks = [
        Check("masks = candidate id", float(masks_id(artifact.masks) != stated.get("id")), 0.0, str(stated.get("id"))),
    ]
    counted = stated["params"] if artifact.layout == "gather" else section.get("stored_params")
    wrong = abs(params - counted) if type(counted) is int else 1
    checks.append(Check("parameters = counted", float(wrong), 0.0, f"{params}"))
    checks.append(Check("MACs = counted", float(abs(macs - stated["macs"])), 0.0, f"{macs}"))
    changed = weights_digest(folder) != section.get("weights_sha256")
    checks.append(Check("weights file unchanged", float(changed), 0.0, f"SHA-256 of {WEIGHTS}"))
    finite = all(bool(t.isfinite().all()) for t in network.state_dict().values() if t.is_floating_point())
    checks.append(Check("weights are finite", float(not finite), 0.0, WEIGHTS))
    checks.append(
        Check(
            "reloaded = exported",
            probe_difference(artifact, network),
            TOLERANCE,
            f"{len(artifact.images)} probe images",
        )
    )
    skipped = {}
    if run is None and (folder.resolve().parent / "run.json").is_file():
        run = RunDirectory.open(folder.resolve().parent)
    if run is None:
        skipped["masked = reloaded"] = "the run that it came from is not here: name it with --run"
    else:
        try:
            evaluator, candidate = load_run_candidate(run, str(stated.get("id")), data_dir)
        except DataError as error:
            skipped["masked = reloaded"] = str(error)
        else:
            with evaluator.ready(candidate), torch.inference_mode():
                masked = evaluator.net(artifact.images)
                compact = evaluator.net.compact(candidate)(artifact.images)
                reloaded = network(artifact.images)
            detail = f"candidate {candidate.id} of {run.path}"
            checks.append(Check("masked = compact", relative_difference(compact, masked), TOLERANCE, detail))
            checks.append(Check("masked = reloaded", relative_difference(reloaded, masked), TOLERANCE, detail))
    return Verification(str(path), tuple(checks), skipped)
