"""The arms of peers.py that are trained on after pruning, inside the multiply-adds of the default recipe's training.

The dense phase, as many epochs as the default recipe searches, is made by `pgnas train` at the constant peak rate after
the warm-up (the default's cosine has fallen by 7 % at its end); peer_training.py does what follows. The optimiser's
momentum starts anew with the pruned network, where the default recipe hands it over. Torch-Pruning trains a fiftieth of
what is left between two of its ten stages.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from peer_arms import BEST, CANDIDATES, FAMILIES, MANY, NETWORK, NO_WARMUP, PASSES, Row
from peer_magnitude import magnitude_masks
from peer_runs import Runs, errors
from peer_torch_pruning import SETTINGS, prune_and_train
from peer_training import DEVICE, Continuation, Progress, SettledNetwork, macs_of, params_of, without_branch_noise
from run_steps import ranking_of, stages

from pgnas_cli import registry
from pgnas_cli.export.choice import find_candidate
from pgnas_cli.ranking.finetune import compact_recipe
from pgnas_cli.ranking.intervals import wilson
from pgnas_cli.recipe import Recipe
from pgnas_cli.run import RunDirectory
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.allocator import keep_freed_memory
from pgnas_cli.training.commit import CommittedNetwork
from pgnas_cli.training.data import Data
from pgnas_cli.training.loop import trained_supernet
from pgnas_cli.training.objective import evaluate
from pgnas_cli.training.setup import open_run_data

EVALUATED = 500
"""Images a batch."""


def pruned_row(runs: Runs, family: str, arm: str, seed: int, budget: int, plain_macs: int) -> Row:
    """Make an arm of PRUNED; its row.

    Args:
        runs: makes the dense phase.
        family, arm, seed: which.
        budget: multiply-adds of the whole training.
        plain_macs: of the plain network.
    """
    torch.set_num_threads(1)
    keep_freed_memory()  # as `pgnas train` does
    nets, folder = FAMILIES[family], runs.folder(family, arm, seed)
    uniform = arm == "uniform-finetuned"
    phase, supernet = ("dense-small", nets.small) if arm == "tp-taylor-small" else ("dense", nets.supernet)
    dense = folder if uniform else runs.folder(family, phase, seed)
    drops = (*NO_WARMUP, "--fixed-drop", nets.target) if uniform else ("--fixed-drop", 0)
    runs.trained(dense, supernet, seed, runs.search_epochs, (*drops, "--schedule", "step"))
    if uniform:
        sample = [runs.candidates if word == CANDIDATES else word for word in MANY]
        runs.ranked(dense, seed, (*sample, "--strategy", "uniform"), BEST)
    folder.mkdir(parents=True, exist_ok=True)
    run, trained = RunDirectory.open(str(dense)), stages(dense)["train"]
    recipe = whole_recipe(run, runs.epochs)
    data = open_run_data(run, recipe, data_dir=runs.data_dir)
    spent = PASSES * trained["macs"] * trained["images"]
    training = continued(
        run, recipe, data, arm, nets.target, Progress(budget, spent, spent), folder, lambda: runs.pgnas.stopped
    )
    if arm in SETTINGS:
        prune_and_train(training, arm, {"params": nets.target, "macs": plain_macs})
    else:
        training.train()
    network = training.network.backbone.eval()
    torch.save(network, folder / NETWORK)
    selection, test = (evaluate(network, data.eval_batches(split, EVALUATED)) for split in ("selection", "test"))
    ranking = ranking_of(dense) if uniform else {"candidates": 1, "images": 0, "seconds": 0.0}
    done = training.progress
    return {
        "family": family, "arm": arm, "seed": seed, "params": params_of(network), "macs": macs_of(network, data),
        **errors(wilson(selection.correct, selection.n).to_json(), wilson(test.correct, test.n).to_json()),
        "training_images": trained["images"] + done.images, "training_macs": done.spent,
        "candidates": ranking["candidates"], "ranking_images": ranking["images"],
        "train_seconds": round(trained["seconds"] + done.seconds, 1), "rank_seconds": round(ranking["seconds"], 1),
        "supernet_params": trained["params"], "epochs": runs.epochs,
    }  # fmt: skip


def whole_recipe(run: RunDirectory, epochs: int) -> Recipe:
    """The recipe of a dense phase with one cosine over the epochs of the table."""
    recipe = compact_recipe(run, DEVICE)
    return replace(recipe, schedule=replace(recipe.schedule, name="cosine", epochs=epochs))


def continued(
    run: RunDirectory, recipe: Recipe, data: Data, arm: str, target: int, progress: Progress, folder: Path,
    stopped: Callable[[], bool],
) -> Continuation:  # fmt: skip
    """The training that goes on after the dense phase, pruned already unless Torch-Pruning is to do that."""
    started = time.perf_counter()
    net, dense_epochs = trained_supernet(run), int(run.require("train")["epochs"])
    if arm == "uniform-finetuned":
        network = CommittedNetwork(net, find_candidate(run, ranking_of(run.path)["winner"]).masks)
    elif arm == "magnitude":
        network = CommittedNetwork(net, magnitude_masks(net, target))
    else:
        network = SettledNetwork(plain_network(net))
    progress.seconds = time.perf_counter() - started
    return Continuation(recipe, dense_epochs, data, network, progress, folder / "training.pt", stopped)


def plain_network(net: Supernet) -> torch.nn.Module:
    """A supernet's backbone with its weights and without gates, as the zoo builds it."""
    assert net.spec is not None
    network = registry.build_model(net.spec)
    weights = copy.deepcopy(net.backbone.state_dict())
    network.load_state_dict({name: weights[name] for name in network.state_dict()}, strict=True)
    return without_branch_noise(network)
