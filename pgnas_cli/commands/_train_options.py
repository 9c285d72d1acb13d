"""The options of `pgnas train`, and which key of the recipe each of them sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pgnas_cli.commands._completion import complete_recipe
from pgnas_cli.recipe.options import KEYS
from pgnas_cli.recipe.options import flag as flag

_POSTERIOR, _WEIGHTS, _IMAGES, _DEVICES = "Posterior", "Weights", "Images", "Devices and speed"

# ---- images ----
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="NAME", help="digits, folder:DIR, torch/cifar10, ...", rich_help_panel=_IMAGES),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where torchvision sets lie.", rich_help_panel=_IMAGES),
]
LimitTrain = Annotated[
    int | None, typer.Option("--limit-train", help="Use only so many training images.", rich_help_panel=_IMAGES)
]
Selection = Annotated[
    float | None,
    typer.Option("--selection", help="Share of the training images kept for ranking.", rich_help_panel=_IMAGES),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", help="Images a step, over all devices together.", rich_help_panel=_IMAGES),
]
Mixup = Annotated[float | None, typer.Option("--mixup", help="Alpha of mixup; 0 for none.", rich_help_panel=_IMAGES)]
Cutmix = Annotated[float | None, typer.Option("--cutmix", help="Alpha of cutmix; 0 for none.", rich_help_panel=_IMAGES)]
RandAugment = Annotated[
    str | None,
    typer.Option("--rand-augment", metavar="rand-m9-mstd0.5", help="RandAugment.", rich_help_panel=_IMAGES),
]
RandomErasing = Annotated[
    float | None,
    typer.Option("--random-erasing", help="Probability that a rectangle is erased.", rich_help_panel=_IMAGES),
]
Cutout = Annotated[
    int | None, typer.Option("--cutout", help="Side of a square that is blanked, in pixels.", rich_help_panel=_IMAGES)
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Loader processes for image files, per device.", rich_help_panel=_IMAGES),
]

# ---- weights ----
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Recipe by name, or a TOML file.",
        autocompletion=complete_recipe,
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of splits, order, augmentation and noise.")
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", help="Passes over the training images.", rich_help_panel=_WEIGHTS)
]
Rate = Annotated[
    float | None, typer.Option("--lr", help="Peak learning rate of the weights.", rich_help_panel=_WEIGHTS)
]
ScheduleName = Annotated[
    str | None,
    typer.Option("--schedule", metavar="cosine|restarts|step", help="Learning rates.", rich_help_panel=_WEIGHTS),
]
Clip = Annotated[
    float | None,
    typer.Option("--clip", help="Largest norm of the weights' gradient; 0 for none.", rich_help_panel=_WEIGHTS),
]
LabelSmoothing = Annotated[
    float | None, typer.Option("--label-smoothing", help="Of the cross-entropy.", rich_help_panel=_WEIGHTS)
]
Ema = Annotated[
    float | None,
    typer.Option("--ema", metavar="0.999", help="Decay of averaged weights; 0 for none.", rich_help_panel=_WEIGHTS),
]

# ---- posterior ----
TargetParams = Annotated[
    str | None,
    typer.Option(
        "--target-params", metavar="0.5x|12M", help="Hold the expected size here.", rich_help_panel=_POSTERIOR
    ),
]
TargetMacs = Annotated[
    str | None,
    typer.Option(
        "--target-macs", metavar="0.5x|600M", help="Hold the expected multiply-adds here.", rich_help_panel=_POSTERIOR
    ),
]
TargetLatency = Annotated[
    str | None,
    typer.Option(
        "--target-latency",
        metavar="0.5x|3ms",
        help="Hold the expected time of one image here, as measured on this machine.",
        rich_help_panel=_POSTERIOR,
    ),
]
Granularity = Annotated[
    str | None,
    typer.Option(
        "--granularity",
        metavar="group|channel",
        help="What shares one drop probability.",
        rich_help_panel=_POSTERIOR,
    ),
]
PriorDrop = Annotated[
    float | None, typer.Option("--prior-drop", help="u0 of the architecture prior.", rich_help_panel=_POSTERIOR)
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", help="Temperature of the relaxation, at the start where it falls.", rich_help_panel=_POSTERIOR
    ),
]
GateOptimizer = Annotated[
    str | None,
    typer.Option(
        "--gate-optimizer",
        metavar="adam|sgd",
        help="Optimiser of the drop probabilities.",
        rich_help_panel=_POSTERIOR,
    ),
]
GateRate = Annotated[
    float | None,
    typer.Option("--gate-lr", help="Learning rate of the drop probabilities.", rich_help_panel=_POSTERIOR),
]
FixedDrop = Annotated[
    str | None,
    typer.Option(
        "--fixed-drop",
        metavar="P|0.5x",
        help="Uniform baseline: one constant rate, or the rate of a size.",
        rich_help_panel=_POSTERIOR,
    ),
]

# ---- devices ----
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus", metavar="0,1", help="GPUs, a process for each; one may be named twice.", rich_help_panel=_DEVICES
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=_DEVICES)]
Procs = Annotated[int | None, typer.Option("--procs", min=1, help="Processes on the CPU.", rich_help_panel=_DEVICES)]
Amp = Annotated[
    str | None,
    typer.Option("--amp", metavar="bfloat16|float16|none", help="Mixed precision.", rich_help_panel=_DEVICES),
]
ChannelsLast = Annotated[
    bool | None,
    typer.Option("--channels-last/--no-channels-last", help="NHWC in memory.", rich_help_panel=_DEVICES),
]
Compile = Annotated[
    bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.", rich_help_panel=_DEVICES)
]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", help="Parts that a device cuts its batch into.", rich_help_panel=_DEVICES),
]
SyncBn = Annotated[
    bool | None,
    typer.Option("--sync-bn/--no-sync-bn", help="BatchNorm over all GPUs.", rich_help_panel=_DEVICES),
]
CheckpointEvery = Annotated[
    str,
    typer.Option(
        "--checkpoint-every",
        metavar="10m|500",
        help="Time or steps between checkpoints inside an epoch.",
        rich_help_panel=_DEVICES,
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write train/tensorboard too.", rich_help_panel=_DEVICES)
]


def changes(parameters: dict[str, Any]) -> dict[str, Any]:
    """{key of the recipe: value} of the options that were typed."""
    return {key: parameters[name] for name, key in KEYS.items() if parameters[name] is not None}
