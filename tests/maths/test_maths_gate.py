"""The functions of the gate against float64 references, at ordinary values and at the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.gate import SMALLEST_KEEP, bernoulli_kl, logit, relaxed_keep, weight_prior

DTYPES = {torch.float32: 2e-6, torch.float64: 1e-12}
PRIORS = (0.01, 0.3, 0.5, 0.9)
TINY = math.log(1e-7)
LOGITS = (-1e4, -80.0, TINY, -3.0, -0.5, 0.0, 1e-3, 2.0, -TINY, 80.0, 1e4)

both_dtypes = pytest.mark.parametrize(("dtype", "rtol"), DTYPES.items(), ids=["float32", "float64"])


def column(values: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(result: Tensor, of: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(result.sum(), of)
    return found


# ---- against the reference ----


@both_dtypes
@pytest.mark.parametrize("temperature", [0.05, 0.2, 2 / 3, 1.0])
def test_relaxed_keep_is_its_formula(dtype: torch.dtype, rtol: float, temperature: float) -> None:
    u = np.random.default_rng(0).uniform(0.001, 0.999, size=(7, 1))
    a = np.linspace(-4, 4, 9)
    noise = torch.tensor(np.log(u) - np.log1p(-u), dtype=dtype)
    found = relaxed_keep(torch.tensor(a, dtype=dtype), noise, temperature)
    assert found.dtype == dtype
    wanted = reference.relaxed_keep(a, u, temperature)
    wanted[wanted < SMALLEST_KEEP] = 0
    np.testing.assert_allclose(found.numpy(), wanted, rtol=200 * rtol)


def test_what_is_hardly_kept_is_dropped() -> None:
    """No denormal numbers reach a convolution; what is not a number is not hidden."""
    a = torch.tensor([-200.0, -4.0, 2.0, 8.0, 200.0, torch.nan], requires_grad=True)
    keep = relaxed_keep(a, torch.zeros(6), 0.1)
    assert keep[:2].tolist() == [1, 1]
    assert 0 < keep[2] < 1e-8
    assert keep[3:5].tolist() == [0, 0]
    assert keep[5].isnan()
    (slope,) = torch.autograd.grad(keep[:5].sum(), a)
    assert slope[2] < 0
    assert slope[3:5].tolist() == [0, 0]


@both_dtypes
@pytest.mark.parametrize("prior_drop", PRIORS)
def test_bernoulli_kl_and_its_gradient_are_the_formulas(dtype: torch.dtype, rtol: float, prior_drop: float) -> None:
    a = column(LOGITS, dtype)
    found = bernoulli_kl(a, prior_drop)
    assert found.dtype == dtype
    wanted, slope = reference.bernoulli_kl(LOGITS, prior_drop), reference.bernoulli_kl_gradient(LOGITS, prior_drop)
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(gradient(found, a).numpy(), slope, rtol=10 * rtol, atol=rtol)


@both_dtypes
def test_weight_prior_and_its_gradients_are_the_formulas(dtype: torch.dtype, rtol: float) -> None:
    a, norms = column(LOGITS, dtype), torch.linspace(0, 5, len(LOGITS), dtype=dtype).requires_grad_()
    found = weight_prior(a, norms, 7.0)
    p, q = reference.probability(LOGITS), reference.probability(-np.array(LOGITS))
    squares = norms.detach().double().numpy()
    np.testing.assert_allclose(
        found.detach().numpy(), reference.weight_prior(LOGITS, squares, 7.0), rtol=rtol, atol=rtol
    )
    slope_a, slope_norm = torch.autograd.grad(found.sum(), (a, norms))
    np.testing.assert_allclose(slope_a.numpy(), -7.0 * p * q * squares, rtol=rtol, atol=7 * rtol)
    np.testing.assert_allclose(slope_norm.numpy(), 7.0 * q, rtol=rtol, atol=1e-30)


def test_weight_prior_has_no_factor_of_a_half() -> None:
    assert weight_prior(torch.tensor([-1e4]), torch.tensor([3.0]), 50.0).item() == 150.0


# ---- what the divergence is ----


@pytest.mark.parametrize("p", [1e-7, 0.01, 0.2, 0.5, 0.77, 1 - 1e-7])
def test_at_one_half_the_kl_is_the_negative_entropy_plus_log_2(p: float) -> None:
    found = bernoulli_kl(torch.tensor(logit(p), dtype=torch.float64), 0.5).item()
    assert found == pytest.approx(float(reference.negative_entropy(p)) + math.log(2), abs=1e-14)


@both_dtypes
@pytest.mark.parametrize("prior_drop", PRIORS)
def test_kl_is_zero_at_the_prior_and_grows_away_from_it(dtype: torch.dtype, rtol: float, prior_drop: float) -> None:
    centre = logit(prior_drop)
    assert abs(bernoulli_kl(torch.tensor(centre, dtype=dtype), prior_drop).item()) < rtol
    distance = torch.linspace(0.2, 8, 40, dtype=dtype)
    for side in (-1, 1):
        kl = bernoulli_kl(centre + side * distance, prior_drop)
        assert (kl > 0).all()
        assert (kl.diff() > 0).all()


@pytest.mark.parametrize("prior_drop", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_prior_outside_the_open_interval_is_refused(prior_drop: float) -> None:
    with pytest.raises(UsageError, match="prior_drop"):
        bernoulli_kl(torch.zeros(1), prior_drop)


# ---- extremes ----


@both_dtypes
@pytest.mark.parametrize("a", [-1e4, TINY, -TINY, 1e4])
@pytest.mark.parametrize("noise", [-17.4, 0.0, 17.4])
def test_values_and_gradients_stay_finite_for_one_channel(
    dtype: torch.dtype, rtol: float, a: float, noise: float
) -> None:
    logits = column((a,), dtype)
    keep = relaxed_keep(logits, torch.full((1,), noise, dtype=dtype), 0.01)
    assert 0.0 <= keep.item() <= 1.0
    for result in (keep, bernoulli_kl(logits, 1e-3), weight_prior(logits, torch.ones(1, dtype=dtype), 1e6)):
        assert result.isfinite().all()
        assert gradient(result, logits).isfinite().all()


def test_a_small_keep_does_not_cancel() -> None:
    """1 - sigmoid(40) is 0 in floating point; the keep is 4e-18."""
    found = relaxed_keep(torch.tensor([40.0]), torch.zeros(1), 1.0).item()
    assert found == pytest.approx(math.exp(-40.0), rel=1e-5)


@pytest.mark.parametrize("p", [1e-7, 0.1, 0.5, 1 - 1e-7])
def test_logit_is_the_inverse_of_the_probability(p: float) -> None:
    assert reference.probability(logit(p)) == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_logit_refuses_what_has_none(p: float) -> None:
    with pytest.raises(UsageError, match="strictly between 0 and 1"):
        logit(p)


# ---- gradients by finite differences ----


@pytest.mark.parametrize("prior_drop", PRIORS)
def test_gradcheck_bernoulli_kl(prior_drop: float) -> None:
    a = torch.linspace(-6, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: bernoulli_kl(a, prior_drop), (a,))


def test_gradcheck_weight_prior() -> None:
    a = torch.linspace(-6, 6, 7, dtype=torch.float64, requires_grad=True)
    norms = torch.linspace(0.1, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, n: weight_prior(a, n, 80.0), (a, norms))


@pytest.mark.parametrize("temperature", [0.2, 2 / 3])
def test_gradcheck_relaxed_keep(temperature: float) -> None:
    a = torch.linspace(-2, 2, 5, dtype=torch.float64, requires_grad=True)
    noise = torch.linspace(-1, 1, 5, dtype=torch.float64).view(5, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, n: relaxed_keep(a, n, temperature), (a, noise))
