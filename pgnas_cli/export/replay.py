"""What an artifact is compared with in a verification: timm, ONNX Runtime, torch.export, its run, the Hub.

Each function gives the largest difference and says what was compared, or raises SkippedError with the reason why it
cannot be. The artifact has been read, so that its configuration and its weights are known to be harmless.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile
from torch import Tensor, nn

from pgnas_cli.compact.equality import relative_difference
from pgnas_cli.errors import DataError, HubError, PgnasError, one_line
from pgnas_cli.export.artifact import CARD, CONFIG, Artifact
from pgnas_cli.export.export import load_run_candidate
from pgnas_cli.export.hub import FILES, parse_repo
from pgnas_cli.export.hub_faults import explained
from pgnas_cli.export.hub_push import compare, files_of
from pgnas_cli.export.hub_target import Destination
from pgnas_cli.export.onnx_file import ONNX, run_onnx
from pgnas_cli.export.pt2_file import PT2, capture, write_pt2
from pgnas_cli.export.reading import plain_file
from pgnas_cli.export.skipped import SkippedError
from pgnas_cli.run import RunDirectory


def _largest(found: Sequence[Tensor], reloaded: Tensor) -> float:
    """The largest relative difference over batches of the first images each."""
    return max(relative_difference(logits, reloaded[: len(logits)]) for logits in found)


def timm_difference(artifact: Artifact, reloaded: Tensor) -> tuple[float, str]:
    """Logits of the model that timm builds from the folder, against those of the reloaded network.

    Raises:
        SkippedError: the configuration does not say how timm builds it.
        PgnasError: timm's model refuses to load, or timm fails on the configuration.
    """
    if "structure" not in artifact.config.get("model_args", {}):
        raise SkippedError("config.json has no model_args.structure for timm: it was written by an older version")
    import timm

    import pgnas_cli.timm_models  # noqa: F401 - registers the architecture

    try:
        model = timm.create_model(f"local-dir:{artifact.path}", pretrained=True).eval()
        with torch.inference_mode():
            found = model(artifact.images)
    except PgnasError:
        raise
    except Exception as error:  # whatever a foreign configuration makes timm raise
        raise PgnasError(f"timm refuses {CONFIG}: {one_line(error, 200)}", "export again") from None
    return relative_difference(found, reloaded), f"timm.create_model, timm {timm.__version__}"


def onnx_difference(artifact: Artifact, reloaded: Tensor) -> tuple[float, str]:
    """Logits of model.onnx in ONNX Runtime, of all probe images together and of one alone.

    Raises:
        SkippedError: there is no such file, or no ONNX Runtime.
        PgnasError: ONNX Runtime refuses it.
    """
    if not (artifact.path / ONNX).exists():
        raise SkippedError(f"it has no {ONNX}: pgnas export --onnx writes one")
    if importlib.util.find_spec("onnxruntime") is None:
        raise SkippedError("ONNX Runtime is not installed: pip install 'pgnas[onnx]'")
    path = plain_file(artifact.path, ONNX)
    try:
        found = run_onnx(path, [artifact.images, artifact.images[:1]])
    except Exception as error:  # whatever a foreign file makes it raise; its own types have no base of their own
        raise PgnasError(f"ONNX Runtime refuses {ONNX}: {one_line(error, 200)}", "export again with --onnx") from None
    return _largest(found, reloaded), f"{_batches(artifact)}, ONNX Runtime {metadata.version('onnxruntime')}"


def pt2_difference(
    artifact: Artifact, network: nn.Module, reloaded: Tensor, *, trusted: bool = False
) -> tuple[float, str]:
    """Logits of model.pt2, of all probe images together and of one alone.

    torch.export.load unpickles without restrictions whatever the file declares to be pickled, and evaluates its
    expressions for sizes: it may run any code. A file that is not trusted is therefore never loaded. The network is
    captured anew instead, and what comes out is loaded; if it has the same bytes, it is the file.

    Raises:
        SkippedError: there is no such file, or it has other bytes and is not trusted.
        PgnasError: torch refuses it.
    """
    if not (artifact.path / PT2).exists():
        raise SkippedError(f"it has no {PT2}: pgnas export --pt2 writes one")
    path = plain_file(artifact.path, PT2)
    if not trusted:
        with tempfile.TemporaryDirectory() as folder:
            new = Path(folder, PT2)
            difference = write_pt2(new, capture(network, artifact.images), artifact.images, reloaded)
            if not _same_content(new, path):
                raise SkippedError(
                    f"{PT2} is not byte for byte what torch {torch.__version__} writes for this network, and loading "
                    "such a file can run any code: --trust-pt2 loads it if you trust it"
                )
        return difference, f"{_batches(artifact)}, torch {torch.__version__}, byte for byte"
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode():
            loaded = torch.export.load(path).module()
            found = [loaded(artifact.images), loaded(artifact.images[:1])]
    except Exception as error:  # whatever a damaged file makes torch raise
        raise PgnasError(f"torch refuses {PT2}: {one_line(error, 200)}", "export again with --pt2") from None
    return _largest(found, reloaded), f"{_batches(artifact)}, torch {torch.__version__}"


def _batches(artifact: Artifact) -> str:
    return f"{len(artifact.images)} probe images, and one alone"


def _same_content(a: Path, b: Path) -> bool:
    return a.stat().st_size == b.stat().st_size and a.read_bytes() == b.read_bytes()


def run_differences(artifact: Artifact, reloaded: Tensor, run: RunDirectory, data_dir: Path | None) -> dict[str, float]:
    """Link -> difference: of the run's compact and masked networks, and of the reloaded and masked ones.

    Raises:
        SkippedError: the data set of the run is not found.
        RunError, UsageError: the run has been changed, or is another.
    """
    try:
        evaluator, candidate = load_run_candidate(run, str(artifact.config["pgnas"]["candidate"]["id"]), data_dir)
    except DataError as error:
        raise SkippedError(str(error)) from None
    with evaluator.ready(candidate), torch.inference_mode():
        masked = evaluator.net(artifact.images)
        compact = evaluator.net.compact(candidate, layout=artifact.layout)(artifact.images)
    return {
        "masked = compact": relative_difference(compact, masked),
        "masked = reloaded": relative_difference(reloaded, masked),
    }


# ---- the Hub ----


def unlike_the_hub(name: str, snapshot: Path) -> tuple[list[str], str]:
    """The files of a snapshot whose digest is not what the Hub lists, or that are only in one place; the commit.

    Args:
        name: "user/repo" or "user/repo@revision".
        snapshot: of `hub.fetch`; its folder has the name of the commit.

    Raises:
        SkippedError: the Hub cannot be asked: the snapshot was in the cache.
    """
    repo_id, _ = parse_repo(name)
    commit = snapshot.name
    try:
        with explained(f"list {repo_id}", repo_id=repo_id):
            listed = [e for e in HfApi().list_repo_tree(repo_id, revision=commit) if isinstance(e, RepoFile)]
    except HubError as error:
        raise SkippedError(f"the snapshot in the cache was used: {error}") from None
    digests = {entry.path: entry.lfs.sha256 if entry.lfs is not None else entry.blob_id for entry in listed}
    changes = compare(files_of(snapshot), Destination(repo_id, exists=True, digests=digests))
    return sorted({*changes.upload, *changes.remove}), commit[:8]


def unlike_the_export(artifact: Artifact, run: RunDirectory) -> tuple[list[str], int]:
    """The files that differ between a downloaded artifact and the run's own export, and how many were compared.

    The card is left out: on the Hub it names the repository, and may be edited there.

    Raises:
        SkippedError: the run has no export, or it is of another candidate.
    """
    record = run.stage("export")
    candidate = artifact.config["pgnas"]["candidate"]["id"]
    if record is None or record.get("candidate") != candidate:
        found = "nothing" if record is None else f"candidate {record.get('candidate')}"
        raise SkippedError(f"the last export of {run.path} is {found}, this is {candidate}")
    folder = run.path / str(record["path"])  # an absolute path stands for itself
    names = [n for n in FILES if n != CARD and ((folder / n).is_file() or (artifact.path / n).is_file())]
    if not folder.is_dir():
        raise SkippedError(f"{folder}, where {run.path} was exported to, is not there")
    here, there = artifact.path, folder
    same = [n for n in names if (here / n).is_file() and (there / n).is_file() and _same_content(here / n, there / n)]
    return [name for name in names if name not in same], len(names)
