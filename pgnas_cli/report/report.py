"""The report of a run: its sections as one page, and its figures as files."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.report import results, sections, sections_record, sections_training
from pgnas_cli.report.document import Code, Document, Figure, Inline, Section
from pgnas_cli.report.facts import Facts
from pgnas_cli.run import STAGES, RunDirectory, remove, replace_folder, write_bytes

PAGE, FIGURES = "report.html", "figures"
LARGEST = 3_000_000
"""Bytes above which a page is heavy for a phone."""
SECTIONS: tuple[Callable[[Facts], Section], ...] = (
    results.section,
    sections.architecture_section,
    sections_training.posterior_section,
    sections.candidates_section,
    sections.front_section,
    sections.race_section,
    sections_training.training_section,
    sections.fidelity_section,
    sections_training.cost_section,
    sections_record.provenance_section,
    sections_record.repeat_section,
)
_BEGINNING = b"<!doctype html"
"""Of a page, in small letters."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def document(facts: Facts) -> Document:
    """What the report of a run says."""
    train = facts.stage("train")
    done = [name for name in STAGES if facts.stage(name) is not None]
    about: list[tuple[str, Inline]] = [("run", Code(str(facts.run.path))), ("supernet", facts.spec.arch)]
    if train is not None:
        about.append(("data", Code(train["data"]["spec"])))
    about += [("stages done", ", ".join(done)), ("created (UTC)", facts.manifest["created"][:10])]
    return Document(
        title=f"{facts.spec.arch}: {facts.name}",
        lead=results.lead(facts),
        sections=tuple(make(facts) for make in SECTIONS),
        footer=footer(),
        facts=tuple(about),
    )


def footer() -> tuple[Inline, ...]:
    """Who made the page."""
    return (f"Made by pgnas {metadata.version('pgnas')}.",)


def report(run: RunDirectory, *, figures: bool = False, output: Path | None = None) -> dict[str, Any]:
    """Write the report of a run, also of one that is not finished.

    Args:
        run: inflated at least.
        figures: write every figure as SVG and PNG too.
        output: the page; report.html in the run if None.

    Returns:
        As `write`.

    Raises:
        RunError: a file of the run is damaged, or the page cannot be written.
    """
    facts = Facts.read(run)
    return write(document(facts), output or run.path / PAGE, figures=figures)


def write(page: Document, path: Path, *, figures: bool = False) -> dict[str, Any]:
    """Write a page, and its figures into a folder beside it; both replace what was there, atomically.

    The folder is called figures beside report.html, and NAME-figures beside any other NAME.html.

    Returns:
        JSON-ready: path, bytes, figures (their paths), sections (their ids), warnings (lines for the user).

    Raises:
        RunError: the folder may not be written to.
        UsageError: the folder for the figures holds something else, or `path` is no page.
    """
    from pgnas_cli.report.html import page as render

    _refuse_other(path)
    folder = path.with_name(FIGURES if path.name == PAGE else f"{path.stem}-{FIGURES}")
    if figures:
        _refuse_others(folder)
    data = render(page).encode()
    try:
        write_bytes(path, data)
        written = _write_figures(page.figures, folder) if figures else []
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise RunError(f"{path.parent} may not be written to", "--output FILE writes the page elsewhere") from None
        raise
    warnings = []
    if len(data) > LARGEST:
        warnings.append(f"{path} has {len(data) / 1e6:.1f} MB, which is heavy for a phone")
    return {
        "path": str(path),
        "bytes": len(data),
        "figures": [str(file) for file in written],
        "sections": [section.id for section in page.sections],
        "warnings": warnings,
    }


def _refuse_other(path: Path) -> None:
    """Refuse to replace a file that is no page, such as one of the run.

    Raises:
        UsageError: it is one, or a folder.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, the page is a file", shlex.join(["--output", str(path / PAGE)]))
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_BEGINNING)).lower() not in (_BEGINNING, b""):
                raise UsageError(f"{path} exists and is no HTML page: it is left alone", f"--output {PAGE}")


def _refuse_others(folder: Path) -> None:
    """Refuse to replace a folder that is not one of figures.

    Raises:
        UsageError: it holds other files.
    """
    others = [file.name for file in folder.iterdir() if file.suffix not in (".svg", ".png")] if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise UsageError(
            f"{folder} would be replaced by the figures, and it holds something else: {(others or [folder.name])[0]}",
            "move it away, or write the page elsewhere with --output FILE",
        )


def _write_figures(figures: tuple[Figure, ...], folder: Path) -> list[Path]:
    """Every figure as NAME.svg and NAME.png."""
    from pgnas_cli.report import legend, png, svg, themes

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    files: list[str] = []
    try:
        temporary.mkdir(parents=True)
        for figure in figures:
            drawing = legend.with_legend(figure)
            text = svg.svg(drawing, title=figure.title, alt=figure.alt, id=figure.name, theme=themes.LIGHT)
            write_bytes(temporary / f"{figure.name}.svg", text.encode())
            write_bytes(temporary / f"{figure.name}.png", png.png(drawing, theme=themes.LIGHT))
            files += [f"{figure.name}.svg", f"{figure.name}.png"]
        replace_folder(temporary, folder)
    finally:
        remove(temporary)
    return [folder / name for name in files]
