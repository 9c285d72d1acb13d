"""Sets of distinct candidates: a strategy proposes masks; what is repeated, unusable or too large is left out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import AssessMany, Assessment
from pgnas_cli.posterior.candidate import Candidate, masks_id
from pgnas_cli.posterior.posterior import Masks, Posterior
from pgnas_cli.posterior.strategies import make
from pgnas_cli.posterior.strategies.strategy import Independent, Options, Strategy

DRAWS_PER_CANDIDATE = 50
"""Give up on more distinct candidates after this many draws for each that was asked for."""
CHUNK = 256
"""Most draws that are assessed at once."""


@dataclass(frozen=True)
class SampleReport:
    """How a set was drawn.

    Args:
        draws: masks drawn in all.
        duplicates: draws that repeated an earlier one.
        unusable: draws whose logits do not depend on the image.
        too_large: draws above --max-params or --max-macs.
        surplus: draws of a stratum that was full.
        strata: the stratum of each candidate; all 0 for a strategy without strata.
    """

    draws: int
    duplicates: int
    unusable: int
    too_large: int
    surplus: int
    strata: tuple[int, ...]


def resolve(posterior: Posterior, strategy: str, drop_prob: float | None) -> Posterior:
    """The distribution that a strategy of independent draws draws from, where the costs of networks are not known.

    Raises:
        UsageError: unknown strategy, or one that needs a run; uniform without a drop probability; another with one.
    """
    made = make(strategy, posterior, options=Options(drop_prob=drop_prob))
    if not isinstance(made, Independent):
        raise UsageError(f"--strategy {strategy} does not draw from one distribution", "--strategy posterior")
    return made.distribution


class _Set:
    """The candidates found so far, and why other draws are not among them."""

    def __init__(
        self, strategy: Strategy, n: int, known: Collection[str], max_params: float | None, max_macs: float | None
    ) -> None:
        self.strategy, self.known = strategy, known
        self.max_params, self.max_macs = max_params, max_macs
        self.room = [n // strategy.strata + (stratum < n % strategy.strata) for stratum in range(strategy.strata)]
        self.found: dict[str, Candidate] = {}
        self.strata: list[int] = []
        self.draws = self.duplicates = self.unusable = self.too_large = self.surplus = 0
        self.smallest: Assessment | None = None

    def offer(self, masks: Masks, cost: Assessment) -> bool:
        """Take the next draw, if it is a new candidate for which there is room."""
        stratum = self.draws % self.strategy.strata
        self.draws += 1
        if not cost.usable:
            self.unusable += 1
            return False
        if self.smallest is None or cost.params < self.smallest.params:
            self.smallest = cost
        if (self.max_params is not None and cost.params > self.max_params) or (
            self.max_macs is not None and cost.macs > self.max_macs
        ):
            self.too_large += 1
            return False
        identity = masks_id(masks)
        if identity in self.found or identity in self.known:
            self.duplicates += 1
            return False
        if not self.room[stratum]:
            self.surplus += 1
            return False
        self.room[stratum] -= 1
        self.strata.append(stratum)
        name, log_prob = self.strategy.name, self.strategy.log_prob(masks)
        self.found[identity] = Candidate(masks, name, cost.params, cost.macs, log_prob)
        return True

    def report(self) -> SampleReport:
        return SampleReport(
            self.draws, self.duplicates, self.unusable, self.too_large, self.surplus, tuple(self.strata)
        )

    def why_empty(self) -> UsageError:
        if self.duplicates:
            return UsageError(
                f"none of {self.draws} draws is new: {self.duplicates} repeat networks that are known",
                "ask for fewer candidates, or train with more width left in the posterior",
            )
        if self.smallest is None:
            return UsageError(
                f"none of {self.draws} draws gives a network whose logits depend on the image",
                "train with a larger --target-params, or a smaller --prior-drop",
            )
        return UsageError(
            f"none of {self.draws} draws is within the limits: "
            f"the smallest has {self.smallest.params} parameters and {self.smallest.macs} MACs",
            "raise --max-params or --max-macs, or train with a smaller --target-params",
        )


def sample_candidates(
    strategy: Strategy,
    n: int,
    *,
    assess_many: AssessMany,
    max_params: float | None = None,
    max_macs: float | None = None,
    known: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Candidate], SampleReport]:
    """Up to `n` distinct, usable candidates within the limits, as many of each stratum.

    Draws at most `DRAWS_PER_CANDIDATE * n` times: a posterior that has nearly converged holds few distinct networks,
    and a limit may exclude nearly all of them. Fewer candidates than asked for is not an error. Draws are assessed in
    chunks; what is found does not depend on how large they are.

    Args:
        strategy: what proposes masks.
        n: how many, at least 1.
        assess_many: exact cost and usability of many masks.
        max_params: upper limit of exact parameters.
        max_macs: upper limit of exact multiply-adds.
        known: identities of candidates that are there already.
        progress: called with the number of candidates found so far.

    Raises:
        UsageError: n < 1, or not one candidate was found, with the reason.
    """
    if n < 1:
        raise UsageError(f"{n} candidates were asked for, it should be at least 1", "-n 100")
    found, most = _Set(strategy, n, known, max_params, max_macs), DRAWS_PER_CANDIDATE * n
    while len(found.found) < n and found.draws < most:
        chunk = strategy.ask(min(CHUNK, most - found.draws, 2 * (n - len(found.found)) + 16))
        for masks, cost in zip(chunk, assess_many(chunk), strict=True):
            if found.offer(masks, cost) and progress is not None:
                progress(len(found.found))
            if len(found.found) == n:
                break
    if not found.found:
        raise found.why_empty()
    return list(found.found.values()), found.report()
