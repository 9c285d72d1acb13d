"""Fuzzed artifacts: what each check refuses, what loads, and what loading takes.

    python tests/bench/fuzz_artifacts.py [--n 10000] [--seed 1]

Nine of ten are changes of an artifact of a network of 500 weights, the others of a shakeshake26_2x4d; see
tests/export/fuzz.py. A row for each check with how many it refused; then how many loaded, with the logits of the
original; seconds of processor time and growth of memory for one; and the faults, of which there should be none: a
crash, a message that is not one line with a hint, or a network with other logits. The exit code is 1 if there are any.
One thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load as tensors_of

from pgnas_cli.export.loading import load

sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
from fuzz import Outcome, attempt, logits, mutants
from tiny_artifact import PROOF, tiny_installed, whole

CHECKS = (
    ("stands twice", "JSON: a key twice"),
    ("nested too deeply", "JSON: nesting"),
    ("is not finite", "JSON: NaN or infinite numbers"),
    ("its metadata", "tensors: metadata"),
    ("should hold a JSON object", "JSON: no object"),
    ("not valid JSON", "JSON: syntax, encoding"),
    ("holds no exported network", "a file is missing"),
    ("is missing", "a file or tensor is missing"),
    ("this version reads", "format or semantics: newer"),
    ("model description", "the backbone's description"),
    ("no installed plugin", "the plugin is not installed"),
    ("names no architecture", "the architecture's name"),
    ("cannot be built", "the backbone cannot be built"),
    ("at most", "bounds"),
    ("its network has", "timm's keys: classes, image"),
    ("num_features", "timm's keys: classes, image"),
    ("architecture is", "timm's keys: architecture"),
    ("pretrained_cfg", "timm's keys: classes, image"),
    ("describes another network", "timm's structure is another"),
    ("gather indices", "gather indices"),
    ("NaN or infinite", "tensors: NaN or infinite numbers"),
    ("SHA-256", "SHA-256"),
    ("differ by", "logits of the probe images"),
    ("damaged or truncated", "tensors: header's length, truncation"),
    ("was expected", "tensors: gaps, overlaps"),
    ("lies at bytes", "tensors: shape and offsets"),
    ("no artifact holds", "tensors: dtype unknown"),
    (", expected ", "tensors: dtype or shape of another network"),
    ("probe images, expected", "tensors: number of probes"),
    ("unknown", "tensors: of an unknown name"),
    ("described by", "tensors: entry of the header"),
    ("is of shape", "tensors: entry of the header"),
    ("lacks", "a file or tensor is missing"),
    ("masks", "the masks do not fit"),
    ("pgnas", "the pgnas section"),
    ("model_args", "timm's arguments"),
)
"""What a message contains -> the check; the first that fits."""


def check_of(refusal: str) -> str:
    return next((check for part, check in CHECKS if part in refusal), refusal)


def fuzz(folder: Path, arch: str, plugin: str, n: int, seed: int) -> list[Outcome]:
    """Load n changes of an artifact of an architecture."""
    files, other = (whole(folder / f"{arch}-{i}", arch, plugin, 8, i) for i in (0, 1))
    images = tensors_of(files[PROOF])["probe_images"]
    expected = logits(load(folder / f"{arch}-0"), images)
    return [
        attempt(folder / "mutant", mutant, images, expected) for mutant in islice(mutants(files, other, seed=seed), n)
    ]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, tiny_installed():
        large = arguments.n // 10
        found = fuzz(Path(place), "tiny_6", "tiny", arguments.n - large, arguments.seed)
        found += fuzz(Path(place), "shakeshake26_2x4d", "shakeshake", large, arguments.seed)
    refused = Counter(check_of(outcome.refusal) for outcome in found if outcome.refusal)
    print("| refused by | n |\n|---|---|")
    for check, times in refused.most_common():
        print(f"| {check} | {times} |")
    print(f"| loaded, the same logits | {sum(not (outcome.refusal or outcome.fault) for outcome in found)} |")
    seconds = [outcome.seconds for outcome in found]
    print(
        f"\nn = {len(found)}: {sum(seconds):.0f} s of processor time, {statistics.median(seconds):.4f} s each at the "
        f"median, {max(seconds):.2f} s at most; memory grew by {max(o.megabytes for o in found):.1f} MB at most"
    )
    faults = [outcome.fault for outcome in found if outcome.fault]
    print(f"faults: {len(faults)}")
    for fault in dict.fromkeys(faults):
        print(f"  {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
