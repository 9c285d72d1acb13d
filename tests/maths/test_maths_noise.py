"""The statistics of the relaxed masks, seeded."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from pgnas_cli.supernet.gate import Gate, logistic_noise, relaxed_keep

N = 40_000
SIGMAS = 4.5


def masks(p: float, temperature: float, shape: tuple[int, int] = (N // 20, 20), seed: int = 0) -> Tensor:
    """The keep values that a gate in training multiplies its inputs with."""
    gate = Gate([shape[1]], initial_drop=p, temperature=temperature).train()
    torch.manual_seed(seed)
    return gate(torch.ones(shape)).detach()


def assert_share(share: float, expected: float, n: int = N) -> None:
    assert abs(share - expected) <= SIGMAS * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("temperature", [0.01, 0.2, 2 / 3, 2.0])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.35, 0.5, 0.8, 0.98])
def test_a_channel_is_mostly_kept_with_probability_1_minus_p(p: float, temperature: float) -> None:
    assert_share((masks(p, temperature) > 0.5).double().mean().item(), 1 - p)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_low_temperature_gives_hard_draws(p: float) -> None:
    """The share between 0.01 and 0.99 is F(tau c - a) - F(-tau c - a) with c = log 99, F the logistic distribution."""
    a, c = math.log(p / (1 - p)), math.log(99)
    shares = []
    for temperature in (0.5, 0.2, 0.05, 1e-3, 1e-6):
        keep = masks(p, temperature)
        shares.append(((keep > 0.01) & (keep < 0.99)).double().mean().item())
        soft = stats.logistic.cdf(temperature * c - a) - stats.logistic.cdf(-temperature * c - a)
        assert_share(shares[-1], soft)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_noise_is_standard_logistic_and_float32(autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        noise = logistic_noise((N,), generator=torch.Generator().manual_seed(1))
    assert noise.dtype == torch.float32
    assert noise.isfinite().all()
    assert len(noise.unique()) > 0.95 * N  # in bfloat16 there would be at most 256
    assert stats.kstest(noise.double().numpy(), "logistic").pvalue > 1e-3


def test_noise_is_finite_at_both_ends_of_the_uniform_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [0.0, 2.0**-24, 0.5, 1 - 2.0**-24, 1.0]
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(ends))
    noise = logistic_noise((5,))
    assert noise.isfinite().all()
    assert noise.abs().max() < 17.4
    assert (noise.diff() >= 0).all()


def test_noise_comes_from_the_given_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (logistic_noise((9,), generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_differ_and_the_pixels_of_a_channel_agree() -> None:
    gate = Gate([3, 2], initial_drop=0.5, temperature=1.0).train()
    keep = gate(torch.ones(4, 5, 6, 7))
    assert torch.equal(keep, keep[:, :, :1, :1].expand_as(keep))
    assert len(keep[:, :, 0, 0].unique()) == 20


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_what_is_kept_is_not_scaled_up(p: float) -> None:
    """E[y] = (1 - p) x, not x as under ordinary dropout."""
    keep = masks(p, 1e-4)
    x = 3.0
    assert abs((x * keep).mean().item() - (1 - p) * x) < SIGMAS * x * math.sqrt(p * (1 - p) / N)
    assert keep.max() == 1


def test_each_group_is_drawn_at_its_own_rate() -> None:
    gate = Gate([1, 3, 2], temperature=1e-4).train()
    rates = [0.1, 0.5, 0.9]
    with torch.no_grad():
        gate.drop_logit.copy_(torch.logit(torch.tensor(rates)))
    torch.manual_seed(2)
    share = gate(torch.ones(N, 6)).mean(0).tolist()
    for found, p in zip(share, [0.1, 0.5, 0.5, 0.5, 0.9, 0.9], strict=True):
        assert_share(found, 1 - p)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3, 3)])
def test_evaluation_is_the_identity(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for fixed in (None, 0.7):
        gate = Gate([4], initial_drop=0.9).eval()
        gate.fixed_drop = fixed
        assert gate(x) is x


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.9])
def test_fixed_drop_draws_hard_masks_at_that_rate(rate: float) -> None:
    gate = Gate([20], initial_drop=0.5).train()
    gate.fixed_drop = rate
    torch.manual_seed(3)
    keep = gate(torch.ones(N // 20, 20))
    assert set(keep.unique().tolist()) <= {0.0, 1.0}
    assert_share(keep.mean().item(), 1 - rate)
    assert gate.p.tolist() == pytest.approx([rate])
    assert gate.keep_probabilities().tolist() == pytest.approx([1 - rate] * 20)
    assert not gate.p.requires_grad


@pytest.mark.parametrize("fixed", [None, 0.4])
def test_under_autocast_the_output_has_the_dtype_of_the_input(fixed: float | None) -> None:
    """The mask is drawn in float32 and rounded once."""
    gate = Gate([8]).train()
    gate.fixed_drop = fixed
    x = torch.ones(64, 8, 2, 2)
    torch.manual_seed(4)
    exact = gate(x)
    torch.manual_seed(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = gate(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


def test_the_gradient_reaches_the_logit_with_the_sign_of_dropping() -> None:
    gate = Gate([5]).train()
    gate(torch.ones(8, 5)).sum().backward()
    assert gate.drop_logit.grad is not None
    assert gate.drop_logit.grad.item() < 0


def test_one_probability_a_channel_is_spread_like_one_group() -> None:
    """The same seed and the same p give the same masks whatever the grouping."""
    results = []
    for sizes in ([6], [1] * 6, [2, 4]):
        torch.manual_seed(6)
        results.append(Gate(sizes).train()(torch.ones(3, 6)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    noise = logistic_noise((3, 6), generator=torch.Generator().manual_seed(6))
    assert torch.allclose(results[0], relaxed_keep(torch.tensor(math.log(0.1 / 0.9)), noise, 0.2))


@pytest.mark.parametrize("sizes", [[], [3, 0], [-1]])
def test_groups_without_channels_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Gate(sizes)
