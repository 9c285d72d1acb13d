"""Whether the gates of a training are well: what goes wrong with a posterior, seen after every epoch.

Each check is a function of plain numbers that returns the warning or None. `HealthMonitor` keeps what they need of the
past and says everything once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pgnas_cli.posterior.posterior import Posterior

if TYPE_CHECKING:
    from pgnas_cli.supernet.supernet import Supernet
    from pgnas_cli.training.budget import BudgetedCost

MOVED = 1e-3
"""A drop probability has moved once |p - p0| reaches this. Under Adam at its default rate one step moves p = 0.1 by
0.009; in a healthy run of 30 epochs the slowest of 1384 had gone 0.005 after three."""
FROZEN_AFTER = 0.25
"""Share of the training, behind the warm-up, after which gates are expected to have moved."""
FROZEN_EPOCHS = 3
"""Frozen gates are looked for after so many epochs at the earliest: by chance a p may be back near its start once."""
FROZEN_SHARE = 0.05
"""So many of the drop probabilities that have not moved are worth a word, also where no layer stands still as a whole:
single channels may have nothing to learn from."""
COLLAPSED = 0.01
"""A channel is settled once p < 0.01 or p > 0.99: a hundred candidates then hold it alike, but for one."""
COLLAPSED_SHARE = 0.99
"""All gates have collapsed once so many channels are settled on one side."""
OPEN = 0.05
"""A channel is open while p lies in (0.05, 0.95)."""
OPEN_SHARE = 0.1
"""Fewer open channels than this, and an entropy below MIN_ENTROPY, make candidates that are nearly alike. Healthy runs
end with 0.4 to 0.8, one whose gates have 30 times the default rate with 0.05."""
MIN_ENTROPY = 0.1
"""Bits a channel. At p = 0.013 everywhere (0.1 bits) two candidates differ in 2.6 % of their channels; the bounds of
the logits (p = 0.0025) leave 0.025 bits, a healthy run ends at 0.5."""
KL_LARGEST = 10.0
"""KL over the cross-entropy of the first epoch. Not over that of the moment: a network that has learned its training
images has next to none, and the KL of a healthy run is then 10 to 100 times as large."""
KL_SMALLEST = 1e-4
"""KL over the cross-entropy of the moment. The default l2 of 1e-4 * N gives 0.1 to 10."""
LOST = 0.5
"""A layer is about to be lost once a candidate is more likely than not to drop all its inputs."""
MISSED = 0.05
"""Relative distance of the expected cost from its target. It is held within 0.2 % while the gates can follow."""
MISSED_EPOCHS = 2
"""Epochs in a row that the target has to be missed: while it falls fast, an epoch may end behind it."""
NAMED = 3
"""Gates that a message names before it counts the rest."""


@dataclass(frozen=True)
class HealthWarning:
    """Something about the gates that the user should know while there is time.

    Args:
        kind: "frozen", "collapsed", "deterministic", "kl_large", "kl_small", "layer_lost", "disconnected" or
            "target_missed".
        gate: the layer, for kinds that are said of each layer by itself; None for those that are said once.
        message: one line with the gate and the value.
        hint: one line with the option that helps.
    """

    kind: str
    gate: str | None
    message: str
    hint: str

    def row(self) -> dict[str, Any]:
        """What log.jsonl keeps of it."""
        return asdict(self)


# ---- the checks ---------------------------------------------------------------------------------------------


def frozen(travelled: Mapping[str, NDArray[np.float64]]) -> HealthWarning | None:
    """Gates that have not moved.

    Args:
        travelled: layer name -> [G] largest |p - p0| of each group so far.
    """
    still = {name: int((moved < MOVED).sum()) for name, moved in travelled.items()}
    groups = sum(len(moved) for moved in travelled.values())
    count = sum(still.values())
    whole = [name for name, moved in travelled.items() if len(moved) and still[name] == len(moved)]
    if not whole and (not count or count < FROZEN_SHARE * groups):
        return None
    names = whole or sorted((name for name in still if still[name]), key=lambda name: -still[name])
    return HealthWarning(
        "frozen",
        None,
        f"{count} of {groups} drop probabilities have moved by less than {MOVED:g} since the start: {listed(names)}",
        "a higher --gate-lr, or --gate-optimizer adam",
    )


def collapsed(posterior: Posterior) -> HealthWarning | None:
    """All gates on one side: every channel kept, or every channel dropped."""
    p = _channels(posterior)
    if not p.size:
        return None
    if float((p < COLLAPSED).mean()) >= COLLAPSED_SHARE:
        name, value = max(_extremes(posterior, np.max), key=lambda pair: pair[1])
        return HealthWarning(
            "collapsed",
            None,
            f"all gates have collapsed to kept: p is below {COLLAPSED:g} for {_percent((p < COLLAPSED).mean())} of the "
            f"channels, at most {value:.4f} ({name})",
            "--target-params 0.5x holds the expected size, a larger --prior-drop asks for smaller networks",
        )
    if float((p > 1 - COLLAPSED).mean()) >= COLLAPSED_SHARE:
        name, value = min(_extremes(posterior, np.min), key=lambda pair: pair[1])
        return HealthWarning(
            "collapsed",
            None,
            f"all gates have collapsed to dropped: p is above {1 - COLLAPSED:g} for "
            f"{_percent((p > 1 - COLLAPSED).mean())} of the channels, at least {value:.4f} ({name})",
            "a smaller --prior-drop or a smaller objective.l2 keeps more",
        )
    return None


def deterministic(posterior: Posterior) -> HealthWarning | None:
    """A posterior without width, whose candidates are nearly alike."""
    p = _channels(posterior)
    if not p.size:
        return None
    inside = float(((p > OPEN) & (p < 1 - OPEN)).mean())
    entropy = float(entropy_bits(p).mean())
    if inside >= OPEN_SHARE or entropy >= MIN_ENTROPY:
        return None
    name, value = max(_extremes(posterior, lambda x: np.minimum(x, 1 - x).max()), key=lambda pair: pair[1])
    return HealthWarning(
        "deterministic",
        None,
        f"the posterior is nearly deterministic: {entropy:.3f} bits a channel, {_percent(inside)} of the channels with "
        f"p in ({OPEN:g}, {1 - OPEN:g}); two candidates would differ in {_percent(float((2 * p * (1 - p)).mean()))} of "
        f"the channels; widest is {name}, {value:.4f} from 0 or 1",
        "a lower --gate-lr, or a higher --temperature, keeps it wider",
    )


def unbalanced(kl: float, cross_entropy: float, first_cross_entropy: float) -> HealthWarning | None:
    """A KL that dwarfs the likelihood of a network that has learned nothing yet, or vanishes beside that of now."""
    if kl > KL_LARGEST * first_cross_entropy:
        return HealthWarning(
            "kl_large",
            None,
            f"the KL of all gates is {kl:.3g}, {kl / max(first_cross_entropy, 1e-12):.3g} times the cross-entropy of "
            f"the first epoch ({first_cross_entropy:.3g}): the images hardly count",
            "a smaller objective.l2, or a larger objective.num_examples or objective.augmentation_factor",
        )
    if kl < KL_SMALLEST * cross_entropy:
        return HealthWarning(
            "kl_small",
            None,
            f"the KL of all gates is {kl:.3g}, {kl / cross_entropy:.1e} of the cross-entropy ({cross_entropy:.3g}): "
            "the priors hardly count",
            "a larger objective.l2, or a smaller objective.num_examples or objective.augmentation_factor",
        )
    return None


def layers_lost(posterior: Posterior, cuts: Callable[[str], bool]) -> list[HealthWarning]:
    """Layers that a candidate probably drops whole, where that cuts the network in two.

    P(all inputs dropped) = product over channels of p. An operation beside which others lead on may go: choosing among
    operations is what the method is for.

    Args:
        posterior: the layers.
        cuts: whether losing this layer alone leaves no path from the image to the logits.
    """
    found = []
    for name, layer in posterior.items():
        lost = float(np.prod(layer.per_channel()))
        if lost > LOST and cuts(name):
            kept = float((1 - layer.per_channel()).sum())
            found.append(
                HealthWarning(
                    "layer_lost",
                    name,
                    f"{name} is about to lose all its inputs, and nothing leads round it: P(all dropped) is "
                    f"{lost:.2f}, {kept:.2f} of {layer.channels} expected to stay",
                    "a larger target, or a smaller --prior-drop or --gate-lr",
                )
            )
    return found


def disconnected(posterior: Posterior) -> HealthWarning:
    """The most probable masks leave no path; the layers that they drop whole are named."""
    names = [name for name, mask in posterior.mode().items() if not mask.any()]
    least = {name: float(posterior[name].drop_prob.min()) for name in names}
    return HealthWarning(
        "disconnected",
        None,
        "the most probable masks leave no path from the image to the logits: p is above 0.5 on every input of "
        + listed([f"{name} (at least {least[name]:.2f})" for name in names]),
        "a larger target, or a smaller --prior-drop or objective.l2",
    )


def target_missed(cost: BudgetedCost, target: float) -> HealthWarning | None:
    """An expected cost that does not follow its target.

    Args:
        cost: of several, the hardest to keep.
        target: of this moment.
    """
    miss = cost.expected / target - 1
    if abs(miss) <= MISSED:
        return None
    return HealthWarning(
        "target_missed",
        None,
        f"E[{cost.goal.unit}] is {cost.goal.shown(cost.expected)}, {100 * miss:+.1f} % off its target of "
        f"{cost.goal.shown(target)}: "
        "the gates do not follow",
        f"{cost.goal.option} nearer to what is reached, or a smaller budget.start for more time",
    )


# ---- the monitor --------------------------------------------------------------------------------------------


class HealthMonitor:
    """Watches a posterior while it trains; every kind of warning comes once for each gate.

    Args:
        posterior: at the start of the training, also when it is resumed.
        learned: whether the drop probabilities are trained; if not, nothing is watched.
        cuts: whether losing one layer cuts the network, see `layers_lost`; asked at most once for each layer.
        warmup: share of the training in which the gates wait.
    """

    def __init__(
        self,
        posterior: Posterior,
        *,
        learned: bool,
        cuts: Callable[[str], bool],
        warmup: float = 0.0,
    ) -> None:
        self.learned, self.warmup = learned, warmup
        self._ask = cuts
        self._cuts: dict[str, bool] = {}
        self._start = {name: layer.drop_prob.copy() for name, layer in posterior.items()}
        self._travelled = {name: np.zeros_like(p) for name, p in self._start.items()}
        # a training that starts with p = 0.001 has not collapsed
        self._said = {(found.kind, found.gate) for found in _state_of(posterior)}
        self._first: float | None = None
        self._missed = 0

    def update(
        self,
        epoch: int,
        epochs: int,
        posterior: Posterior,
        sums: Mapping[str, float],
        *,
        usable: bool = True,
        hardest: tuple[BudgetedCost, float] | None = None,
    ) -> list[HealthWarning]:
        """What is new to say after an epoch.

        Args:
            epoch, epochs: epochs done and planned.
            posterior: now. A posterior that has been committed to its most probable masks is not looked at.
            sums: the epoch's means of "kl" and "cross_entropy".
            usable: whether the logits of the most probable masks depend on the image.
            hardest: where there is a budget, the cost that is hardest to keep and its target of this moment.
        """
        if not self.learned:
            return []
        for name, layer in posterior.items():
            self._travelled[name] = np.maximum(self._travelled[name], np.abs(layer.drop_prob - self._start[name]))
        if self._first is None:
            self._first = sums["cross_entropy"]
        found = [*_state_of(posterior), *layers_lost(posterior, self._cut)]
        found += _present(unbalanced(sums["kl"], sums["cross_entropy"], self._first))
        learning = epoch / epochs - self.warmup
        if epoch >= FROZEN_EPOCHS and learning >= FROZEN_AFTER * (1 - self.warmup):
            found += _present(frozen(self._travelled))
        if not usable:
            found.append(disconnected(posterior))
        if hardest is not None and learning > 0:
            missed = target_missed(*hardest)
            self._missed = 0 if missed is None else self._missed + 1
            found += _present(missed) if self._missed >= MISSED_EPOCHS else []
        new = [warning for warning in found if (warning.kind, warning.gate) not in self._said]
        self._said |= {(warning.kind, warning.gate) for warning in new}
        return new

    def _cut(self, name: str) -> bool:
        if name not in self._cuts:
            self._cuts[name] = self._ask(name)
        return self._cuts[name]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "travelled": {name: moved.tolist() for name, moved in self._travelled.items()},
            "said": sorted([kind, gate or ""] for kind, gate in self._said),
            "first": self._first,
            "missed": self._missed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._travelled = {name: np.array(moved, dtype=float) for name, moved in state["travelled"].items()}
        self._said = {(kind, gate or None) for kind, gate in state["said"]}
        self._first, self._missed = state["first"], state["missed"]


def cuts_network(net: Supernet, name: str) -> bool:
    """Whether dropping all inputs of one layer, and nothing else, leaves logits that do not depend on the image."""
    return not net.assess({name: np.zeros(net.gates[name].channels, dtype=bool)}).usable


# ---- helpers ------------------------------------------------------------------------------------------------


def entropy_bits(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy of Bern(p) in bits, -p log2 p - (1-p) log2(1-p); 0 at p = 0 and p = 1. Same shape as p."""
    inside = np.clip(p, np.finfo(float).tiny, 1.0)
    outside = np.clip(1 - p, np.finfo(float).tiny, 1.0)
    return -p * np.log2(inside) - (1 - p) * np.log2(outside)


def listed(names: Sequence[str]) -> str:
    """ "a, b, c and 4 more"."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _state_of(posterior: Posterior) -> list[HealthWarning]:
    """Collapse, or else a lack of width: a collapsed posterior has none either."""
    return _present(collapsed(posterior) or deterministic(posterior))


def _channels(posterior: Posterior) -> NDArray[np.float64]:
    return np.concatenate([layer.per_channel() for layer in posterior.values()] or [np.zeros(0)])


def _extremes(
    posterior: Posterior, of: Callable[[NDArray[np.float64]], float | np.floating[Any]]
) -> Iterator[tuple[str, float]]:
    return ((name, float(of(layer.drop_prob))) for name, layer in posterior.items() if layer.drop_prob.size)


def _present(warning: HealthWarning | None) -> list[HealthWarning]:
    return [] if warning is None else [warning]


def _percent(share: float | np.floating[Any]) -> str:
    return f"{100 * float(share):.3g} %"
