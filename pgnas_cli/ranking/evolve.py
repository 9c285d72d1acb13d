"""Evolution as a part of a ranking: candidates that go on from how the sampled ones scored.

Proposals come from `posterior.strategies.evolution`; the loop is here, and what its candidates see counts as images of
the ranking. Everybody is judged by the same first images, the first slice of a race, or all images; a race's pilots by
all. Later slices then compare sampled and evolved candidates alike. What a candidate answered on images that decided
about its proposal says nothing in its favour in a certificate (`race.Field.add`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.sampling import sample_candidates
from pgnas_cli.posterior.strategies.evolution import POPULATION
from pgnas_cli.posterior.strategies.strategy import Strategy
from pgnas_cli.ranking.race import Field, Report
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training import distributed
from pgnas_cli.training.distributed import World

GENERATION = 16
"""Candidates that are proposed before the next are told how they scored."""

Propose = Callable[[int, Collection[str]], list[Candidate]]
"""(how many, ids that are known) -> new candidates, as many at most; none where no new one was found."""


def evolve(
    field: Field,
    candidates: list[Candidate],
    proposals: Strategy,
    propose: Propose,
    *,
    number: int,
    seen: int,
    report: Report,
) -> int:
    """Add candidates to a field, generation by generation.

    The best of those that are there, as many as a population holds, are told first, so that search goes on from them.

    Args:
        field: of the candidates that were sampled.
        candidates: the field's; what is added is appended.
        proposals: learns how candidates scored.
        propose: new candidates from `proposals`, the same in every process.
        number: how many to add.
        seen: images that everybody is judged by: the first so many of the field's order.
        report: called after every generation.

    Returns:
        How many were added: fewer than `number` where no new ones were found.
    """
    everyone = np.arange(len(field))
    field.show(everyone, seen)
    best = field.ranked(everyone)[:POPULATION][::-1]  # who is told first leaves first
    proposals.tell(_scored(field, candidates, best))
    added = 0
    while added < number:
        new = propose(min(GENERATION, number - added), {candidate.id for candidate in candidates})
        if not new:
            break
        candidates.extend(new)
        indices = field.add([(candidate.params, candidate.id) for candidate in new], seen)
        field.show(indices, seen)
        proposals.tell(_scored(field, candidates, indices))
        added += len(new)
        ranked = field.ranked(np.arange(len(field)))
        report(field.look(seen, len(field), ranked, len(field)))
    return added


def _scored(field: Field, candidates: Sequence[Candidate], indices: np.ndarray) -> list:
    accuracy = field.accuracy(indices)
    return [(dict(candidates[i].masks), float(score)) for i, score in zip(indices, accuracy, strict=True)]


def proposer(net: Supernet, proposals: Strategy, world: World, *, max_params: float, max_macs: float) -> Propose:
    """New candidates within limits, found by the master for all processes.

    Args:
        net: counts what candidates cost.
        proposals: what is asked.
        world: this process.
        max_params, max_macs: limits of the exact cost.
    """

    def propose(number: int, known: Collection[str]) -> list[Candidate]:
        found: list[Candidate] = []
        if world.is_master:
            try:
                found, _ = sample_candidates(
                    proposals, number, assess_many=net.assess_many, max_params=max_params, max_macs=max_macs,
                    known=known,
                )  # fmt: skip
            except UsageError:  # no draw was new
                found = []
        return distributed.broadcast_object(found, world)

    return propose
