"""The Hub, there and back, and each way in which a push fails: the installed `pgnas` against the server of the tests.

    python tests/bench/hub_round_trip.py [--quick] [--only TEXT] [--at-once 6]

A run of a shake-shake 2x4d on the digits, one epoch, is exported with model.onnx and model.pt2 and pushed by the real
client over HTTP, large files through LFS: a table of the pushes, with the requests that may change something on the
Hub; then for each way of loading, in a process of its own with an empty cache and no token, the largest difference of
the logits from the local export's, relative to max(1, max |logit|); then what `pgnas verify` prints.

The second part is a row for each fault: exit code; seconds of the whole command, and from the first request that the
fault met; the message; whether the exported network on the disk is byte for byte what it was; whether the token is in
none of stdout, stderr and the run's files, though the Hub repeats it in its answers; and whether the command that was
printed, typed again when the fault is gone, succeeds. Faults are measured with the real limits of
pgnas_cli/export/hub_client.py, so that a silent Hub takes up to 93 s; these wait --at-once at a time. --quick waits 2 s
for an answer instead of 30 (the module's constant is set, `pgnas` is started by python -c); --only measures the faults
whose name holds TEXT, without the first part.

The exit code is 1 if anything is not as expected. Cost: 13 minutes on two cores beside other work, less with --quick.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from commands import PGNAS
from push_faults import ALICE, REPO, all_faults, start

from pgnas_cli.compact.equality import TOLERANCE

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import LocalHub

NO_HUB = "http://127.0.0.1:1"
LOAD = """
import sys
from pathlib import Path
import torch
import pgnas_cli as pgnas
from pgnas_cli.compact.equality import relative_difference
name = sys.argv[1]
{how}
local = pgnas.load(Path("run/export"))
images = torch.randn(64, *local.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print(relative_difference(network.eval()(images), local(images)))
"""
WAYS = {
    "pgnas_cli.load": "network = pgnas.load(name)",
    "timm.create_model": """
import timm
import pgnas_cli.timm_models
network = timm.create_model("hf-hub:" + name, pretrained=True)""",
    "snapshot_download, pgnas_cli.load": """
from huggingface_hub import snapshot_download
repo_id, _, revision = name.partition("@")
network = pgnas.load(snapshot_download(repo_id, revision=revision))""",
}


def must(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, done.args))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_run(place: Path) -> None:
    """A ranked run in place/run."""
    for line in (
        "inflate shakeshake26_2x4d --in-chans 1 --img-size 8 --seed 0 --run run",
        "train --data digits --epochs 1 --batch-size 32 --recipe posterior --target-params 0.5x --device cpu --run run",
        "sample -n 4 --seed 1 --run run",
        "rank --device cpu --run run",
    ):
        must(start([PGNAS, *line.split()], place, NO_HUB))


def round_trip(place: Path) -> Iterator[str]:
    """Prints the first part; what is not as it should be."""
    with LocalHub() as hub:
        print("\n| push | says | files to the storage | changing requests |\n|---|---|---:|---:|")
        for name, options, expected in (
            ("first", "", None), ("second", "", 0), ("with --tag v1", "--tag v1", 1), ("the same again", "--tag v1", 0)
        ):  # fmt: skip
            hub.requests.clear()
            words = ["export", "--run", "run", "--onnx", "--pt2", "--push-to-hub", *options.split()]
            out = must(start([PGNAS, *words], place, hub.url, ALICE))
            said = next(line for line in out.splitlines() if line.startswith(hub.url)).split(": ", 1)[1]
            stored = sum(request.method == "PUT" for request in hub.requests)
            print(f"| {name} | {said} | {stored} | {len(hub.changing())} |", flush=True)
            if expected is not None and (len(hub.changing()) != expected or "every file is there already" not in said):
                yield f"push {name}: {hub.changing()}, {said}"
        print("\n| loaded by | largest difference | files from the storage |\n|---|---:|---:|")
        for number, (name, how) in enumerate(WAYS.items()):
            hub.requests.clear()
            words = [sys.executable, "-c", LOAD.format(how=how), f"{REPO}@v1"]
            difference = float(must(start(words, place, hub.url, home=f"home-{number}")))
            fetched = sum(str(request).startswith("GET /storage/") for request in hub.requests)
            print(f"| {name} | {difference:.1e} | {fetched} |", flush=True)
            if not (difference <= TOLERANCE and fetched):
                yield f"{name}: differs by {difference}, {fetched} files were downloaded"
        command = f"pgnas verify {REPO}@v1 --run run"
        done = start([PGNAS, *command.split()[1:]], place, hub.url, home="home-verify")
        print(f"\n    $ {command}\n" + "\n".join(f"    {line.rstrip()}" for line in done.stdout.splitlines()))
        print(f"\nexit code {done.returncode}")
        if done.returncode or " skipped " in done.stdout:
            yield f"{command}: {done.stdout}{done.stderr}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--at-once", type=int, default=6, metavar="N")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm", "huggingface_hub", "onnxruntime"))
    print(f"{platform.platform()}, {os.cpu_count()} cores, python {platform.python_version()}, {versions}", flush=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_run(place)
        wrong = [] if options.only else list(round_trip(place))
        must(start([PGNAS, "export", "--run", "run"], place, NO_HUB))
        wrong += all_faults(place, only=options.only, quick=options.quick, at_once=options.at_once)
    print(f"\n{time.perf_counter() - began:.0f} s; not as expected: {len(wrong)}")
    for each in wrong:
        print(f"  {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
