"""The run directory: every arrow between two stages is a file in it.

    runs/<arch>-<date>-<n>/
      run.json                 what was built, with which versions, and the stages done
      supernet.safetensors     after inflate
      train/                   recipe.toml, log.jsonl, posterior.jsonl, checkpoints/<step>/
      candidates.safetensors   candidates.jsonl
      rank/                    leaderboard.jsonl, ranking.json, candidates.* of evolution
      certify.jsonl            candidates trained from scratch, for every ranking to come
      export/
      report.html                what `pgnas report` makes of all this, and with --figures figures/

Every write is atomic: a temporary file beside the target, fsync, rename. A reader sees the old file or the
new one, never half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.strict_json import parse_json

FORMAT = 1
MOST_JSON = 2**26
"""Bytes of a JSON document, 64 MiB: the record of the longest run has a few."""
STAGES = ("inflate", "train", "sample", "rank", "export")
OUTPUTS = {
    "inflate": ("supernet.safetensors",),
    "train": ("train",),
    "sample": ("candidates.safetensors", "candidates.jsonl"),
    "rank": ("rank",),
    "export": ("export",),
}


# ---- atomic writes -----------------------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; on any failure the old file stays and nothing is left beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # os.write reports no name; the message to the user needs one
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one JSON document, indented, ending in a newline."""
    write_bytes(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON document a line."""
    write_bytes(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line to a log and force it to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path, *, hint: str = "", most: int = MOST_JSON) -> dict[str, Any]:
    """Read one JSON object of at most `most` bytes.

    Raises:
        RunError: with the file and the place, if it is missing, no plain file, too large, or not one object.
    """
    if not path.is_file():
        raise RunError(absent(path), hint)
    if (size := path.stat().st_size) > most:
        raise RunError(f"{path} has {size} bytes, at most {most} are read", hint)
    return parse_json(path.read_bytes(), str(path), hint=hint)


def absent(path: Path) -> str:
    """What to say of a path that is not a file."""
    return f"{path} is missing" + (": what is there is no plain file" if path.exists() else "")


def read_jsonl(path: Path, *, hint: str = "", whole_lines: bool = False) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; RunError names the file and the line that is broken.

    With `whole_lines` a last line without its end, which a process that was killed may have left, is passed over.
    """
    try:
        text = path.read_text()
        lines = (text[: text.rfind("\n") + 1] if whole_lines else text).splitlines()
    except FileNotFoundError:
        raise RunError(f"{path} is missing", hint) from None
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not valid JSON: {error}", hint) from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RunError(f"{path}, line {number}, is not valid JSON: {error}", hint) from None
        if not isinstance(row, dict):
            raise RunError(f"{path}, line {number}, should hold a JSON object", hint)
        rows.append(row)
    return rows


def expect(document: Mapping[str, Any], key: str, kind: type | tuple[type, ...], path: Path, *, hint: str = "") -> Any:
    """`document[key]` if it is of `kind` (an int passes for a float); else RunError with file, key and fix."""
    if key not in document:
        raise RunError(f"{path}: key {key!r} is missing", hint)
    value = document[key]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        names = " or ".join(k.__name__ for k in kinds)
        raise RunError(f"{path}: key {key!r} should be {names}, not {value!r}", hint)
    return value


# ---- the directory ------------------------------------------------------------------------------------------


class RunDirectory:
    """One run on disk. Holds a path and nothing else: state is always read from the files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | Path | None, arch: str, root: Path = Path("runs")) -> RunDirectory:
        """A new, empty run: `path`, or `root/<arch>-<date>-<n>` with the first free n.

        Raises:
            UsageError: `path` exists and is not an empty folder.
        """
        if path is not None:
            folder = Path(path)
            if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
                raise UsageError(f"{folder} already exists", "name another folder with --run, or remove this one")
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder)
        stem = f"{arch.replace(':', '-').replace('/', '-')}-{time.strftime('%Y%m%d')}"
        root.mkdir(parents=True, exist_ok=True)
        for n in range(1, 100_000):
            folder = root / f"{stem}-{n}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return cls(folder)
        raise RunError(f"no free name {stem}-<n> in {root}", "name a folder with --run")

    @classmethod
    def open(cls, path: str | Path | None = None, *, environ: Mapping[str, str] = os.environ) -> RunDirectory:
        """The run at `path`, else at $PGNAS_RUN, else the newest run under ./runs.

        Raises:
            RunError: there is none, or its run.json is missing, damaged or of a newer format.
        """
        hint = "pgnas inflate ARCH makes a run; name an existing one with --run DIR"
        chosen = path or environ.get("PGNAS_RUN")
        if chosen:
            run = cls(Path(chosen))
            if not run.path.is_dir():
                raise RunError(f"no such run directory: {run.path}", hint)
            if not run.manifest_path.is_file():
                raise RunError(f"{run.path} is not a run directory: it has no run.json", hint)
        else:
            runs = [cls(file.parent) for file in Path("runs").glob("*/run.json")]
            if not runs:
                raise RunError("there is no run under ./runs", hint)
            run = max(runs, key=RunDirectory._created)
        run.manifest()
        return run

    def _created(self) -> str:
        """When the run was made, by its manifest; by the time of the file where that does not say."""
        with contextlib.suppress(ValueError, OSError, AttributeError):
            if created := json.loads(self.manifest_path.read_text()).get("created"):
                return str(created)
        return _timestamp(self.manifest_path.stat().st_mtime)

    @property
    def manifest_path(self) -> Path:
        return self.path / "run.json"

    @property
    def supernet_path(self) -> Path:
        return self.path / "supernet.safetensors"

    @property
    def train_path(self) -> Path:
        return self.path / "train"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "train" / "checkpoints"

    @property
    def rank_path(self) -> Path:
        return self.path / "rank"

    @property
    def export_path(self) -> Path:
        return self.path / "export"

    def baseline_path(self, name: str) -> Path:
        """A baseline that is trained beside the run: a run of its own, inside this one."""
        return self.path / "baselines" / name

    # ---- manifest ----

    def manifest(self) -> dict[str, Any]:
        """run.json, validated.

        Raises:
            RunError: missing, damaged, or written by a newer version.
        """
        hint = "pgnas inflate ARCH makes a new run"
        document = read_json(self.manifest_path, hint=hint)
        version = expect(document, "format", int, self.manifest_path, hint=hint)
        if version > FORMAT:
            raise RunError(
                f"{self.manifest_path} has format {version}, this version reads up to {FORMAT}",
                "pip install --upgrade pgnas",
            )
        expect(document, "model", dict, self.manifest_path, hint=hint)
        expect(document, "stages", dict, self.manifest_path, hint=hint)
        return document

    def write_manifest(self, model: Mapping[str, Any], versions: Mapping[str, str]) -> None:
        """Start the manifest of a new run."""
        document = {
            "format": FORMAT,
            "created": _timestamp(time.time()),
            "versions": dict(versions),
            "model": dict(model),
            "stages": {},
        }
        write_json(self.manifest_path, document)

    def stage(self, name: str) -> dict[str, Any] | None:
        """What the manifest says of a finished stage, or None."""
        found = self.manifest()["stages"].get(name)
        if found is not None and not isinstance(found, dict):
            raise RunError(f"{self.manifest_path}: stages.{name} should be an object", "run the stage again")
        return found

    def finish(self, name: str, record: Mapping[str, Any]) -> None:
        """Enter a finished stage, with its options, seeds, time and cost, into the manifest."""
        document = self.manifest()
        document["stages"][name] = {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **record}
        write_json(self.manifest_path, document)

    def require(self, name: str) -> dict[str, Any]:
        """The record of a stage that has to be done by now; RunError with the command to type if it is not."""
        found = self.stage(name)
        if found is None:
            raise RunError(f"{self.path} has no finished {name} stage", f"pgnas {name} --run {self.path}")
        return found

    def next_stage(self) -> str | None:
        """The first stage that is not done, or None."""
        done = self.manifest()["stages"]
        return next((name for name in STAGES if name not in done), None)

    def begin(self, name: str, *, force: bool = False, typed: str | None = None) -> None:
        """Check that stage `name` may run now; `typed` is its command where that is not its name.

        Raises:
            RunError: an earlier stage is missing, or a later stage has used this one's outputs and `force` is off.
        """
        position = STAGES.index(name)
        if position:
            self.require(STAGES[position - 1])
        document = self.manifest()
        later = [stage for stage in STAGES[position + 1 :] if stage in document["stages"]]
        if later and not force:
            raise RunError(
                f"{self.path}: {' and '.join(later)} already used what {name} wrote",
                f"pgnas {typed or name} --force --run {self.path} drops the results of: {', '.join(later)}",
            )

    def forget(self, name: str) -> None:
        """Forget stage `name` and every later one: first in the manifest, then the later ones' files.

        The files of `name` itself stay: whoever runs it again has the new ones ready and puts them in their place.
        """
        document = self.manifest()
        position = STAGES.index(name)
        if any(stage in document["stages"] for stage in STAGES[position:]):
            document["stages"] = {k: v for k, v in document["stages"].items() if k not in STAGES[position:]}
            write_json(self.manifest_path, document)
        for stage in STAGES[position + 1 :]:
            for output in OUTPUTS[stage]:
                remove(self.path / output)


def _timestamp(seconds: float) -> str:
    """Seconds since the epoch as UTC text, in whose order runs sort by age."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder `new` in the place of `target`; the old one is removed only after the swap."""
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(new, target)
    except OSError:
        if old.exists():
            os.replace(old, target)
        raise
    remove(old)
    sync_folder(target.parent)


def load_tensors(path: Path, *, hint: str, names: Iterable[str] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of a safetensors file on the CPU; of `names` only, if they are given.

    Raises:
        RunError: the file is missing, truncated or not a safetensors file, or lacks a tensor that is named.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RunError(absent(path), hint)
    try:
        with safe_open(path, "pt", device="cpu") as file:
            wanted = file.keys() if names is None else names
            return {name: file.get_tensor(name) for name in wanted}, dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]  # of a dtype or size that torch does not have, too
        raise RunError(f"{path} is damaged or truncated ({reason})", hint) from None


def save_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically. Tensors are detached, made contiguous and moved to the CPU."""
    from safetensors.torch import save

    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain, dict(metadata) if metadata else None))
