"""Images per second: `pgnas train` against a plain loop on the same network, and two processes against one.

    python tests/bench/throughput.py [--arch shakeshake26_2x16d] [--img-size 32] [--batch-size 32] [--pairs 7]
        [--threads 1] [--device cuda] [--amp bfloat16] [--channels-last] [--compile]
    python tests/bench/throughput.py --procs 2 [--pairs 3]

The first: epochs of 20 batches of random images, in turn by the trainer (supernet, KL, budget, augmentation, sums of
the log) and by a plain loop (the network without gates, the same augmentation, SGD with momentum and clipping), both
with the same precision, layout and compilation; median and quartiles of the ratio. The second: whole trainings of 3
epochs by the command line, in turn with one and two processes of one thread each; the rate is that of log.jsonl's last
epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from pgnas_cli import inflate, registry, restore
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.training.data import Data, Part
from pgnas_cli.training.distributed import World
from pgnas_cli.training.memory import ArrayStore, Normalisation
from pgnas_cli.training.setup import Prepared
from pgnas_cli.training.trainer import Trainer

BATCHES = 20


def random_data(size: int, batch: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    n = batch * BATCHES
    images = torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    store = ArrayStore(images, torch.arange(n) % 10, flip=True)
    parts = {name: Part(store, torch.arange(n)) for name in ("train", "selection", "test")}
    norm = Normalisation((0.5,) * 3, (0.25,) * 3)
    return Data("random", [str(c) for c in range(10)], 3, size, norm, 0, parts, {})


def plain_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, epoch: int, options: argparse.Namespace
) -> None:
    kind = torch.float16 if options.amp == "float16" else torch.bfloat16
    for images, labels in data.train_batches(epoch, options.batch_size, torch.device(options.device)):
        optimizer.zero_grad()
        with torch.autocast(options.device, kind, enabled=options.amp != "none"):
            logits = model(images.contiguous(memory_format=layout(options)))
        nn.functional.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()


def layout(options: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if options.channels_last else torch.contiguous_format


def clock(options: argparse.Namespace) -> float:
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if options.device == "cpu" and options.threads == 1 else time.perf_counter()


def against_plain(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    data, device = random_data(options.img_size, options.batch_size), torch.device(options.device)
    net = inflate(options.arch, img_size=options.img_size, num_classes=10)
    recipe = override(
        load_recipe("posterior"),
        {
            "schedule.epochs": options.pairs + 2,
            "data.batch_size": options.batch_size,
            "budget.target_params": "0.5x",
            "compute.amp": options.amp,
            "compute.channels_last": options.channels_last,
            "compute.compile": options.compile,
        },
    )
    plain = registry.build_backbone(net.spec)[0].train()
    for module in plain.modules():
        if "branch_noise" in vars(module):
            vars(module)["branch_noise"] = False
    plain = plain.to(device).to(memory_format=layout(options))  # type: ignore[call-overload]
    if options.compile:
        plain.compile()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=2e-4)
    with tempfile.TemporaryDirectory() as folder:
        run = restore.create_run(net, Path(folder) / "run", options={})
        restore.apply_recipe(net, recipe)
        trainer = Trainer(run, Prepared(net, data, recipe, ()), World(device=device))
        ratios: list[float] = []
        rates: list[float] = []
        for pair in range(options.pairs + 2):
            arms = [
                ("plain", lambda pair=pair: plain_epoch(plain, optimizer, data, pair, options)),
                ("pgnas", lambda: trainer.train_epoch(lambda _: None, lambda: None)),
            ]
            seconds = {}
            for name, arm in arms if pair % 2 else arms[::-1]:
                began = clock(options)
                arm()
                seconds[name] = clock(options) - began
            if pair > 1:  # the first ones warm up, and compile
                ratios.append(seconds["plain"] / seconds["pgnas"])
                rates.append(options.batch_size * BATCHES / seconds["pgnas"])
    low, middle, high = statistics.quantiles(ratios, n=4)
    how = f"{options.device}, amp {options.amp}, channels_last {options.channels_last}, compile {options.compile}"
    print(f"{options.arch}, {options.img_size} pixels, batch {options.batch_size}, {how}, {options.threads} thread(s)")
    print(
        f"images/s of pgnas train over a plain loop: {middle:.3f} (quartiles {low:.3f} to {high:.3f}, "
        f"n = {len(ratios)}); {statistics.median(rates):.0f} images/s",
        flush=True,
    )


def against_one_process(options: argparse.Namespace) -> None:
    program = str(Path(sysconfig.get_path("scripts"), "pgnas"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment, "check": True}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        sizes = ["--in-chans", "1", "--img-size", "16"]
        subprocess.run([program, "inflate", options.arch, *sizes, "--run", str(base)], **quiet)
        ratios = []
        for pair in range(options.pairs):
            rate = {}
            for procs in (1, options.procs) if pair % 2 else (options.procs, 1):
                run = Path(folder) / f"run-{pair}-{procs}"
                shutil.copytree(base, run)
                train = ["--data", "digits", "--epochs", "3", "--batch-size", "64", "--recipe", "posterior"]
                command = [program, "train", *train, "--device", "cpu", "--procs", str(procs), "--run", str(run)]
                subprocess.run(command, **quiet)
                last = (run / "train" / "log.jsonl").read_text().splitlines()[-1]
                rate[procs] = json.loads(last)["images_per_second"]
            ratios.append(rate[options.procs] / rate[1])
            print(f"pair {pair}: {rate[1]:.0f} and {rate[options.procs]:.0f} images/s", flush=True)
    print(f"{options.arch}, 16 pixels, batch 64: {options.procs} processes over one: {statistics.median(ratios):.3f} "
          f"({min(ratios):.3f} to {max(ratios):.3f}, n = {len(ratios)})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="shakeshake26_2x16d")
    parser.add_argument("--img-size", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--procs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--amp", choices=["none", "bfloat16", "float16"], default="none")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    print(f"{platform.platform()}, python {platform.python_version()}, torch {torch.__version__}")
    if options.procs > 1:
        against_one_process(options)
    else:
        against_plain(options)


if __name__ == "__main__":
    main()
