"""SIGKILL at random moments of a training, and --resume each time: is the end the same, bit for bit?

    python tests/bench/kill_resume.py [--kills 10] [--seed 0] [--procs 1]

One training of a small supernet on the digits is left alone; the other is killed at `kills` moments, up to 0.3 s after
random steps have been reached, and resumed after each. Checkpoints are written every few steps, so that most kills fall
into the middle of an epoch, some into the writing of a checkpoint or of a log. Exit status 1 if one bit differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

PGNAS = str(Path(sysconfig.get_path("scripts"), "pgnas"))
TRAIN = ["--data", "digits", "--target-params", "0.3x", "--epochs", "8", "--batch-size", "16", "--ema", "0.99"]
TIMES = ("seconds", "images_per_second")


def start(run: Path, options: list[str]) -> subprocess.Popen[str]:
    command = [PGNAS, "train", "--run", str(run), "--device", "cpu", "--checkpoint-every", "7", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=1800)
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {said}")
    return said


def last_step(run: Path) -> int:
    """Of the newest checkpoint; 0 if there is none."""
    return max((int(path.name) for path in (run / "train" / "checkpoints").glob("[0-9]*")), default=0)


def rows(run: Path, name: str) -> list[dict[str, object]]:
    lines = (run / "train" / name).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / json.loads((run / "run.json").read_text())["stages"]["train"]["checkpoint"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--procs", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    procs = ["--procs", str(options.procs)]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        command = [PGNAS, "inflate", "shakeshake26_2x8d", "--in-chans", "1", "--img-size", "8", "--run", str(whole)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.copytree(whole, killed)
        finish(start(whole, [*TRAIN, *procs]))
        print(f"{platform.machine()}, torch {torch.__version__}, {options.procs} process(es)")

        steps = json.loads((whole / "run.json").read_text())["stages"]["train"]["steps"]
        resumed, done = TRAIN, 0
        for moment in sorted(chance.sample(range(steps - 20), options.kills)):
            process = start(killed, [*resumed, *procs])
            while process.poll() is None and last_step(killed) < moment:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.3))
            if process.poll() is not None:
                finish(process)
                raise SystemExit(f"it ended before kill {done + 1}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
            # a kill before the folder train/ is there leaves nothing to resume
            resumed = ["--resume"] if (killed / "train" / "recipe.toml").is_file() else TRAIN
            print(f"kill {done}, meant for step {moment} of {steps}: the last checkpoint is of {last_step(killed)}",
                  flush=True)  # fmt: skip
        said = finish(start(killed, [*resumed, *procs]))
        print("; ".join(re.findall(r"resuming .*", said)))

        a, b = weights(whole), weights(killed)
        same = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        logs = all(rows(whole, name) == rows(killed, name) for name in ("log.jsonl", "posterior.jsonl"))
        print(f"{done} kills: weights and drop probabilities {'identical' if same else 'DIFFER'}, "
              f"logs {'identical' if logs else 'DIFFER'}")  # fmt: skip
        raise SystemExit(not (same and logs))


if __name__ == "__main__":
    main()
