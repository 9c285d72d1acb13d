"""When a training settles for one network."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Commit:
    """The end of the search inside a training: the posterior gives way to one candidate, which is trained on.

    The candidate holds the channels with the smallest drop probabilities, as many as its exact cost may have under the
    budget's targets. It is trained on as the small network that it is, with the weights, momentum and learning rate
    that are there, without noise. The posterior as it was, with its weights, stays in the run, for `pgnas sample --from
    soft`. Without a budget there is nothing to settle for, and the posterior is trained to the end.

    Args:
        at: share of the epochs after which this happens, in whole epochs; None for never. Shares of annealing and
            budget then count the steps before it.
    """

    at: float | None = None

    def __post_init__(self) -> None:
        check(
            self.at is None or 0 < self.at < 1,
            f"commit.at is {self.at}, it should lie between 0 and 1",
            "--set commit.at=0.2, or leave it out to search to the end",
        )
