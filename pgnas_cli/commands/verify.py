"""`pgnas verify`: replays the proof of an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pgnas_cli.commands._options import RunOption
from pgnas_cli.commands.train import DataDirOption
from pgnas_cli.console import console
from pgnas_cli.errors import PgnasError
from pgnas_cli.run import RunDirectory


class VerificationError(PgnasError):
    """At least one link does not hold."""

    exit_code = 1


def verify(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="Exported folder; default the export of the run.")
    ] = None,
    data_dir: DataDirOption = None,
    run: RunOption = None,
) -> None:
    """Replay every equality check of an exported network; exit 1 if one fails."""
    found = RunDirectory.open(run) if run is not None or path is None else None
    if path is None:
        assert found is not None
        stored = Path(found.require("export")["path"])
        path = found.path / stored if not stored.is_absolute() and (found.path / stored).is_dir() else stored
    from pgnas_cli.export.verify import verify as verify_artifact

    result = verify_artifact(path, found, data_dir=data_dir)

    def render() -> None:
        rows = [
            [
                check.name,
                "holds" if check.passed else "FAILS",
                f"{check.difference:.1e}",
                f"{check.tolerance:.0e}",
                check.detail,
            ]
            for check in result.checks
        ] + [[name, "skipped", "-", "-", reason] for name, reason in result.skipped.items()]
        console.table(
            str(path), ["check", "", "difference", "tolerance", "of"], rows, justify=["left", "left", "right", "right"]
        )

    console.result(result.to_json(), render)
    if not result.passed:
        failed = ", ".join(check.name for check in result.checks if not check.passed)
        raise VerificationError(f"{path} does not verify: {failed}", "export again; a downloaded folder may be damaged")
