"""Warnings about the gates: each fires on the trajectory it is for, says it once, and keeps silent on healthy ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgnas_cli import inflate, restore
from pgnas_cli.posterior.posterior import LayerPosterior, Posterior
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import read_jsonl
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import health
from pgnas_cli.training.budget import BudgetedCost, Target
from pgnas_cli.training.health import HealthMonitor, HealthWarning, cuts_network, entropy_bits, listed
from pgnas_cli.training.loop import train

LAYERS = ("stem", "a", "b", "c")
GROUPS, SIZE = 5, 4
SUMS = {"kl": 0.3, "cross_entropy": 2.3}


def posterior(p: float | dict[str, Any]) -> Posterior:
    """Four layers of five groups of four channels, at one p, or {layer: p of its groups}; 0.1 where none is given."""
    given = p if isinstance(p, dict) else dict.fromkeys(LAYERS, p)
    return Posterior(
        {name: LayerPosterior(np.broadcast_to(given.get(name, 0.1), GROUPS) * 1.0, (SIZE,) * GROUPS) for name in LAYERS}
    )


def monitor(start: Posterior | None = None, cuts: Callable[[str], bool] = lambda _: True, **options: Any) -> Any:
    return HealthMonitor(start or posterior(0.1), **{"learned": True, "cuts": cuts, **options})


def run(epochs: int, at: Callable[[float], Posterior], watch: Any = None, **options: Any) -> list[tuple[int, str]]:
    """(epoch, kind) of everything that is said while the posterior follows `at(share of the training)`."""
    watch = watch or monitor()
    return [
        (epoch, warning.kind)
        for epoch in range(1, epochs + 1)
        for warning in watch.update(epoch, epochs, at(epoch / epochs), SUMS, **options)
    ]


def spread(share: float) -> Posterior:
    """A healthy training: the logits fan out from p = 0.1 over [-4, +1] as a cosine schedule ends."""
    ends = np.linspace(-4, 1, len(LAYERS) * GROUPS).reshape(len(LAYERS), GROUPS)
    start = math.log(0.1 / 0.9)
    logits = start + (ends - start) * math.sin(math.pi / 2 * share)
    return posterior({name: 1 / (1 + np.exp(-logits[i])) for i, name in enumerate(LAYERS)})


def only(found: list[HealthWarning]) -> HealthWarning:
    (warning,) = found
    return warning


# ---- trajectories ----


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 20, 200])
def test_a_healthy_training_says_nothing(epochs: int) -> None:
    assert run(epochs, spread) == []


def test_a_posterior_that_is_not_learned_is_not_watched() -> None:
    assert run(20, lambda _: posterior(0.1), monitor(learned=False)) == []


@pytest.mark.parametrize(
    ("epochs", "warmup", "said"),
    [(2, 0.0, []), (3, 0.0, [3]), (8, 0.0, [3]), (40, 0.0, [10]), (40, 0.5, [25]), (40, 0.99, [40])],
)
def test_gates_that_never_move_are_named_when_they_should_have(epochs: int, warmup: float, said: list[int]) -> None:
    assert run(epochs, lambda share: posterior(0.1 + 0.0005 * share), monitor(warmup=warmup)) == [
        (epoch, "frozen") for epoch in said
    ]


def test_one_layer_that_stands_still_is_enough_and_is_named() -> None:
    watch = monitor()
    at = {"stem": 0.1, "a": 0.3, "b": 0.05, "c": 0.2}
    found = [watch.update(epoch, 4, posterior(at), SUMS) for epoch in (1, 2, 3)]
    warning = only([w for warnings in found for w in warnings])
    assert warning.message == "5 of 20 drop probabilities have moved by less than 0.001 since the start: stem"
    assert "--gate-lr" in warning.hint


@pytest.mark.parametrize(("still", "said"), [(0, []), (1, [(3, "frozen")])])
def test_single_groups_count_from_a_share_on(still: int, said: list[tuple[int, str]]) -> None:
    p = np.full(GROUPS, 0.2)
    p[:still] = 0.1
    assert run(3, lambda _: posterior({**dict.fromkeys(LAYERS, 0.2), "a": p})) == said


def test_a_gate_that_came_back_has_moved() -> None:
    assert run(8, lambda share: posterior(0.1 + 0.1 * math.sin(math.pi * share))) == []


@pytest.mark.parametrize(
    ("end", "kind", "says"),
    [(0.004, "collapsed", "kept"), (0.996, "collapsed", "dropped"), (0.012, "deterministic", "")],
)
def test_a_posterior_that_closes(end: float, kind: str, says: str) -> None:
    def closing(share: float) -> Posterior:
        start, stop = math.log(0.1 / 0.9), math.log(end / (1 - end))
        return posterior(1 / (1 + math.exp(-(start + (stop - start) * share))))

    watch = monitor(cuts=lambda _: False)
    found = [w for epoch in range(1, 21) for w in watch.update(epoch, 20, closing(epoch / 20), SUMS)]
    assert kind in [warning.kind for warning in found]
    assert len({warning.kind for warning in found}) == len(found)  # each once
    assert says in next(warning.message for warning in found if warning.kind == kind)


def test_both_sides_settled_is_deterministic_and_not_collapsed() -> None:
    warning = only(
        monitor(cuts=lambda _: False).update(1, 9, posterior({"stem": 0.003, "a": 0.997, "b": 0.003, "c": 0.997}), SUMS)
    )
    assert warning.kind == "deterministic"
    assert "0.029 bits a channel, 0 % of the channels" in warning.message
    assert f"differ in {100 * 2 * 0.003 * 0.997:.3g} % of" in warning.message
    assert warning.gate is None


@pytest.mark.parametrize("p", [0.002, 0.998])
def test_how_it_started_is_not_a_collapse(p: float) -> None:
    assert run(2, lambda _: posterior(p), monitor(posterior(p), cuts=lambda _: False)) == []


def test_a_few_channels_apart_do_not_hide_a_collapse() -> None:
    p = Posterior({"a": LayerPosterior(np.array([0.001, 0.4]), (199, 1))})
    warning = only(monitor(p.at_rate(0.1), cuts=lambda _: False).update(1, 9, p, SUMS))
    assert warning.message == (
        "all gates have collapsed to kept: p is below 0.01 for 99.5 % of the channels, at most 0.4000 (a)"
    )


# ---- the KL ----


@pytest.mark.parametrize(
    ("kl", "cross_entropy", "kind"),
    [
        (0.3, 2.3, None), (22.9, 2.3, None), (23.1, 2.3, "kl_large"), (1e9, 2.3, "kl_large"),
        (2.4e-4, 2.3, None), (2.2e-4, 2.3, "kl_small"), (0.0, 2.3, "kl_small"),
    ],
)  # fmt: skip
def test_the_kl_beside_the_likelihood(kl: float, cross_entropy: float, kind: str | None) -> None:
    found = monitor().update(1, 9, spread(0.1), {"kl": kl, "cross_entropy": cross_entropy})
    assert [warning.kind for warning in found] == ([] if kind is None else [kind])
    assert all("objective.l2" in warning.hint for warning in found)


def test_a_network_that_has_learned_its_images_is_no_alarm() -> None:
    watch = monitor()
    rows = [(0.29, 2.31), (0.25, 0.08), (0.242, 0.0025), (0.242, 1e-6), (0.242, 0.0)]
    assert [
        w
        for n, (kl, ce) in enumerate(rows, 1)
        for w in watch.update(n, 5, spread(n / 5), {"kl": kl, "cross_entropy": ce})
    ] == []


# ---- layers that are lost ----


def lost(p: float, kept: int = 0, **options: Any) -> list[HealthWarning]:
    """Layer "a" with all channels at `p`, but for `kept` groups at 0.1."""
    return monitor(**options).update(1, 9, posterior({"a": [0.1] * kept + [p] * (GROUPS - kept)}), SUMS)


def test_a_layer_about_to_lose_all_its_inputs_is_named_once() -> None:
    watch = monitor()
    p = 0.98
    warning = only(watch.update(1, 9, posterior({"a": p}), SUMS))
    assert (warning.kind, warning.gate) == ("layer_lost", "a")
    assert f"P(all dropped) is {p**20:.2f}, {20 * (1 - p):.2f} of 20 expected" in warning.message
    assert watch.update(2, 9, posterior({"a": 0.99}), SUMS) == []
    assert only(watch.update(2, 9, posterior({"a": 0.99, "c": 0.99}), SUMS)).gate == "c"


@pytest.mark.parametrize(("p", "kept", "count"), [(0.95, 0, 0), (0.966, 0, 1), (1.0, 0, 1), (0.9999, 1, 0)])
def test_only_a_layer_that_is_more_likely_lost_than_not(p: float, kept: int, count: int) -> None:
    assert len(lost(p, kept)) == count


def test_an_operation_that_others_lead_round_may_go_and_is_asked_about_once() -> None:
    asked: list[str] = []
    watch = monitor(cuts=lambda name: bool(asked.append(name)))
    for epoch in (1, 2, 3):
        assert watch.update(epoch, 99, posterior({"a": 0.99}), SUMS) == []
    assert asked == ["a"]


class Residual(nn.Module):
    """conv `only`, then relu + conv `branch` beside the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.only, self.branch = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.only(self.stem(x).relu())
        x = x + self.branch(x.relu())
        return self.head(x.mean((2, 3)))


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(Residual(), {"only": [2, 2], "branch": [4]}, input_size=(1, 6, 6))


def test_the_channel_graph_knows_what_cuts_the_network(supernet: Supernet) -> None:
    assert cuts_network(supernet, "only")
    assert not cuts_network(supernet, "branch")
    with torch.no_grad():
        for gate in supernet.gates.values():
            gate.drop_logit.fill_(5.0)
    watch = HealthMonitor(supernet.posterior(), learned=True, cuts=lambda name: cuts_network(supernet, name))
    found = {w.kind: w for w in watch.update(1, 9, supernet.posterior(), SUMS)}
    assert (found["layer_lost"].gate, "branch" in found["layer_lost"].message) == ("only", False)


def test_most_probable_masks_without_a_path_name_the_layers() -> None:
    watch = monitor()
    warning = only(watch.update(1, 9, posterior({"a": 0.6, "b": [0.1, 0.9, 0.9, 0.9, 0.9]}), SUMS, usable=False))
    assert (warning.kind, warning.gate) == ("disconnected", None)
    assert warning.message.endswith("every input of a (at least 0.60)")
    assert watch.update(2, 9, posterior({"a": 0.6, "c": 0.6}), SUMS, usable=False) == []


# ---- the budget ----


def budgeted(ratio: float) -> tuple[BudgetedCost, float]:
    """Expected MACs at so many times their target of the moment."""
    return BudgetedCost(Target("macs", 9e5), 2e6, ratio * 1e6), 1e6


@pytest.mark.parametrize(
    ("misses", "said"),
    [([0, 0, 0], []), ([9, 0, 9], []), ([9, 9, 0], [2]), ([-9, -9, 9], [2]), ([0, 9, 9], [3]), ([4, 4, 4], [])],
)
def test_a_target_that_is_missed_for_two_epochs(misses: list[int], said: list[int]) -> None:
    watch = monitor()
    found = [
        (epoch, warning)
        for epoch, miss in enumerate(misses, 1)
        for warning in watch.update(epoch, 9, spread(epoch / 9), SUMS, hardest=budgeted(1 + miss / 100))
    ]
    assert [epoch for epoch, _ in found] == said
    assert all(w.kind == "target_missed" and "--target-macs" in w.hint and "9.0 %" in w.message for _, w in found)
    assert all(w.message.startswith("E[macs] is ") and "its target of 1000000:" in w.message for _, w in found)


def test_a_target_is_not_missed_while_the_gates_wait() -> None:
    said = run(10, lambda _: posterior(0.2), monitor(warmup=0.5), hardest=budgeted(2.0))
    assert said == [(7, "target_missed")]


# ---- resuming ----


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9])
def test_a_resumed_training_says_the_same(cut: int) -> None:
    def at(share: float) -> Posterior:
        return posterior({"stem": 0.1, "a": 0.1 + 0.899 * share, "b": 0.1 - 0.05 * share, "c": 0.2})

    def epoch(watch: HealthMonitor, n: int) -> list[HealthWarning]:
        return watch.update(n, 10, at(n / 10), {"kl": 3.0 * n, "cross_entropy": 2.3 / n}, hardest=budgeted(1.2))

    whole = monitor()
    expected = [warning for n in range(1, 11) for warning in epoch(whole, n)]
    assert {w.kind for w in expected} == {"frozen", "kl_large", "layer_lost", "target_missed"}
    first = monitor()
    found = [warning for n in range(1, cut + 1) for warning in epoch(first, n)]
    second = monitor()
    second.load_state(json.loads(json.dumps(first.state())))
    found += [warning for n in range(cut + 1, 11) for warning in epoch(second, n)]
    assert found == expected
    assert second.state() == whole.state()


# ---- parts ----


@pytest.mark.parametrize(("p", "bits"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.8112781), (1e-7, 2.47e-6)])
def test_entropy(p: float, bits: float) -> None:
    assert entropy_bits(np.array([p]))[0] == pytest.approx(bits, rel=1e-3, abs=1e-12)
    assert entropy_bits(np.array([1 - p]))[0] == pytest.approx(bits, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_names_are_listed_up_to_a_few(names: list[str], text: str) -> None:
    assert listed(names) == text


def test_a_warning_is_one_line_and_a_row_of_json() -> None:
    for warning in lost(0.99) + monitor().update(1, 9, posterior(0.001), SUMS, usable=False):
        assert "\n" not in warning.message + warning.hint
        assert HealthWarning(**json.loads(json.dumps(warning.row()))) == warning


def test_no_gates_no_warnings() -> None:
    empty = Posterior({})
    assert HealthMonitor(empty, learned=True, cuts=lambda _: True).update(9, 9, empty, SUMS) == []
    assert health.collapsed(empty) is None


# ---- real trainings ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"budget.target_params": "0.5x"}, []),
        ({"optimizer.gate_lr": 1e-6}, ["frozen"]),
        ({"objective.l2": 0.0, "objective.num_examples": 1e9}, ["kl_small"]),
    ],
)
def test_a_short_training_of_digits(tmp_path: Path, changes: dict[str, Any], kinds: list[str]) -> None:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    run = restore.create_run(net, tmp_path / "run", options={"explicit": ["in_chans", "img_size"]})
    short = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320, "schedule.epochs": 4}
    said: list[str] = []
    train(run, override(load_recipe("digits"), {**short, **changes}), device="cpu", warn=said.append)
    rows = read_jsonl(run.train_path / "log.jsonl")
    logged = [warning for row in rows for warning in row["warnings"]]
    assert [warning["kind"] for warning in logged] == kinds
    assert said == [f"{warning['message']}; {warning['hint']}" for warning in logged]
