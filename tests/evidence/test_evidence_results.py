"""RESULTS.md is what its script writes, and a table renders as it is described."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

EVIDENCE = Path(__file__).parents[1] / "bench" / "evidence"
sys.path.insert(0, str(EVIDENCE))

import results  # noqa: E402
from peer_arms import COLUMNS, ORDER, PRUNED  # noqa: E402
from peers_table import PEERS  # noqa: E402
from table import FAILS, HOLDS, NOT_SHOWN, OPEN, Claim, Table, csv_rows, difference, each, mean, paired, span, text  # noqa: E402

CSV = """# Taus: three of them
# sitting 1: 2026-11-30, a machine
sitting,tau,seed,error,params
1,0.2,1,10.5,1000
1,0.2,0,10,1100
1,0.6,0,12,1000
1,0.6,1,12.7,1000
1,0.9,1,20,
"""
TAUS = Table(
    title="Temperature",
    about="What it says.",
    read=csv_rows("tau"),
    line=("tau",),
    columns=(
        text("tau", lambda row: row["tau"]),
        mean("error", "error", 1),
        each("each", "error", 1),
        span("params", "params"),
        difference("- 0.2", "error", lambda row: ("0.2",)),
    ),
    claims=(
        Claim("0.2 errs less than 0.6", "error", ("0.2",), ("0.6",)),
        Claim("0.2 errs more than 0.6", "error", ("0.2",), ("0.6",), larger=True),
        Claim("0.2 errs less than 0.9", "error", ("0.2",), ("0.9",)),
        Claim("0.2 errs less than 0.1", "error", ("0.2",), ("0.1",)),
    ),
)


def test_the_page_is_what_the_script_writes() -> None:
    assert results.PAGE.read_text() == results.page(results.RESULTS), "python tests/bench/evidence/results.py"


def test_a_table(tmp_path: Path) -> None:
    (tmp_path / "tau.csv").write_text(CSV)
    # differences 2 and 2.2: mean 2.1, t(0.975, 1) = 12.706, sd 0.1414 / sqrt(2) = 0.1
    assert TAUS.render(tmp_path) == (
        "## Temperature\n\nWhat it says.\n\n"
        "| tau | error | each | params | - 0.2 |\n| --- | --- | --- | --- | --- |\n"
        "| 0.2 | 10.2 ± 0.4 | 10.0 / 10.5 | 1,000 to 1,100 |  |\n"
        "| 0.6 | 12.3 ± 0.5 | 12.0 / 12.7 | 1,000 | +2.10 ± 1.27 |\n"
        "| 0.9 | 20.0 | 20.0 | - | +9.50 (n = 1) |\n\n"
        "- **holds**: 0.2 errs less than 0.6 (-2.10 ± 1.27, n = 2)\n"
        "- **fails**: 0.2 errs more than 0.6 (-2.10 ± 1.27, n = 2)\n"
        "- **open**: 0.2 errs less than 0.9 (-9.50 (n = 1))\n"
        "- **open**: 0.2 errs less than 0.1 (no seed has both)\n\n"
        "- Taus: three of them\n- sitting 1: 2026-11-30, a machine"
    )
    page = results.page(tmp_path, (TAUS,))
    assert "| Temperature | 1 | 0 | 1 | 2 |" in page


def test_without_rows(tmp_path: Path) -> None:
    assert TAUS.render(tmp_path) == "## Temperature\n\nWhat it says.\n\nNo rows yet."


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([1, 2, 3], HOLDS), ([3, 6, 5], NOT_SHOWN), ([9, 10, 11.1], FAILS), ([1], OPEN)],
)
def test_verdicts(ours: list[float], verdict: str) -> None:
    rows = [[{"seed": str(n), "x": str(x)} for n, x in enumerate(side)] for side in (ours, [4, 5, 5.9])]
    claim = Claim("less", "x", ("a",), ("b",))
    assert claim.judged({("a",): rows[0], ("b",): rows[1]})[0] == verdict  # type: ignore[dict-item]


def test_equal_runs_prove_nothing() -> None:
    rows = [{"seed": "0", "x": "1"}, {"seed": "1", "x": "2"}]
    found = paired(rows, rows, "x")
    assert found is not None
    assert (found.mean, found.half) == (0, 0)
    assert Claim("less", "x", ("a",), ("b",)).judged({("a",): rows, ("b",): rows})[0] == NOT_SHOWN  # type: ignore[dict-item]


def test_the_peers(tmp_path: Path) -> None:
    """Synthetic rows: the default errs 0.5 points less than everything else, seed by seed."""
    lines = ["# peers", ",".join(("sitting", *COLUMNS))]
    for family in ("shakeshake", "resnet"):
        for arm in reversed(ORDER):
            for seed in range(3):
                error = 10 + seed / 7 + (0 if arm == "default" else 0.5 + seed / 100)
                row = dict.fromkeys(COLUMNS, "1000000") | {"family": family, "arm": arm, "seed": str(seed)}
                row |= {"test_error": str(error), "test_low": str(error - 0.5), "test_high": str(error + 0.7)}
                lines.append(",".join(("1", *(row[name] for name in COLUMNS))))
    (tmp_path / "peers.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "latency.csv").write_text(
        "# latency\nsitting,family,seed,runtime,batch,arm,of_plain\n1,resnet,0,eager,1,default,1.5\n"
    )
    judged = PEERS.judged(tmp_path)
    for arm, others in (("default-both", set()), ("default-small", {"default-both"})):
        compared = {claim.base[1] for _, claim in judged if claim.line[1] == arm}
        assert compared == {"plain-equal", *PRUNED} | others
        assert {verdict for verdict, claim in judged if claim.line[1] == arm} == {NOT_SHOWN}
    verdicts = [verdict for verdict, claim in judged if claim.line[1] == "default"]
    assert verdicts == [HOLDS] * (2 * (len(ORDER) - 4))
    page = PEERS.render(tmp_path)
    assert page.index("### resnet") < page.index("### shakeshake")
    assert (
        "| PGNAS, default recipe | 10.14 ± 0.14 | 10.00 / 10.14 / 10.29 | 0.60 |  | 1,000,000 | 1.0 M | 1.50 | - |"
        in page
    )
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert f"| 0.60 | +0.51 ± {half:.2f} |" in page
