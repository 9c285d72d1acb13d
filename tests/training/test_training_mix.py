"""Mixup and cutmix: against timm, and drawn from a key alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup

from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.mix import Mix
from pgnas_cli.training.seeds import seeded

X = torch.randn(8, 3, 20, 20, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
BOTH = Augmentation(mixup=0.8, cutmix=1.0, mixup_prob=0.7)


@pytest.mark.parametrize(
    "options", [Augmentation(mixup=0.4), Augmentation(cutmix=1.0), BOTH, Augmentation(mixup=0.8, mixup_prob=0.3)]
)
def test_batches_are_mixed_as_timm_mixes_them(options: Augmentation) -> None:
    mix = Mix(options, 5)
    theirs = Mixup(
        options.mixup,
        options.cutmix,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        label_smoothing=0.0,
        num_classes=5,
    )
    before = X.clone(), Y.clone()
    for step in range(12):
        with seeded(f"0/1/{step}"):
            x, y = theirs(X.clone(), Y)
        x_found, y_found = mix(X, Y, key=f"0/1/{step}")
        torch.testing.assert_close(x_found, x)
        torch.testing.assert_close(y_found, y)
    assert torch.equal(X, before[0])
    assert torch.equal(Y, before[1])


@pytest.mark.parametrize("options", [Augmentation(mixup=1.0), Augmentation(cutmix=1.0)])
def test_targets_are_the_shares_of_the_pixels(options: Augmentation) -> None:
    ones = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 32, 32)
    for step in range(5):
        x, targets = Mix(options, 5)(ones, torch.arange(5), key=str(step))
        torch.testing.assert_close(targets.sum(1), torch.ones(5))
        torch.testing.assert_close(targets @ torch.arange(5.0), x.mean((1, 2, 3)))  # mean label = mean pixel
        assert torch.equal(x[2], ones[2])  # the middle of an odd batch is its own partner


def test_draws_depend_on_the_key_only_and_leave_the_generators_alone() -> None:
    mix = Mix(BOTH, 5)
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = [mix(X, Y, key=f"k{step}") for step in range(6)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    np.random.rand(3)
    again = [mix(X, Y, key=f"k{step}") for step in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True) for a, b in [(a[0], b[0])])
    assert len({float(targets[0].max()) for _, targets in first}) > 2
    # a process with fewer images mixes them with the same lambda
    for step in range(6):
        assert torch.equal(mix(X[:2], Y[:2], key=f"k{step}")[1][:, :2].max(), first[step][1][0].max())


def test_a_batch_that_is_not_mixed_keeps_its_labels_which_the_loss_alone_smooths() -> None:
    x, targets = Mix(Augmentation(mixup=1.0, mixup_prob=0.0), 5)(X, Y, key="k")
    assert torch.equal(x, X)
    assert torch.equal(targets, F.one_hot(Y, 5).float())


@pytest.mark.parametrize(
    ("options", "active"),
    [
        (Augmentation(), [False, False, False]),
        (Augmentation(mixup=0.1), [True, True, True]),
        (Augmentation(cutmix=0.1, mixup_off_epoch=2), [True, True, False]),
    ],
)
def test_mixing_ends_at_its_epoch(options: Augmentation, active: list[bool]) -> None:
    assert [Mix(options, 5).active(epoch) for epoch in range(3)] == active
