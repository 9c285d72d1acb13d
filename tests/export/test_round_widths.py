"""Rounding widths: what is kept, by which order, what stays, and what several readers keep together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.choice import Choice, choose
from pgnas_cli.export.export import load_run_candidate
from pgnas_cli.export.rounded import round_choice, rounded_candidates
from pgnas_cli.export.rounding import input_places, round_candidate, round_inputs
from pgnas_cli.export.widths import channel_classes, count_widths
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import LayerPosterior, Posterior
from pgnas_cli.run import RunDirectory, read_json
from pgnas_cli.supernet.supernet import Supernet


class Residual(nn.Module):
    """A stream that two convolutions write and three read, a depthwise one in between."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.up, self.deep = nn.Conv2d(width, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.down, self.last = nn.Conv2d(12, width, 1), nn.Conv2d(width, 8, 1)
        self.other, self.fc = nn.Conv2d(width, 8, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = x + self.down(self.deep(self.up(x)).relu())
        return self.fc(torch.cat([self.last(y), self.other(y)], 1).mean((2, 3)))


GATED = {"up": 16, "down": 12, "last": 16, "other": 16}


def supernet(groups: int = 1) -> Supernet:
    torch.manual_seed(0)
    sizes = {name: [n // groups] * groups for name, n in GATED.items()}
    return Supernet(Residual(), sizes, input_size=(3, 4, 4)).eval()


def drawn(net: Supernet, keep: float, seed: int = 0) -> Candidate:
    generator = np.random.default_rng(seed)
    return net.candidate({name: generator.random(gate.channels) < keep for name, gate in net.gates.items()})


def single(**drop: np.ndarray) -> Posterior:
    """One probability a channel."""
    return Posterior({n: LayerPosterior(drop.get(n, np.full(k, 0.5)), (1,) * k) for n, k in GATED.items()})


def kept(masks: dict[str, np.ndarray]) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def masks_of(**counts: int) -> dict[str, np.ndarray]:
    return {name: np.arange(n) < counts.get(name, n) for name, n in GATED.items()}


@pytest.mark.parametrize(
    ("given", "multiple", "expected"),
    [
        pytest.param({"up": 9}, 8, {"up": 8, "down": 12}, id="down"),
        pytest.param({"up": 12, "down": 7}, 8, {"up": 16, "down": 8}, id="half way goes up"),
        pytest.param({"up": 1, "down": 2}, 8, {"up": 8, "down": 8}, id="at least one multiple"),
        pytest.param({"down": 3}, 100, {"up": 16, "down": 12}, id="at most what there is"),
        pytest.param({"up": 0, "last": 5}, 4, {"up": 0, "down": 12, "last": 4}, id="what was dropped stays dropped"),
    ],
)
def test_inputs_go_to_the_nearest_multiple(given: dict, multiple: int, expected: dict) -> None:
    net = supernet()
    found = round_inputs(net.graph, masks_of(**given), multiple, input_places(net, single()), {})
    assert {name: kept(found)[name] for name in expected} == expected


def test_the_posterior_decides_and_then_the_weights() -> None:
    net = supernet()
    drop = np.full(16, 0.5)
    drop[[13, 14]], drop[[2, 3]] = 0.1, 0.9
    norms = net.search_layers["up"].weight.detach().square().sum((0, 2, 3)).numpy()
    place = input_places(net, single(up=drop))["up"].argsort()
    assert set(place[:2]) == {13, 14}
    assert set(place[-2:]) == {2, 3}
    assert (np.diff(norms[place[2:-2]]) <= 0).all()
    more = round_inputs(net.graph, masks_of(up=6), 8, input_places(net, single(up=drop)), {})["up"]
    assert (np.flatnonzero(more) == [*range(6), 13, 14]).all()
    fewer = round_inputs(net.graph, masks_of(up=10), 8, input_places(net, single(up=drop)), {})["up"]
    assert (np.flatnonzero(fewer) == [0, 1, *range(4, 10)]).all()


@pytest.mark.parametrize("seed", range(6))
def test_what_several_readers_keep_together_is_a_multiple_too(seed: int) -> None:
    net = supernet()
    before = drawn(net, 0.4, seed)
    rounded = round_candidate(net, before, 4, net.posterior())
    state = compaction.analyse(net.graph, rounded.candidate.masks)
    for name in ("stem", "up", "down"):
        assert int(state.live(net.graph.operations[name].index).sum()) % 4 == 0, name
    assert all(n % 4 == 0 for n in kept(rounded.candidate.masks).values())
    assert not rounded.left
    # up, down, last and other have two widths each, the stem one: it reads the image
    assert (rounded.after.multiples, rounded.after.widths) == (9, 9)
    assert rounded.before.multiples < 9
    assert rounded.candidate.id != before.id
    assert round_candidate(net, rounded.candidate, 4, net.posterior()).candidate is rounded.candidate


def test_swaps_keep_the_number_of_inputs() -> None:
    net = supernet()
    candidate = net.candidate({**masks_of(up=4, last=4), "other": np.roll(masks_of(other=4)["other"], 2)})
    assert count_widths(net.graph, candidate.masks, 4).multiples < 9  # the two last layers read six channels together
    rounded = round_candidate(net, candidate, 4, net.posterior())
    assert rounded.after.multiples == 9
    assert kept(rounded.candidate.masks) == kept(candidate.masks)


def test_whole_groups_stay_whole_and_what_cannot_be_rounded_is_said() -> None:
    net = supernet(groups=4)  # of 4 and, for "down", of 3 channels
    masks = {**masks_of(up=8, down=9), "last": np.arange(16) >= 12}
    rounded = round_candidate(net, net.candidate(masks), 8, net.posterior())
    assert kept(rounded.candidate.masks) == {"up": 8, "down": 9, "last": 8, "other": 16}
    assert rounded.left == {"down": "9 inputs is the nearest that whole groups give"}
    groups = rounded.candidate.masks["last"].reshape(4, 4)
    assert (groups.all(1) | ~groups.any(1)).all()


def test_a_layer_that_is_narrower_than_the_multiple_is_named() -> None:
    net = supernet()
    rounded = round_candidate(net, drawn(net, 0.6), 16, net.posterior())
    assert rounded.left == {"down": "it keeps all 12 inputs that there are"}
    assert rounded.candidate.masks["down"].all()


def test_a_grouped_convolution_is_left_as_it_is() -> None:
    backbone = Residual()
    backbone.down = nn.Conv2d(12, 16, 1, groups=2)
    net = Supernet(backbone, {name: [n] for name, n in GATED.items()}, input_size=(3, 4, 4)).eval()
    candidate = net.candidate({**masks_of(up=5), "down": np.arange(12) % 6 != 0})
    rounded = round_candidate(net, candidate, 4, net.posterior())
    assert (rounded.candidate.masks["down"] == candidate.masks["down"]).all()
    assert rounded.candidate.masks["up"].sum() == 4
    assert rounded.left == {"down": "a convolution of 2 groups keeps its 10 inputs"}


@pytest.mark.parametrize("multiple", [1, 0, -8])
def test_a_multiple_below_two_is_refused(multiple: int) -> None:
    net = supernet()
    with pytest.raises(UsageError, match=f"--round-to {multiple} was given, it should be at least 2"):
        round_candidate(net, drawn(net, 0.5), multiple, net.posterior())


def test_channels_that_are_one_are_of_one_class() -> None:
    graph = compaction.trace(Residual().eval(), (3, 4, 4))
    of = {
        node.name: classes for node in graph.nodes for classes in [channel_classes(graph).get(node.index)] if node.name
    }
    assert (of["stem"] == of["down"]).all()
    assert (of["up"] == of["deep"]).all()
    assert not set(of["stem"]) & set(of["up"])
    assert not set(of["last"]) & set(of["other"])
    assert len(set(of["last"])) == 8


# ---- of a run ----


def test_rounding_that_cannot_give_what_was_asked_for_is_refused(run: RunDirectory) -> None:
    winner = read_json(run.rank_path / "ranking.json")["winner"]
    evaluator, found = load_run_candidate(run, winner)
    with pytest.raises(UsageError, match="--round-to 100000 was given: no width of this network can be a multiple"):
        round_choice(run, evaluator, choose(run, winner), 100_000)
    larger, _ = round_choice(run, evaluator, choose(run, winner), 8)
    assert larger.candidate.params > found.params
    with pytest.raises(UsageError, match=f"--at allows {found.params:,}$") as caught:
        round_choice(run, evaluator, Choice(found, "at", found.params), 8)
    assert "leave room for rounding: --at " in caught.value.hint


def test_a_rounded_candidate_is_scored_and_kept_in_the_run(run: RunDirectory) -> None:
    ranking = read_json(run.rank_path / "ranking.json")
    evaluator, winner = load_run_candidate(run, ranking["winner"])
    choice, section = round_choice(run, evaluator, choose(run, winner.id), 8)
    found = choice.candidate
    assert (choice.by, found.strategy) == ("rounded", "rounded")
    assert section["from"] == {
        "id": winner.id, "chosen_by": "winner", "params": winner.params, "macs": winner.macs,
        "selection_accuracy": ranking["selection_accuracy"],
    }  # fmt: skip
    score = evaluator.score(found, "selection")
    assert section["selection_accuracy"]["n"] == score.n
    assert section["selection_accuracy"]["value"] == pytest.approx(score.accuracy)
    changed = sum(int((found.masks[name] != mask).sum()) for name, mask in winner.masks.items())
    assert section["added"] + section["dropped"] == changed > 0
    assert section["widths"]["after"]["multiples"] > section["widths"]["before"]["multiples"]
    _, again = load_run_candidate(run, found.id)
    assert again.id == found.id
    assert (again.params, again.macs) == (found.params, found.macs)
    other, _ = round_choice(run, evaluator, choose(run, winner.id), 2)
    round_choice(run, evaluator, choose(run, winner.id), 8)
    assert [kept.id for kept in rounded_candidates(run)] == [found.id, other.candidate.id]
    (run.rank_path / "rounded" / "candidates.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match=r"candidates\.jsonl"):
        load_run_candidate(run, found.id)
