"""The strategies: how masks are proposed. `strategy.py` says what one is; a new one is a module and an entry here."""

from __future__ import annotations

from pgnas_cli.errors import UsageError
from pgnas_cli.posterior.assessment import Costs
from pgnas_cli.posterior.posterior import Posterior
from pgnas_cli.posterior.strategies import evolution, posterior, stratified, tilted, uniform
from pgnas_cli.posterior.strategies.strategy import Options, Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "posterior": posterior.Learned,
    "uniform": uniform.Uniform,
    "tilted": tilted.Tilted,
    "stratified": stratified.Stratified,
    "evolution": evolution.Evolution,
}


def find(name: str) -> type[Strategy]:
    """The strategy of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}", f"one of: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def make(
    name: str,
    learned: Posterior,
    costs: Costs | None = None,
    options: Options | None = None,
    *,
    n: int = 1,
    seed: int = 0,
) -> Strategy:
    """A strategy as the user asked for it, see `Strategy.make`.

    Raises:
        UsageError: there is none of that name; an option belongs to another one, is missing or makes no sense.
    """
    kind, options = find(name), options or Options()
    for option in options.given():
        if option not in kind.options:
            owners = [owner for owner in STRATEGIES.values() if option in owner.options]
            raise UsageError(
                f"--{option.replace('_', '-')} belongs to --strategy {' or '.join(owner.name for owner in owners)}",
                f"leave it out, or type {owners[0].example}",
            )
    return kind.make(learned, costs, options, n=n, seed=seed)
