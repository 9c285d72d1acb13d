"""Latency by a table: the interpolation, exact and expected sizes, what is measured, and the calibration."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from supernet_nets import RESNET18, TINY, grouped_net, supernet
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.supernet.latency import Entry, LatencyTable, candidate_latency, expected_latency, interpolate
from pgnas_cli.supernet.latency_measure import measure_table, points, rising
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.timing import interleaved

NETS = {"resnet18": lambda: supernet(**RESNET18), "shakeshake": lambda: supernet(**TINY), "grouped": grouped_net}


@pytest.fixture(scope="module", params=NETS)
def measured(request) -> tuple[Supernet, LatencyTable]:
    net = NETS[request.param]()
    return net, measure_table(net, runs=1)


def with_times(table: LatencyTable, fixed: float, per_pair: float) -> LatencyTable:
    """The same table with times by a rule."""
    entries = {
        key: Entry(entry.axes, tuple(fixed + per_pair * math.prod(sizes) for sizes in product(*entry.axes)))
        for key, entry in table.entries.items()
    }
    return dataclasses.replace(table, entries=entries, constant=0.0, calibration=())


# ---- interpolation ----


def random_grid() -> tuple[Tensor, Tensor]:
    """Two grids with axes of one, two and three points, padded as a table pads them."""
    rng = np.random.default_rng(0)
    axes = [[[1], [1, 4, 9], [2, 5, 6]], [[1, 2, 8], [3], [1, 7]]]
    values = torch.stack(
        [
            torch.from_numpy(rng.random((3, 3, 3)))[np.ix_(*[np.arange(3).clip(max=len(axis) - 1) for axis in grid])]
            for grid in axes
        ]
    )
    padded = torch.tensor([[axis + [axis[-1]] * (3 - len(axis)) for axis in grid] for grid in axes]).double()
    return padded, values


def test_interpolation_is_exact_on_the_grid_and_for_trilinear_functions() -> None:
    axis = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    times = (grid + 2.0).prod(1).reshape(1, 3, 3, 3)
    rng = np.random.default_rng(0)
    for sizes in (*grid[::5], *torch.from_numpy(rng.uniform(1, 9, (20, 3)))):
        found = interpolate(axis.expand(1, 3, 3), times, sizes.unsqueeze(0))
        assert found.item() == pytest.approx(float((sizes + 2.0).prod()))


@pytest.mark.parametrize(("size", "inside"), [(0.0, 1.0), (0.5, 1.0), (30.0, 9.0)])
def test_outside_the_grid_the_border_holds(size: float, inside: float) -> None:
    padded, values = random_grid()
    wanted = interpolate(padded, values, torch.full((2, 3), inside, dtype=torch.float64))
    sizes = torch.full((2, 3), size, dtype=torch.float64, requires_grad=True)
    found = interpolate(padded, values, sizes)
    assert torch.equal(found, wanted)
    assert torch.autograd.grad(found.sum(), sizes)[0].isfinite().all()


def test_the_gradient_of_the_interpolation_is_its_slope() -> None:
    padded, values = random_grid()
    sizes = torch.tensor([[1.0, 2.3, 5.5], [1.4, 3.0, 2.2]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: interpolate(padded, values, x), (sizes,))


# ---- the sum ----


def operations_of(network: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())


def test_a_candidate_counts_the_layers_that_its_compact_network_has(measured) -> None:
    """With 1 s for each convolution and linear layer and 0 for the rest the latency is their number."""
    net, table = measured
    layers = {table.operations[node.fx_node.name] for node in net.graph.operations.values()}
    counting = with_times(table, 0.0, 0.0)
    ones = {key: Entry(e.axes, tuple(1.0 for _ in e.seconds)) for key, e in counting.entries.items() if key in layers}
    counting = dataclasses.replace(counting, entries={**counting.entries, **ones})
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.2, 0.5, 1.0):
        masks = {name: rng.random(gate.channels) < rate for name, gate in net.gates.items()}
        assert candidate_latency(net, masks, counting) == operations_of(net.compact(masks))


@pytest.mark.parametrize("low", [0.05, 0.3])
def test_the_expectation_is_near_the_mean_of_candidates(measured, low: float) -> None:
    net, table = measured
    table = with_times(table, 1e-7, 5e-9)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for gate in net.gates.values():
            p = rng.uniform(low, 0.5, len(gate.sizes))
            gate.drop_logit.copy_(torch.from_numpy(np.log(p / (1 - p))))
        expected = float(expected_latency(net, table))
    posterior = net.posterior()
    drawn = [candidate_latency(net, posterior.draw(rng), table) for _ in range(40)]
    assert expected == pytest.approx(np.mean(drawn), rel=0.05)


def test_more_dropping_is_faster_and_every_gate_has_a_slope(measured) -> None:
    net, table = measured
    table = with_times(table, 1e-7, 5e-9)
    found = []
    for p in (0.1, 0.4, 0.7):
        for gate in net.gates.values():
            nn.init.constant_(gate.drop_logit, math.log(p / (1 - p)))
        latency = expected_latency(net, table)
        slopes = torch.autograd.grad(latency, [gate.drop_logit for gate in net.gates.values()])
        assert all(bool(slope.isfinite().all()) for slope in slopes)
        assert all(float(slope.sum()) < 0 for slope in slopes)
        found.append(float(latency.detach()))
    assert found == sorted(found, reverse=True)


# ---- measuring ----


def test_every_operation_is_measured_on_a_grid_that_ends_at_its_full_size(measured) -> None:
    net, table = measured
    for node in net.graph.operations.values():
        entry, geometry = table.entries[table.operations[node.fx_node.name]], node.geometry
        full = [geometry.groups, geometry.in_channels // geometry.groups, geometry.out_channels // geometry.groups]
        assert [axis[-1] for axis in entry.axes] == full
    silent = {"input", "output", "attr", "meta", "split", "identity"}
    assert {*table.operations} == {node.fx_node.name for node in net.graph.nodes if node.kind not in silent}
    assert all(second > 0 for entry in table.entries.values() for second in entry.seconds)


def test_the_whole_network_is_predicted_as_it_was_measured(measured) -> None:
    net, table = measured
    whole = float(table.seconds(compaction.expected(net.graph, {})))
    assert whole == pytest.approx(table.full_seconds, rel=1e-4)
    assert table.scale == pytest.approx(table.full_seconds / table.whole[0])
    assert table.whole in table.calibration


def test_measuring_leaves_the_supernet_as_it_is() -> None:
    net = supernet(**TINY).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    table = measure_table(net, runs=1, batch=2, channels_last=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert torch.equal(state, torch.random.get_rng_state())
    assert (table.environment["batch"], table.environment["channels_last"]) == (2, True)


@pytest.mark.parametrize(
    ("full", "sizes"), [(1, (1,)), (3, (1, 2, 3)), (8, (1, 2, 4, 6, 8)), (64, (4, 13, 29, 45, 61, 64))]
)
def test_points_are_distinct_and_ascend_to_the_full_size(full: int, sizes: tuple[int, ...]) -> None:
    assert points(full) == sizes


@pytest.mark.parametrize(
    ("pairs", "kept"),
    [
        ([(1, 2), (2, 3), (4, 5)], [(1, 2), (2, 3), (4, 5)]),
        ([(1, 2), (2, 6), (4, 5)], [(1, 2), (4, 5)]),
        ([(1, 4), (2, 3), (4, 5)], [(2, 3), (4, 5)]),
        ([(5, 6), (4, 5)], [(4, 5), (5, 6)]),
        ([(5, 4), (1, 6), (4, 5)], [(4, 5)]),
    ],
)
def test_the_calibration_rises_up_to_the_whole_network(pairs, kept) -> None:
    assert rising(pairs) == tuple(kept)


@pytest.mark.parametrize(("total", "latency"), [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 8.0)])
def test_the_calibration_is_linear_between_its_points_and_proportional_outside(total: float, latency: float) -> None:
    table = LatencyTable({}, 0.0, (3.0, 6.0), ((1.0, 2.0), (3.0, 6.0)), {}, {}, {})
    bent = LatencyTable({}, 0.0, (3.0, 3.0), ((1.0, 2.0), (3.0, 3.0)), {}, {}, {})
    assert float(table._calibrated(torch.tensor(total))) == pytest.approx(latency)
    assert float(bent._calibrated(torch.tensor(2.0))) == pytest.approx(2.5)


def test_interleaved_takes_turns_and_discards_the_warm_up() -> None:
    order: list[str] = []
    calls = [partial(order.append, name) for name in "ab"]
    times = interleaved(calls, torch.device("cpu"), runs=4, warmup=1, repeats=2)
    assert order == list("aabb" * 5)
    assert [len(seconds) for seconds in times] == [4, 4]
    assert [len(seconds) for seconds in interleaved(calls, torch.device("cpu"), runs=9, limit=0.0)] == [3, 3]
