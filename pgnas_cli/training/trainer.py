"""What a training does in an epoch: steps, schedules, the accuracy of the most probable masks."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgnas_cli import restore
from pgnas_cli.errors import PgnasError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.run import RunDirectory, save_tensors
from pgnas_cli.supernet.latency import LatencyTable
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed
from pgnas_cli.training.budget import clamp_logits, make_budget
from pgnas_cli.training.checkpoint import Checkpoint, read_weights, relative, save_checkpoint
from pgnas_cli.training.commit import CommittedNetwork, Trainable, settle, settle_gates
from pgnas_cli.training.cost_target import expectations, sampled_cost
from pgnas_cli.training.distributed import World
from pgnas_cli.training.engine import Engine, Mixer, check_compute, share_of_batch
from pgnas_cli.training.health import HealthMonitor, HealthWarning, cuts_network
from pgnas_cli.training.mix import Mix
from pgnas_cli.training.objective import Objective, evaluate
from pgnas_cli.training.oom import is_out_of_memory, out_of_memory
from pgnas_cli.training.optimizers import Optimizers
from pgnas_cli.training.progress import Report, TrainProgress
from pgnas_cli.training.setup import Prepared
from pgnas_cli.training.sums import EpochSums

EVAL_BATCH = 512
SOFT = "soft/supernet.safetensors"
"""In the train folder: the supernet as it was before it committed to one candidate."""
BUDGET_INTERVAL = 4
"""Steps between two corrections of the expected costs, which the last step always ends with."""
ASYNC_INTERVAL = 10
"""Steps between two looks at the loss on an accelerator, which computes ahead; the CPU is looked at every step."""


class Trainer:
    """One training: its state, and what it does in an epoch.

    Args:
        run: where it is written.
        prepared: supernet, data and resolved recipe.
        world: this process and its device among the others.
        table: what layers cost in time, for a budget in latency.

    Raises:
        UsageError: the batch, the precision or the budget cannot be had here.
    """

    def __init__(self, run: RunDirectory, prepared: Prepared, world: World, table: LatencyTable | None = None) -> None:
        self.run, self.data, self.recipe, self.world = run, prepared.data, prepared.recipe, world
        self.device, self.table = world.device, table
        check_compute(self.recipe.compute, world)
        self.share = share_of_batch(self.recipe, world)
        self.net = prepared.net.to(self.device)
        if self.recipe.compute.channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.steps_per_epoch = self.data.num_train_batches(self.share, world.size)
        self.objective = Objective(self.recipe, self.data.num_train)
        self.optimizers = Optimizers(self.net, self.recipe, self.steps_per_epoch)
        self.budget = make_budget(self.net, self.recipe, table) if self.optimizers.learned else None
        self.health = HealthMonitor(
            self.net.posterior(),
            learned=self.optimizers.learned,
            cuts=functools.partial(cuts_network, self.net),
            warmup=self.recipe.annealing.warmup,
        )
        self.engine = Engine(self.net, self.objective, self.optimizers, self.recipe, world)
        self.commit_epoch = self.recipe.commit_epoch if self.optimizers.learned else None
        self.goals = () if self.budget is None else self.budget.goals
        self.soft: dict[str, Any] | None = None
        self._mix = Mix(self.recipe.data, self.data.num_classes)
        self._seen_expected: float | None = None
        self._sums = EpochSums(world)
        self.epoch = self.step = 0
        self.seconds = 0.0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.recipe.schedule.epochs

    @property
    def batch(self) -> int:
        """Steps of the present epoch that are done."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def search_steps(self) -> int:
        """Steps in which the posterior is learned: all, or those before the commit."""
        return self.steps if self.commit_epoch is None else self.steps_per_epoch * self.commit_epoch

    @property
    def kept(self) -> Supernet:
        """The supernet that is assessed and saved: with averaged weights where there are any, or the committed ones."""
        kept = self.engine.kept
        if isinstance(kept, CommittedNetwork):
            kept.write_back(self.net)
            return self.net
        assert isinstance(kept, Supernet)
        return kept

    def _networks(self) -> list[Trainable]:
        """The network that is trained and, where there is one, its average."""
        return [self.engine.net] if self.engine.kept is self.engine.net else [self.engine.net, self.engine.kept]

    # ---- checkpoints ----

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after a checkpoint, also in the middle of an epoch."""
        restore.load_weights(self.kept, read_weights(checkpoint), str(checkpoint.weights_path))
        state = checkpoint.state()
        self.soft = state["soft"]
        if self.soft is not None:
            restore.load_weights(self.net, read_weights(checkpoint), str(checkpoint.weights_path))
            self._train_on(CommittedNetwork(self.net, self.net.posterior().mode()))
        self.engine.load_state(state["engine"])
        for net, stored in zip(self._networks(), state["batch_stats"], strict=True):
            distributed.restore_batch_stats(net, stored, self.world)
        if self.budget is not None:
            self.budget.load_state(state["budget"])
        self.health.load_state(state["health"])
        self.epoch, self.step, self.seconds = checkpoint.epoch, checkpoint.step, float(state["seconds"])
        self._sums.restore(state["sums"])

    def save(self) -> Checkpoint | None:
        """Checkpoint the state as it is, between two steps; all processes call it, the master writes and returns it.

        Raises:
            PgnasError: the weights are not finite; the checkpoints before stay the last.
        """
        self._check_weights()
        state = {
            "engine": self.engine.state(),
            "batch_stats": [distributed.gather_batch_stats(net, self.world) for net in self._networks()],
            "soft": self.soft,
            "budget": self.budget.state() if self.budget is not None else None,
            "health": self.health.state(),
            "sums": self._sums.over_all(),
            "seconds": self.seconds,
        }
        if not self.world.is_master:
            return None
        return save_checkpoint(self.run, self.kept, state, epoch=self.epoch, step=self.step)

    # ---- the commit ----

    def commit_is_due(self) -> bool:
        """Whether the search is over and the posterior has not given way to one candidate yet."""
        return self.epoch == self.commit_epoch and self.soft is None

    def commit(self) -> Candidate:
        """Settle for one candidate, after an epoch; see `recipe.Commit`. The supernet as it was is written to soft/."""
        assert self.goals
        net = self.kept
        if self.world.is_master:
            save_tensors(self.run.train_path / SOFT, net.state_dict())
        with torch.no_grad():
            cost, expected = net.cost(), [float(value) for value in expectations(net, self.goals)]
        self.soft = {
            "checkpoint": relative(self.run.train_path / SOFT, self.run),
            "epoch": self.epoch,
            "expected_params": float(cost.expected_params),
            "expected_macs": float(cost.expected_macs),
            **{f"expected_{goal.unit}": value for goal, value in zip(self.goals, expected, strict=True)},
            "sampled": sampled_cost(net, self.table, seed=self.recipe.seed),
        }
        candidate, before = self.net.candidate(settle(self.net, self.goals), "commit"), self.optimizers.weights
        network = CommittedNetwork(self.net, candidate.masks)  # the weights that move, not their average
        settle_gates(self.net, candidate.masks)
        self._train_on(network)
        network.inherit_momentum(self.net, before, self.optimizers.weights)
        return candidate

    def _train_on(self, network: CommittedNetwork) -> None:
        """Give the steps to come the committed network, with an optimiser of its own."""
        if self.recipe.compute.channels_last:
            network.to(memory_format=torch.channels_last)
        self.budget = None
        self.optimizers = Optimizers(network, self.recipe, self.steps_per_epoch)
        self.engine = Engine(network, self.objective, self.optimizers, self.recipe, self.world)

    # ---- steps ----

    def train_epoch(self, report: Report, after_step: Callable[[], None]) -> dict[str, Any]:
        """The rest of this pass over the training images; what log.jsonl will hold of the whole pass.

        Args:
            report: told of every step.
            after_step: called after every step but the last of the epoch; may raise to stop there.
        """
        self.engine.net.train()
        began, images_here = time.perf_counter(), 0
        batches = self.data.train_batches(
            self.epoch, self.share, self.device, rank=self.world.rank, world_size=self.world.size, start=self.batch
        )
        before = began
        for images, labels in batches:
            terms = self._train_step(images, labels)
            images_here += len(labels) * self.world.size
            now = time.perf_counter()
            self._sums.add("seconds", now - before)
            self._sums.add("images", len(labels))
            for name, value in terms.items():
                self._sums.add(name, value, 1 if name == "correct" else len(labels))
            self.seconds, before = self.seconds + now - before, now
            self._tell(report, terms, images_here / max(now - began, 1e-9))
            if self.batch < self.steps_per_epoch:
                after_step()
        self._check_weights()
        return self._finish_epoch(images_here / max(before - began, 1e-9))

    def _train_step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.soft is None:
            self._set_gates()
        if self.recipe.objective.drop_path:
            self.engine.net.set_drop_path(self.recipe.objective.drop_path * (self.step + 1) / self.steps)
        key = f"{self.recipe.seed}/noise/{self.epoch}/{self.batch}"
        terms = self._gradients(images, labels, key)
        self._check_loss(terms)
        waiting = self.step < self.recipe.annealing.warmup * self.search_steps
        self.engine.step(self.step, gates=not waiting)
        self.step += 1
        if self.optimizers.learned and (self.budget is not None or self.recipe.optimizer.gate_optimizer == "adam"):
            clamp_logits(self.net.gate_parameters())
        if (
            self.budget is not None
            and not waiting
            and (self.step % BUDGET_INTERVAL == 0 or self.step == self.search_steps)
        ):
            travelled = BUDGET_INTERVAL * self.optimizers.gate_lr
            self.budget.correct(self.step / self.search_steps, self.optimizers.gate_metric, travelled=travelled)
            distributed.take_from_master(self.net.gate_parameters(), self.world)
        self.engine.average(self.step)
        return terms

    def _gradients(self, images: Tensor, labels: Tensor, key: str) -> dict[str, Tensor]:
        try:
            return self.engine.gradients(images, labels, key=key, mix=self._mixer())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # outside of the handler, whose traceback holds the tensors of the step that failed
        raise out_of_memory(
            lambda count: self.engine.probe(images[:count], labels[:count]),
            share=self.share,
            procs=self.world.size,
            parts=self.recipe.compute.accumulate,
            device=self.device,
        )

    def _set_gates(self) -> None:
        """What depends on the step about the noise: nothing is dropped in the warm-up, then the temperature falls.

        At a constant rate of 0 there are no masks: of ones, they would only take time.
        """
        options, objective = self.recipe.annealing, self.recipe.objective
        warmup = options.warmup * self.search_steps
        self.net.set_gating(self.step >= warmup and objective.fixed_drop != 0)
        if options.temperature_end is not None:
            share = min(1.0, max(0.0, (self.step - warmup) / max(1.0, self.search_steps - 1 - warmup)))
            temperature = options.temperature(objective.temperature, share)
            self.net.set_gates(temperature=temperature, fixed_drop=objective.fixed_drop)

    def _mixer(self) -> Mixer | None:
        """How the images of this step are mixed."""
        if not self._mix.active(self.epoch):
            return None
        mix, key = self._mix, f"{self.recipe.seed}/mix/{self.epoch}/{self.batch}"
        return lambda images, labels: mix(images, labels, key=key)

    def _looked_at(self) -> bool:
        return self.device.type == "cpu" or self.step % ASYNC_INTERVAL == 0 or self.step == self.steps - 1

    def _check_loss(self, terms: Mapping[str, Tensor]) -> None:
        if self._looked_at() and not np.isfinite(loss := float(terms["loss"])):
            shown = f"cross-entropy {float(terms['cross_entropy']):g}, KL {float(terms['kl']):g}"
            raise self._diverged(f"the loss is {loss} at step {self.step} ({shown})")

    def _check_weights(self) -> None:
        floats = (tensor for tensor in self.engine.net.state_dict().values() if tensor.is_floating_point())
        if not all(bool(tensor.isfinite().all()) for tensor in floats):
            raise self._diverged(f"the weights are not finite after step {self.step}")

    def _diverged(self, what: str) -> PgnasError:
        """The error of a training that cannot go on; checkpoints written before it are good and stay."""
        lower = f"pgnas train --force --lr {self.recipe.optimizer.lr / 10:g} starts again with a lower rate"
        return PgnasError(what, lower)

    # ---- after the steps ----

    def _finish_epoch(self, rate: float) -> dict[str, Any]:
        sums = self._sums.over_all()
        images, seconds = sums.pop("images"), sums.pop("seconds") / self.world.size
        correct = sums.pop("correct")
        self.epoch += 1
        self._sums.clear()
        means = {name: total / images for name, total in sums.items()}
        return {"epoch": self.epoch, "step": self.step, **means, "train_accuracy": correct / images,
                "lr": self.optimizers.lr, "images_per_second": rate, "seconds": seconds}  # fmt: skip

    def _tell(self, report: Report, terms: Mapping[str, Tensor], rate: float) -> None:
        if self._looked_at() or self.batch == self.steps_per_epoch:
            shown: dict[str, float | str] = {"loss": float(terms["loss"]), "ce": float(terms["cross_entropy"])}
            shown |= {"kl": float(terms["kl"]), **self._expected(), "images/s": rate}
            report(TrainProgress(self.epoch, self.recipe.schedule.epochs, self.step, self.steps, shown))

    def _expected(self) -> dict[str, float]:
        """Expected costs, computed anew every few steps where no budget computes them anyway."""
        if self.budget is not None:
            return {f"E[{unit}]": cost.expected for unit, cost in self.budget.costs.items()}
        if self._seen_expected is None or (self.soft is None and self.step % BUDGET_INTERVAL == 0):
            with torch.no_grad():
                self._seen_expected = float(self.net.cost().expected_params)
        return {"E[params]": self._seen_expected}

    # ---- after an epoch ----

    def assess(self) -> dict[str, Any]:
        """State of the posterior, and accuracy of the most probable masks on the selection split."""
        for network in self._networks():
            distributed.average_batch_stats(network, self.world)
        net = self.kept
        net.eval()
        mode = net.mode()
        accuracy = None
        if net.assess(mode.masks).usable:
            with net.masked(mode), self.engine.autocast():
                accuracy = self._selection_accuracy(net)
        with torch.no_grad():
            cost = self.net.cost()
        p = np.concatenate([layer.per_channel() for layer in self.net.posterior().values()])
        budget = {} if self.budget is None else self.budget.log(self.step / self.search_steps)
        return {
            "selection_accuracy": accuracy,
            "mode_params": mode.params,
            # of one candidate the exact cost: the expectation counts surrogates that are folded away
            "expected_params": float(cost.expected_params) if self.soft is None else mode.params,
            "expected_macs": float(cost.expected_macs) if self.soft is None else mode.macs,
            **budget,
            "p": {"mean": float(p.mean()), "min": float(p.min()), "max": float(p.max()),
                  "above_0.95": float((p > 0.95).mean())},
        }  # fmt: skip

    def _selection_accuracy(self, net: Any) -> float:
        """Each process scores its share of the selection split."""
        batches = self.data.eval_batches(
            "selection", EVAL_BATCH, self.device, rank=self.world.rank, world_size=self.world.size
        )
        first = next(batches, None)  # of few images a process may have none
        score = evaluate(net, itertools.chain([first], batches)) if first is not None else None
        sums = {"correct": float(score.correct if score else 0), "n": float(score.n if score else 0)}
        sums = distributed.reduce_sums(sums, self.world)
        return sums["correct"] / sums["n"]

    def check_health(self, row: Mapping[str, Any]) -> list[HealthWarning]:
        """What is new to say about the gates after an epoch whose row this is."""
        if self.soft is not None:
            return []
        hardest = None if self.budget is None else self.budget.hardest(self.step / self.search_steps)
        return self.health.update(
            self.epoch,
            self.recipe.schedule.epochs,
            self.net.posterior(),
            row,
            usable=row["selection_accuracy"] is not None,
            hardest=hardest,
        )

    def posterior_row(self) -> dict[str, Any]:
        """p of every group, for posterior.jsonl."""
        p = {name: [round(float(v), 6) for v in layer.drop_prob] for name, layer in self.net.posterior().items()}
        return {"epoch": self.epoch, "p": p}
