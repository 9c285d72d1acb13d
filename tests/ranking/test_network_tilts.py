"""Tilting real networks whose posterior is nearly settled: their expectation is steep, and slopes differ by decades."""

from __future__ import annotations

import pytest
import torch

from pgnas_cli import inflate
from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.tilting import solve_sampled
from pgnas_cli.ranking.network_costs import NetworkCosts
from pgnas_cli.supernet.supernet import Supernet


def settled(spread: float) -> Supernet:
    """One p per layer, its logits of the given standard deviation."""
    net, generator = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in net.gates.values():
            gate.drop_logit.copy_(spread * torch.randn(gate.drop_logit.shape, generator=generator))
    return net


@pytest.mark.parametrize(
    ("spread", "share"), [(2.0, 0.3), (8.0, 0.1), (8.0, 0.6), (8.0, 0.99), (30.0, 0.3), (30.0, 0.6)]
)
def test_draws_have_the_mean_size(spread: float, share: float) -> None:
    net = settled(spread)
    costs = NetworkCosts(net)
    found = solve_sampled(net.posterior(), costs, "params", share * costs.whole("params"), seed=0)
    assert found.sampled == pytest.approx(found.target, rel=0.02)
    assert found.residual < 0.01


def test_a_size_at_which_networks_are_cut_off_is_refused() -> None:
    net = settled(8.0)
    with pytest.raises(UsageError, match="no draw is usable"):
        solve_sampled(net.posterior(), NetworkCosts(net), "params", 0.02 * 47890, seed=0)
