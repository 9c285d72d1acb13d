"""The loss, and how well a network does on labelled images.

    loss = cross_entropy + auxiliary_weight * auxiliary cross_entropy + kl + ungated penalty
    kl   = (1/N) * sum over groups [ l2 * (1 - p) * ||W_group||^2 + K_group * KL(Bern(p) || Bern(u0)) ]

Zhou et al. 2020, Eq. 11-16. Shape suffixes: B examples, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgnas_cli.recipe import Recipe
from pgnas_cli.training.commit import Trainable


@dataclass(frozen=True)
class Losses:
    """Scalar tensors.

    Args:
        cross_entropy: mean over the batch, in nats.
        kl: both KL terms, divided by N.
        penalty: l2 / N * ||W||^2 of the ungated convolutions.
        auxiliary: the auxiliary head's cross-entropy, already times its weight; None where there is no such head.
    """

    cross_entropy: Tensor
    kl: Tensor
    penalty: Tensor
    auxiliary: Tensor | None = None

    @property
    def total(self) -> Tensor:
        total = self.cross_entropy + self.kl + self.penalty
        return total if self.auxiliary is None else total + self.auxiliary

    def weighted(self, share: float) -> Tensor:
        """The loss of a part that holds this share of a step's images: only what is a mean over images is weighted."""
        if share == 1.0:
            return self.total
        of_images = self.cross_entropy if self.auxiliary is None else self.cross_entropy + self.auxiliary
        return share * of_images + self.kl + self.penalty

    def terms(self, share: float = 1.0) -> dict[str, Tensor]:
        """What the log shows, without gradient: the loss and its terms, the auxiliary one only where there is one."""
        terms = {"loss": self.weighted(share), "cross_entropy": share * self.cross_entropy, "kl": self.kl}
        if self.auxiliary is not None:
            terms["auxiliary"] = share * self.auxiliary
        return {name: term.detach() for name, term in terms.items()}


class Objective:
    """The loss of a recipe on a supernet.

    Args:
        recipe: gives l2, N, u0, the label smoothing and the weight of the auxiliary head.
        num_train: number of training images, which decides N and l2 where the recipe leaves them open.
    """

    def __init__(self, recipe: Recipe, num_train: int) -> None:
        self.num_examples = recipe.resolved_num_examples(num_train)
        self.l2 = recipe.resolved_l2(num_train)
        self.prior_drop = recipe.objective.prior_drop
        self.ungated_l2 = self.l2 if recipe.objective.ungated_l2 else 0.0
        self.constant_l2 = recipe.objective.constant_l2
        self.label_smoothing = recipe.objective.label_smoothing
        self.auxiliary_weight = recipe.objective.auxiliary_weight

    def __call__(self, net: Trainable, logits_BC: Tensor, labels: Tensor, *, kl: bool = True) -> Losses:
        """The loss after a forward pass in training mode that gave these logits.

        Args:
            net: the supernet.
            logits_BC: its logits.
            labels: int64 [B], or probabilities [B, C] of images that were mixed.
            kl: False for all but one part of a step: the terms of the weights and gates count once.
        """
        if not kl:
            zero = logits_BC.new_zeros((), dtype=torch.float32)
            return Losses(self._cross_entropy(logits_BC, labels), zero, zero, self._auxiliary(net, labels))
        divergence = net.kl(
            l2=self.l2, num_examples=self.num_examples, prior_drop=self.prior_drop, constant_l2=self.constant_l2
        )
        penalty = (
            self.ungated_l2 / self.num_examples * net.ungated_penalty() if self.ungated_l2 else divergence.new_zeros(())
        )
        return Losses(self._cross_entropy(logits_BC, labels), divergence, penalty, self._auxiliary(net, labels))

    def _auxiliary(self, net: Trainable, labels: Tensor) -> Tensor | None:
        logits_BC = net.auxiliary_logits() if self.auxiliary_weight else None
        return None if logits_BC is None else self.auxiliary_weight * self._cross_entropy(logits_BC, labels)

    def _cross_entropy(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits_BC.float(), labels, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Score:
    """How well a network does on a set of images.

    Args:
        correct: images whose largest logit is the label's.
        n: images.
        log_likelihood: mean log-probability of the label, in nats.
    """

    correct: int
    n: int
    log_likelihood: float

    @property
    def accuracy(self) -> float:
        """correct / n."""
        return self.correct / self.n


@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Score a network, in the mode that it is in.

    Logits that are not finite count as wrong, with a log-likelihood of minus infinity.

    Raises:
        ValueError: there are no batches.
    """
    correct = n = 0
    log_likelihood = 0.0
    for images, labels in batches:
        logits_BC = model(images).float()
        log_prob_B = torch.log_softmax(logits_BC, 1).gather(1, labels[:, None])[:, 0]
        finite_B = logits_BC.isfinite().all(1)
        correct += int(((logits_BC.argmax(1) == labels) & finite_B).sum())
        log_likelihood += float(torch.where(finite_B, log_prob_B.double(), -torch.inf).sum())
        n += len(labels)
    if n == 0:
        raise ValueError("no images to evaluate on")
    return Score(correct, n, log_likelihood / n)
