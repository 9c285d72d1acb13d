"""The loss against its formula, and scores against a loop over images."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.objective import Objective, evaluate

N = 400


@pytest.fixture
def net() -> Supernet:
    torch.manual_seed(0)
    layers = OrderedDict(
        stem=nn.Conv2d(1, 6, 3, padding=1), bn=nn.BatchNorm2d(6), relu=nn.ReLU(), gated=nn.Conv2d(6, 4, 3, padding=1),
        plain=nn.Conv2d(4, 4, 1, bias=False), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 3),
    )  # fmt: skip
    return Supernet(nn.Sequential(layers), {"gated": [2, 4]}, input_size=(1, 5, 5))


def recipe(**changes: object) -> Recipe:
    return override(load_recipe("posterior"), {f"objective.{name}": value for name, value in changes.items()})


def losses(net: Supernet, chosen: Recipe):
    torch.manual_seed(1)
    logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
    return Objective(chosen, N)(net, logits, labels), logits, labels


def squares(net: Supernet, *names: str) -> torch.Tensor:
    return torch.stack([net.get_parameter(f"backbone.{name}.weight").square().sum() for name in names]).sum()


def test_the_loss_is_the_sum_of_its_three_terms(net: Supernet) -> None:
    found, logits, labels = losses(net, recipe(l2=3.0, prior_drop=0.3, augmentation_factor=2.0))
    log_prob = logits - logits.logsumexp(1, keepdim=True)
    torch.testing.assert_close(found.cross_entropy, -log_prob[torch.arange(8), labels].mean())
    torch.testing.assert_close(found.kl, net.kl(l2=3.0, num_examples=2.0 * N, prior_drop=0.3))
    torch.testing.assert_close(found.penalty, 3.0 / (2 * N) * squares(net, "stem", "plain"))
    torch.testing.assert_close(found.total, found.cross_entropy + found.kl + found.penalty)
    assert all(bool(term > 0) for term in (found.cross_entropy, found.kl, found.penalty))


def test_only_ungated_convolutions_are_penalised(net: Supernet) -> None:
    found, _, _ = losses(net, recipe(l2=3.0))
    torch.autograd.backward(found.penalty)
    touched = {name for name, p in net.named_parameters() if p.grad is not None and bool(p.grad.abs().max() > 0)}
    assert touched == {"backbone.stem.weight", "backbone.plain.weight"}
    without, _, _ = losses(net, recipe(l2=3.0, ungated_l2=False))
    assert without.penalty == 0.0
    torch.testing.assert_close(without.kl, found.kl)


def test_a_recipe_can_leave_the_drop_probabilities_out_of_the_weight_prior(net: Supernet) -> None:
    found, _, _ = losses(net, recipe(l2=3.0, constant_l2=True))
    torch.testing.assert_close(found.kl, net.kl(l2=3.0, num_examples=10.0 * N, constant_l2=True))
    assert found.kl > losses(net, recipe(l2=3.0))[0].kl


def test_what_the_recipe_leaves_open_depends_on_the_number_of_images() -> None:
    plain = Objective(recipe(augmentation_factor=1.0), N)
    assert (plain.num_examples, plain.l2) == (N, pytest.approx(1e-4 * N))
    assert Objective(recipe(augmentation_factor=10.0), N).num_examples == 10 * N
    assert Objective(recipe(augmentation_factor=10.0), N).l2 == pytest.approx(1e-3 * N)
    given = Objective(recipe(l2=7.0, num_examples=50.0, augmentation_factor=10.0), N)
    assert (given.num_examples, given.l2) == (50.0, 7.0)


def test_label_smoothing_mixes_in_the_mean_over_the_classes(net: Supernet) -> None:
    found, logits, labels = losses(net, recipe(label_smoothing=0.2))
    log_prob = logits.log_softmax(1)
    wanted = -0.8 * log_prob[torch.arange(8), labels] - 0.2 * log_prob.mean(1)
    torch.testing.assert_close(found.cross_entropy, wanted.mean())


def test_half_precision_logits_are_scored_in_float32(net: Supernet) -> None:
    logits = torch.tensor([[300.0, 0.0, 0.0]], dtype=torch.float16)
    found = Objective(recipe(), N)(net, logits, torch.tensor([1]))
    assert found.cross_entropy.item() == pytest.approx(300.0)


# ---- evaluate ----


class Table(nn.Module):
    """Logits looked up by the image, which is its own row number."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return self.logits[x.long()]


def batches(labels: torch.Tensor, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = torch.arange(len(labels)).float()
    return list(zip(rows.split(size), labels.split(size), strict=True))


@pytest.mark.parametrize("size", [1, 4, 11])
def test_a_score_equals_a_loop_over_the_images(size: int) -> None:
    torch.manual_seed(2)
    logits, labels = 3 * torch.randn(11, 5), torch.randint(5, (11,))
    score = evaluate(Table(logits), batches(labels, size))
    probabilities = F.softmax(logits.double(), 1)
    log_likelihood = sum(math.log(float(row[label])) for row, label in zip(probabilities, labels, strict=True)) / 11
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    assert 0 < correct < 11
    assert (score.correct, score.n, score.accuracy) == (correct, 11, correct / 11)
    assert score.log_likelihood == pytest.approx(log_likelihood, rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_logits_that_are_not_finite_count_as_wrong(bad: float, column: int) -> None:
    logits = torch.tensor([[5.0, 0.0], [5.0, 0.0], [5.0, 0.0]])
    logits[1, column] = bad
    score = evaluate(Table(logits), batches(torch.zeros(3, dtype=torch.long), 2))
    assert (score.correct, score.n, score.log_likelihood) == (2, 3, -math.inf)


def test_no_images_are_no_score() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Table(torch.zeros(1, 2)), [])
