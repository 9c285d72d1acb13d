"""The structure of candidates against the networks that they are compacted to."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from few_cells import few_cells
from torch import nn

from pgnas_cli import inflate, registry, restore
from pgnas_cli.errors import RunError
from pgnas_cli.plugin import Inflation
from pgnas_cli.posterior.posterior import Masks
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.report.structure import Architecture, Join, drop_probabilities, of_masks, of_run
from pgnas_cli.run import RunDirectory, read_jsonl, write_json
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.loop import train

NETWORKS: dict[str, dict[str, object]] = {
    "resnet18": {},
    "resnet50": {"kernels": (1, 3, 5)},
    "supnet-d121": {},
    "shakeshake26_2x4d": {},
    "supnet-e": {"surrogate_pools": True},
    "efficientnet_b0": {},
    "regnetx_002": {},
}


@functools.cache
def supernet(arch: str) -> Supernet:
    return registry.build_on_meta(registry.make_spec(arch, Inflation(**NETWORKS[arch]), img_size=32))


def drawn(net: Supernet, seed: int, drop: float = 0.3) -> Masks:
    """Channels dropped at random, and a tenth of the layers wholly."""
    rng = np.random.default_rng(seed)
    return {
        name: np.zeros(gate.channels, bool) if rng.random() < 0.1 else rng.random(gate.channels) >= drop
        for name, gate in net.gates.items()
    }


def norms(network: nn.Module) -> int:
    return sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())


@pytest.mark.parametrize("arch", NETWORKS)
def test_every_operation_stands_in_one_block(arch: str) -> None:
    net = supernet(arch)
    found = of_masks(net, drawn(net, 0), "candidate")
    names = [operation.name for operation in found.operations]
    assert sorted(set(names) & set(net.graph.operations)) == sorted(net.graph.operations)
    assert all(names.count(name) == 1 for name in net.graph.operations)
    assert {operation.name for operation in found.operations if operation.gated} == set(net.gates)
    nodes = [node.index for block in found.blocks for node in block.nodes]
    assert len(nodes) == len(set(nodes))
    for block in found.blocks:
        inside = {node.index for node in block.nodes} | {port.index for port in block.ports}
        assert all(edge.source in inside and edge.target in inside for edge in block.edges)
        assert all(edge.source < edge.target for edge in block.edges)
        assert set(block.outputs) <= inside


@pytest.mark.parametrize("arch", NETWORKS)
def test_the_whole_supernet_has_nothing_dropped(arch: str) -> None:
    net = supernet(arch)
    found = of_masks(net, {}, "supernet")
    assert found.kept_params == found.params == net.kept_cost().params
    assert found.kept_macs == found.macs
    for operation in found.operations:
        assert (operation.share, operation.dropped) == (1, False)
        assert (operation.kept_params, operation.kept_outputs) == (operation.params, operation.outputs)
    assert all(edge.alive for block in found.blocks for edge in block.edges)
    assert all(node.share == 1 for block in found.blocks for node in block.nodes if isinstance(node, Join))


@pytest.mark.parametrize(
    ("arch", "kernels"), [("shakeshake26_2x4d", ()), ("resnet18", ()), ("resnet50", (1, 3)), ("densenet121", ())]
)
def test_what_is_kept_is_what_the_compact_network_has(arch: str, kernels: tuple[int, ...]) -> None:
    """Layer by layer, against the modules of the built network."""
    net = inflate(arch, in_chans=1, img_size=16, num_classes=10, kernels=kernels, seed=0)
    for seed in range(3):
        masks = drawn(net, seed, drop=0.2)
        if not net.assess(masks).usable:
            continue
        network = net.compact(masks)
        found = of_masks(net, masks, "candidate")
        assert found.kept_params == sum(p.numel() for p in network.parameters())
        assert found.kept_params == sum(o.kept_params for o in found.operations) + norms(network)
        sizes = sorted(tuple(m.weight.shape[:2]) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        kept = [o for o in found.operations if not o.dropped and o.params]
        assert sorted((o.kept_outputs, o.kept_inputs) for o in kept) == sizes
        assert all(o.kept_params == o.kept_inputs == o.kept_outputs == 0 for o in found.operations if o.dropped)


def test_a_wholly_dropped_branch_is_a_gap_that_nothing_leads_through() -> None:
    net = supernet("shakeshake26_2x4d")
    found = of_masks(net, {"stage1.1.branch1.conv2": np.zeros(4, bool)}, "candidate")
    block = next(block for block in found.blocks if block.path == "stage1.1")
    gone = {o.index for o in block.operations if o.dropped}
    assert {o.name for o in block.operations if o.dropped} == {"stage1.1.branch1.conv1", "stage1.1.branch1.conv2"}
    assert all(not edge.alive for edge in block.edges if edge.target in gone or edge.source in gone)
    assert sum(edge.alive for edge in block.edges) == len(block.edges) - 3
    assert not block.dropped


def test_families_fall_into_the_stages_their_authors_speak_of() -> None:
    def shape(arch: str) -> dict[str, int]:
        return {stage.name: len(stage.blocks) for stage in of_masks(supernet(arch), {}, "supernet").stages}

    assert {k: v for k, v in shape("resnet50").items() if v > 1} == {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}
    dense = {k.removeprefix("features."): v for k, v in shape("supnet-d121").items()}
    assert [dense[f"denseblock{i}"] for i in (1, 2, 3, 4)] == [6, 12, 24, 16]
    assert [shape("shakeshake26_2x4d")[f"stage{i}"] for i in (1, 2, 3)] == [4, 4, 4]
    assert shape("supnet-e")["cells"] == 17
    assert shape("regnetx_002")["s4"] == 7


# ---- runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    """An ENAS supernet with surrogates, trained a little, sampled and ranked: some surrogates stay the identity."""
    with few_cells():
        yield make_run(tmp_path_factory.mktemp("structure") / "run")


def make_run(path: Path) -> RunDirectory:
    net = inflate("enas15_2f", in_chans=1, img_size=8, surrogate_pools=True, seed=0)
    run = restore.create_run(net, path)
    changes = {"data.name": "digits", "data.batch_size": 64, "data.limit_train": 64, "schedule.epochs": 1}
    train(run, override(load_recipe("posterior"), changes), device="cpu")
    sample(run, n=2, seed=0)
    rank(run, method="exhaustive", device="cpu")
    return run


def check(found: Architecture, candidate: str, params: int, macs: int) -> None:
    assert (found.candidate, found.kept_params, found.kept_macs) == (candidate, params, macs)


def test_the_winner_costs_what_the_ranking_says(run: RunDirectory) -> None:
    best, second = read_jsonl(run.rank_path / "leaderboard.jsonl")
    found = of_run(run)
    assert found.source == "winner"
    check(found, best["id"], best["params"], best["macs"])
    other = of_run(run, second["id"])
    assert other.source == "candidate"
    check(other, second["id"], second["params"], second["macs"])
    with pytest.raises(RunError, match="no candidate 0123"):
        of_run(run, "0123")


def test_before_the_ranking_it_is_the_most_probable_candidate(run: RunDirectory, tmp_path: Path) -> None:
    manifest = run.manifest()
    trained = restore.load_trained(run, manifest["stages"]["train"]["checkpoint"])
    del manifest["stages"]["rank"]
    other = RunDirectory(tmp_path / "run")
    other.path.mkdir()
    for name in ("train", "supernet.safetensors"):
        (other.path / name).symlink_to(run.path / name)
    write_json(other.manifest_path, manifest)
    found = of_run(other)
    assert found.source == "most probable"
    check(found, "", trained.mode().params, trained.mode().macs)
    p = drop_probabilities(other)
    assert set(p) == set(trained.gates)


def test_a_run_that_has_only_been_inflated_shows_the_supernet(tmp_path: Path) -> None:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    found = of_run(restore.create_run(net, tmp_path / "run"))
    assert (found.source, found.title) == ("supernet", "shakeshake26_2x4d")
    check(found, "", int(net.kept_cost().params), int(net.kept_cost().macs))
    assert torch.get_default_device().type == "cpu"  # the meta device was used for the network alone
