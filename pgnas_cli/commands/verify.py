"""`pgnas verify`: replays the proof of an exported network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgnas_cli.commands._options import RunOption
from pgnas_cli.commands.train import DataDirOption
from pgnas_cli.console import console
from pgnas_cli.errors import PgnasError
from pgnas_cli.run import RunDirectory

if TYPE_CHECKING:
    from pgnas_cli.export.verify import Verification

TrustPluginsOption = Annotated[
    bool, typer.Option("--trust-plugins", help="Of a download, also use an installed plugin that is not pgnas's own.")
]


class VerificationError(PgnasError):
    """At least one link does not hold."""

    exit_code = 1


def verify(
    path: Annotated[
        str | None,
        typer.Argument(metavar="[PATH|USER/REPO]", help="Exported folder, or USER/REPO[@REVISION]; default the run's."),
    ] = None,
    data_dir: DataDirOption = None,
    run: RunOption = None,
    trust_plugins: TrustPluginsOption = False,
    trust_pt2: Annotated[
        bool, typer.Option("--trust-pt2", help="Load a model.pt2 of unknown origin: it can run any code.")
    ] = False,
) -> None:
    """Replay every equality check of an exported network, from a folder or the Hub; exit 1 if one fails."""
    found = RunDirectory.open(run) if run is not None or path is None else None
    if path is None:
        assert found is not None
        stored = Path(found.require("export")["path"])
        path = str(found.path / stored if not stored.is_absolute() and (found.path / stored).is_dir() else stored)
    from pgnas_cli.export.verify import verify as verify_artifact

    result = verify_artifact(path, found, data_dir=data_dir, trust_plugins=trust_plugins, trust_pt2=trust_pt2)
    console.result(result.to_json(), lambda: render(result))
    if not result.passed:
        failed = ", ".join(check.name for check in result.checks if not check.passed)
        raise VerificationError(f"{path} does not verify: {failed}", "export again; a downloaded folder may be damaged")


def render(result: Verification) -> None:
    """A row for each link."""
    rows = [
        [c.name, "holds" if c.passed else "FAILS", f"{c.difference:.1e}", f"{c.tolerance:.0e}", c.detail]
        for c in result.checks
    ] + [[name, "skipped", "-", "-", reason] for name, reason in result.skipped.items()]
    console.table(
        result.path, ["check", "", "difference", "tolerance", "of"], rows, justify=["left", "left", "right", "right"]
    )
