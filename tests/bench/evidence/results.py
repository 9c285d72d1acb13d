"""Writes RESULTS.md from the CSV files of results/, and from nothing else.

    python tests/bench/evidence/results.py [--check]

A second at most. --check writes nothing: exit status 1 if RESULTS.md is not what would be written. A table is a
description (table.py) in a module of its own, or a section that is no table of claims (section.py), named here in
TABLES.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from growth_page import GROWTH  # noqa: E402
from imagenet import IMAGENET  # noqa: E402
from ledger import RESULTS  # noqa: E402
from paper_sample_table import PAPER  # noqa: E402
from peers_table import PEERS  # noqa: E402
from section import Section  # noqa: E402
from study_table import FOUND_PLAIN, STUDY  # noqa: E402
from table import CONFIDENCE, FAILS, HOLDS, NOT_SHOWN, OPEN, Table  # noqa: E402

PAGE = HERE / "RESULTS.md"
TABLES: tuple[Table | Section, ...] = (PEERS, STUDY, FOUND_PLAIN, *PAPER, GROWTH, IMAGENET)
HEADER = f"""# Results

Written by `python tests/bench/evidence/results.py` from the files in `results/`; not by hand.

A row of those files is one run with one seed. Differences are between runs of the same seed: their mean ± half of the
{100 * CONFIDENCE:.0f} % interval of Student's t. A claim **{HOLDS}** where that interval lies wholly on its side of 0,
**{FAILS}** where it lies wholly on the other, and is **{NOT_SHOWN}** otherwise; with fewer than two common seeds it is
**{OPEN}**. Nothing is corrected for the number of claims."""


def page(folder: Path, tables: tuple[Table | Section, ...] = TABLES) -> str:
    """RESULTS.md of the CSV files of a folder."""
    summary = ["| table | " + " | ".join((HOLDS, NOT_SHOWN, FAILS, OPEN)) + " |", "|---" * 5 + "|"]
    for table in tables:
        if table.claims:
            count = Counter(verdict for verdict, _ in table.judged(folder))
            cells = (str(count[verdict]) for verdict in (HOLDS, NOT_SHOWN, FAILS, OPEN))
            summary.append(f"| {table.title} | {' | '.join(cells)} |")
    return "\n\n".join([HEADER, "\n".join(summary), *(table.render(folder) for table in tables)]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    wanted = page(RESULTS)
    if not options.check:
        PAGE.write_text(wanted)
        return 0
    if not PAGE.is_file() or PAGE.read_text() != wanted:
        print(f"{PAGE} is not what the files say: python tests/bench/evidence/results.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
