"""Verification: every link between the network that was ranked and the one on disk, replayed.

    masked = compact = reloaded = timm = ONNX = pt2 = downloaded

What needs more than the artifact's own files and pgnas is in replay.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from pgnas_cli.compact.equality import TOLERANCE
from pgnas_cli.errors import PgnasError, RunError
from pgnas_cli.export import replay
from pgnas_cli.export.artifact import CARD, CONFIG, DAMAGED, WEIGHTS, Artifact, file_digest, weights_digest
from pgnas_cli.export.hub import FILES
from pgnas_cli.export.loading import locate
from pgnas_cli.export.reading import build_artifact, counted_cost, plain_file, probe_difference, read_artifact
from pgnas_cli.export.skipped import SkippedError
from pgnas_cli.posterior.candidate import masks_id
from pgnas_cli.run import RunDirectory

MASKED = ("masked = compact", "masked = reloaded")
"""The links that need the run; `replay.run_differences` replays them."""


@dataclass(frozen=True)
class Check:
    """One link.

    Args:
        name: what is compared with what.
        difference: relative to max(1, max |logit|) for logits; a count otherwise; infinite where there are no logits.
        tolerance: largest difference that passes.
        detail: what was compared, or what went wrong.
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
        path: the artifact, as it was named.
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
        checks = [
            {**asdict(check), "difference": check.difference if math.isfinite(check.difference) else None,
             "passed": check.passed}
            for check in self.checks
        ]  # fmt: skip
        return {"path": self.path, "passed": self.passed, "checks": checks, "skipped": self.skipped}


@dataclass
class _Links:
    """Collects the links that are replayed, and those that cannot be."""

    checks: list[Check] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def count(self, name: str, wrong: float, detail: str) -> None:
        """A link that passes where nothing is wrong."""
        self.checks.append(Check(name, float(wrong), 0.0, detail))

    def logits(self, name: str, difference: float, detail: str) -> None:
        """A link that passes where logits differ by rounding alone."""
        self.checks.append(Check(name, difference, TOLERANCE, detail))

    def replay(self, name: str, compare: Callable[[], tuple[float, str]]) -> None:
        """A link of logits whose far side may be missing, or refuse."""
        try:
            self.logits(name, *compare())
        except SkippedError as error:
            self.skipped[name] = str(error)
        except PgnasError as error:
            self.logits(name, math.inf, str(error))


def verify(
    path: str | Path,
    run: RunDirectory | None = None,
    *,
    data_dir: Path | None = None,
    trust_plugins: bool = False,
    trust_pt2: bool = False,
) -> Verification:
    """Replay the equality checks of an artifact.

    By itself an artifact proves: it loads strictly; its masks have the identity that the configuration names; its
    parameters and MACs are as many as were counted; every listed file is the one that was written; its logits on the
    probe images are the stored ones, also through timm, in ONNX Runtime and as a torch.export program, where there are
    such files. With the run that it came from: masked = compact = reloaded. From the Hub: what was downloaded is what
    the Hub lists, and with the run what was exported.

    Args:
        path: the artifact's folder, or a repository of the Hub: "user/repo" or "user/repo@revision".
        run: the run that it came from; if None, the folder that holds it, where that is a run.
        data_dir: where the run's torchvision set lies now; the masked link is skipped where its data are not found.
        trust_plugins: of a downloaded network, also let an installed plugin build it that is not pgnas's own.
        trust_pt2: load model.pt2 whatever is in it. Loading such a file can run any code, as of a pickle; without this
            it is loaded only if it is, byte for byte, what this version of torch writes for the network.

    Raises:
        RunError: the artifact cannot be read at all, or does not fit together; or the run's own files are damaged.
        UsageError, HubError: `path` is neither, or cannot be downloaded.
    """
    folder, own = locate(path, everything=True)
    artifact = read_artifact(folder, trust_plugins=own or trust_plugins)
    network = build_artifact(artifact)
    with torch.inference_mode():
        reloaded = network(artifact.images)
    if own and run is None and (folder.resolve().parent / "run.json").is_file():
        run = RunDirectory.open(folder.resolve().parent)
    links = _Links()
    for name, wrong, detail in _identity(artifact, sum(parameter.numel() for parameter in network.parameters())):
        links.count(name, wrong, detail)
    _files(artifact, links)
    links.logits("reloaded = exported", probe_difference(artifact, network), f"{len(artifact.images)} probe images")
    links.replay("timm = reloaded", lambda: replay.timm_difference(artifact, reloaded))
    links.replay("ONNX = reloaded", lambda: replay.onnx_difference(artifact, reloaded))
    links.replay("pt2 = reloaded", lambda: replay.pt2_difference(artifact, network, reloaded, trusted=trust_pt2))
    if run is None:
        links.skipped |= dict.fromkeys(MASKED, "the run that it came from is not here: name it with --run")
    else:
        _masked(artifact, reloaded, run, data_dir, links)
    if not own:
        _downloaded(str(path), artifact, run, links)
    return Verification(str(path), tuple(links.checks), links.skipped)


def _identity(artifact: Artifact, params: int) -> Iterator[tuple[str, float, str]]:
    """That the network is the one that the configuration names: (link, what is wrong, detail)."""
    section = artifact.config["pgnas"]
    stated = section.get("candidate")
    if not isinstance(stated, dict) or any(type(stated.get(key)) is not int for key in ("params", "macs")):
        raise RunError(f"{artifact.path / CONFIG}: pgnas.candidate.params and .macs should be whole numbers", DAMAGED)
    yield "masks = candidate id", masks_id(artifact.masks) != stated.get("id"), str(stated.get("id"))
    as_counted = artifact.layout == "gather" and not section.get("fold_bn", False)
    counted = stated["params"] if as_counted else section.get("stored_params")
    yield "parameters = counted", abs(params - counted) if type(counted) is int else 1, f"{params}"
    macs = counted_cost(artifact).macs
    yield "MACs = counted", abs(macs - stated["macs"]), f"{macs}"
    changed = weights_digest(artifact.path) != section["weights_sha256"]
    yield "weights file unchanged", changed, f"SHA-256 of {WEIGHTS}"


def _files(artifact: Artifact, links: _Links) -> None:
    """That the folder holds the files that the configuration lists, and no other of an artifact's."""
    name, listed = "files = listed", artifact.config["pgnas"].get("files")
    if listed is None:
        links.skipped[name] = f"{CONFIG} lists no files: it was written by an older version"
        return
    wrong = [each for each, entry in listed.items() if not _is_as_listed(artifact.path, each, entry)]
    wrong += [each for each in FILES if each not in (CONFIG, CARD, *listed) and (artifact.path / each).exists()]
    detail = f"SHA-256 and size of {len(listed)} files" if not wrong else f"not as listed: {', '.join(sorted(wrong))}"
    links.count(name, len(wrong), detail)


def _is_as_listed(folder: Path, name: str, entry: dict[str, Any]) -> bool:
    try:
        path = plain_file(folder, name)
    except RunError:
        return False
    return path.stat().st_size == entry["size"] and file_digest(path) == str(entry["sha256"])


def _masked(
    artifact: Artifact, reloaded: torch.Tensor, run: RunDirectory, data_dir: Path | None, links: _Links
) -> None:
    """The links to the run's supernet."""
    try:
        found = replay.run_differences(artifact, reloaded, run, data_dir)
    except SkippedError as error:
        links.skipped |= dict.fromkeys(MASKED, str(error))
        return
    detail = f"candidate {artifact.config['pgnas']['candidate']['id']} of {run.path}"
    for name, difference in found.items():
        links.logits(name, difference, detail)


def _downloaded(name: str, artifact: Artifact, run: RunDirectory | None, links: _Links) -> None:
    """The links of a snapshot of the Hub."""
    link = "downloaded = on the Hub"
    try:
        wrong, commit = replay.unlike_the_hub(name, artifact.path)
    except SkippedError as error:
        links.skipped[link] = str(error)
    else:
        links.count(link, len(wrong), f"commit {commit}" + (f": {', '.join(wrong)}" if wrong else ""))
    link = "downloaded = exported"
    if run is None:
        links.skipped[link] = "the run that it came from is not here: name it with --run"
        return
    try:
        differing, compared = replay.unlike_the_export(artifact, run)
    except SkippedError as error:
        links.skipped[link] = str(error)
    else:
        detail = f"{compared} files byte for byte, without {CARD}"
        links.count(link, len(differing), f"differ: {', '.join(differing)}" if differing else detail)
