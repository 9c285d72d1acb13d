"""The supernet: a backbone in which every searchable layer reads gated inputs."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.assessment import Assessment
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.sampling import resolve
from pgnas_cli.supernet.cost import SupernetCost
from pgnas_cli.supernet.gate import INITIAL_DROP, TEMPERATURE
from pgnas_cli.supernet.gated_network import GatedNetwork
from pgnas_cli.supernet.surrogate import SurrogateConv2d


@dataclass(frozen=True)
class Inherited:
    """What a supernet has from pretrained weights.

    Args:
        logit_difference: largest difference of its logits from the plain network's on random images, relative to
            max(1, max |logit|).
        started_anew: tensors of the plain network that the weights did not give, such as a classifier of another size.
    """

    logit_difference: float
    started_anew: tuple[str, ...]


class Supernet(GatedNetwork):
    """A network with learned drop probabilities on the inputs of its searchable layers.

    In training mode every example draws its own relaxed masks, those of all gates at once; in evaluation mode
    everything is kept, unscaled.

    Args:
        backbone: any network that maps images [B, C, H, W] to logits. Its layers are replaced in place; parameters and
            state-dict names stay as they are.
        gate_groups: layer name -> sizes of its groups of input channels.
        input_size: (C, H, W) of an image: what MACs are counted for.
        spec: how the backbone was built, so that it can be built again.
        initial_drop: p of every gate at the start.
        temperature: tau of the relaxation.

    Raises:
        ValueError: gate_groups names a layer that is not there or cannot be gated, or groups that do not fit it.

    Shape: images [B, C, H, W] -> logits [B, num_classes].
    """

    def __init__(
        self,
        backbone: nn.Module,
        gate_groups: Mapping[str, Sequence[int]],
        *,
        input_size: tuple[int, int, int],
        spec: BuildSpec | None = None,
        initial_drop: float = INITIAL_DROP,
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__(backbone)
        self.input_size = input_size
        self.spec = spec
        self.inherited: Inherited | None = None
        self._graph: compaction.ChannelGraph | None = None
        self._kept: compaction.Cost | None = None
        self._add_gates(gate_groups, initial_drop=initial_drop, temperature=temperature)

    # ---- the gates ----

    def gate_stem(self) -> None:
        """Gate also the convolutions that read the image, one group each.

        Not the default: with three image channels at p = 0.5 one candidate of eight sees nothing.
        """
        self._gate_also(self.graph.reads_image)

    def gate_classifier(self) -> None:
        """Gate also the layers that write the logits, and every layer of a head for training only, one group each."""
        prefixes = tuple(f"{prefix}." for prefix in getattr(self.backbone, "training_only", ()))
        heads = [
            name
            for name, module in self.backbone.named_modules()
            if prefixes and name.startswith(prefixes) and isinstance(module, nn.Conv2d | nn.Linear)
        ]
        self._gate_also([*self.graph.writes_output, *heads])

    def set_drop_path(self, rate: float) -> None:
        """Drop whole branches in training, each DropPath with an attribute `depth_share` at `rate` times that share."""
        set_drop_path(self.backbone, rate)

    def auxiliary_logits(self) -> Tensor | None:
        """The auxiliary head's logits [B, C] of the last forward pass in training mode; None without such a head."""
        return cast(Tensor | None, getattr(self.backbone, "aux_logits", None))

    def set_branch_noise(self, enabled: bool) -> None:
        """Switch the noise between parallel branches (shake-shake) in training on or off, where the backbone has it."""
        for module in self.backbone.modules():
            if "branch_noise" in vars(module):
                vars(module)["branch_noise"] = enabled

    def posterior(self) -> Posterior:
        """The learned distribution, as plain numbers (float64 from the logits)."""
        layers = {}
        for name, gate in self.gates.items():
            if gate.fixed_drop is not None:
                p = np.full(len(gate.sizes), gate.fixed_drop)
            else:
                p = torch.sigmoid(gate.drop_logit.detach().double()).cpu().numpy()
            layers[name] = LayerPosterior(p, gate.sizes)
        return Posterior(layers)

    # ---- sizes ----

    @property
    def graph(self) -> compaction.ChannelGraph:
        """The channel graph, traced once; it holds structure only and stays right while the weights train."""
        if self._graph is None:
            self._graph = compaction.trace(self.backbone, self.input_size, check=False)
        return self._graph

    def kept_cost(self) -> compaction.Cost:
        """Exact parameters and MACs with everything kept."""
        if self._kept is None:
            self._kept = compaction.count(self.graph, compaction.analyse(self.graph, {}))
        return self._kept

    def keep_probabilities(self) -> dict[str, Tensor]:
        """Layer name -> [K] probability of each input of being kept, differentiable, in the network's order."""
        return {name: gate.keep_probabilities() for name, gate in self.gates.items()}

    def cost(self, keep: Mapping[str, Tensor] | None = None) -> SupernetCost:
        """Exact cost with everything kept, and the expectation under the posterior, which is differentiable.

        Both count the weights of every surrogate, also of those that compaction would fold away.

        Args:
            keep: other probabilities than the posterior's; see `keep_probabilities`.
        """
        kept = self.kept_cost()
        keep = self.keep_probabilities() if keep is None else keep
        expected = compaction.expected_cost(self.graph, keep)
        return SupernetCost(int(kept.params), int(kept.macs), expected.params, expected.macs)

    def assess(self, masks: Masks) -> Assessment:
        """Exact cost of the compact network, and whether its logits depend on the image."""
        graph = self._folded_graph(masks)
        liveness = compaction.analyse(graph, masks)
        cost = compaction.count(graph, liveness)
        return Assessment(int(cost.params), int(cost.macs), compaction.depends_on_input(graph, liveness))

    def assess_many(self, many: Sequence[Masks]) -> list[Assessment]:
        """`assess` of each, the same integers, computed for hundreds at once.

        Candidates are grouped by the surrogates that are `untouched`. Where nearly every candidate leaves out others
        (a supernet with surrogates that has not been trained), this takes up to twice as long as one after the other.

        Raises:
            UsageError: masks of a layer that cannot carry any, or that do not fit it.
        """
        identities = self._identities()
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, masks in enumerate(many):
            groups[_all_kept(identities, masks)].append(index)
        found: dict[int, Assessment] = {}
        for untouched, indices in groups.items():
            costs = compaction.count_many(self.graph.folded(untouched), [many[index] for index in indices])
            rows = zip(costs.params.tolist(), costs.macs.tolist(), costs.depends_on_input.tolist(), strict=True)
            found.update(zip(indices, itertools.starmap(Assessment, rows), strict=True))
        return [found[index] for index in range(len(many))]

    # ---- candidates ----

    def untouched(self, masks: Masks) -> tuple[str, ...]:
        """The surrogates that compaction leaves out: all inputs kept, and the weight, as it is now, the identity."""
        return _all_kept(self._identities(), masks)

    def _identities(self) -> tuple[str, ...]:
        """The surrogates whose weight, as it is now, is the identity."""
        layers = self._search_layers.items()
        return tuple(n for n, layer in layers if isinstance(layer, SurrogateConv2d) and layer.is_identity())

    def _folded_graph(self, masks: Masks) -> compaction.ChannelGraph:
        return self.graph.folded(self.untouched(masks))

    def candidate(self, masks: Masks, strategy: str = "given", log_prob: float = float("nan")) -> Candidate:
        """The candidate of given masks, all gated layers named, in the network's order."""
        gates = self.gates
        if set(masks) != set(gates):
            raise UsageError(f"masks are given for {len(masks)} layers, the supernet has {len(gates)} gated layers")
        ordered = {name: np.asarray(masks[name], dtype=bool) for name in gates}
        for name, mask in ordered.items():
            if mask.shape != (gates[name].channels,):
                raise UsageError(
                    f"the mask of {name} has shape {mask.shape}, the layer reads {gates[name].channels} channels"
                )
        cost = self.assess(ordered)
        return Candidate(ordered, strategy, cost.params, cost.macs, log_prob)

    def sample(
        self, *, generator: torch.Generator | None = None, strategy: str = "posterior", drop_prob: float | None = None
    ) -> Candidate:
        """One candidate: an independent Bernoulli(1 - p) draw per channel, shared by every example (Eq. 13).

        Args:
            generator: seeds the draw; torch's default generator if None.
            strategy: "posterior", or "uniform" at the constant rate `drop_prob`.
            drop_prob: rate of the uniform strategy.

        Raises:
            UsageError: the draw gives logits that do not depend on the image.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        distribution = resolve(self.posterior(), strategy, drop_prob)
        masks = distribution.draw(np.random.default_rng(seed))
        found = self.candidate(masks, strategy, distribution.log_prob(masks))
        if not self.assess(masks).usable:
            raise UsageError(
                "the draw dropped every path from the image to the logits", "draw again, or lower the drop rate"
            )
        return found

    def mode(self) -> Candidate:
        """The most probable candidate (p < 1/2 keeps)."""
        posterior = self.posterior()
        masks = posterior.mode()
        return self.candidate(masks, "mode", posterior.log_prob(masks))

    @contextmanager
    def masked(self, candidate: Candidate | Masks) -> Iterator[None]:
        """Inside, the network computes with the candidate's hard masks, dense, in evaluation mode.

        The masks are written into the weights; leaving restores weights and training flags, also after an exception.
        """
        masks = candidate.masks if isinstance(candidate, Candidate) else candidate
        flags = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with compaction.apply_masks(self._folded_graph(masks), self.backbone, masks):
                yield
        finally:
            for module, flag in flags.items():
                module.training = flag

    def compact(self, candidate: Candidate | Masks, *, layout: str = "gather") -> compaction.CompactNetwork:
        """The small network of a candidate: no gates, no masks, its own copy of the weights, in evaluation mode.

        Surrogates that are `untouched` are left out: what they read goes straight to their readers.

        Args:
            candidate: what to build; any masks, also degenerate ones.
            layout: "gather" (exactly the parameters that are counted) or "dense" (zero columns instead of gathers).
        """
        masks = candidate.masks if isinstance(candidate, Candidate) else candidate
        return compaction.compact(self._folded_graph(masks), self.backbone, masks, layout=layout)


def _all_kept(names: Sequence[str], masks: Masks) -> tuple[str, ...]:
    """Those of the layers whose inputs are all kept."""
    return tuple(name for name in names if np.all(masks.get(name, True)))


def set_drop_path(backbone: nn.Module, rate: float) -> None:
    """Give each DropPath with an attribute `depth_share` the rate `rate` times that share."""
    for module in backbone.modules():
        if "depth_share" in vars(module):
            vars(module)["drop_prob"] = rate * vars(module)["depth_share"]
