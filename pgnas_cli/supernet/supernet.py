"""The supernet: a backbone in which every searchable layer reads gated inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import Candidate
from pgnas_cli.posterior.posterior import LayerPosterior, Masks, Posterior
from pgnas_cli.posterior.sampling import Assessment, resolve
from pgnas_cli.supernet.conv import SearchConv2d, SearchLayer, SearchLinear, search_layer
from pgnas_cli.supernet.cost import SupernetCost
from pgnas_cli.supernet.gate import INITIAL_DROP, TEMPERATURE, Gate, bernoulli_kl, weight_prior
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


class Supernet(nn.Module):
    """A network with learned drop probabilities on the inputs of its searchable layers.

    In training mode every example draws its own relaxed masks; in evaluation mode everything is kept, unscaled.

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
        super().__init__()
        self.backbone = backbone
        self.input_size = input_size
        self.spec = spec
        self.inherited: Inherited | None = None
        self._graph: compaction.ChannelGraph | None = None
        self._kept: compaction.Cost | None = None
        self._add_gates(gate_groups, initial_drop=initial_drop, temperature=temperature)

    def _add_gates(self, gate_groups: Mapping[str, Sequence[int]], **options: float) -> None:
        for name, sizes in gate_groups.items():
            parent, _, child = name.rpartition(".")
            try:
                owner = self.backbone.get_submodule(parent)
                layer = search_layer(owner.get_submodule(child), sizes, **options)
            except (AttributeError, ValueError) as error:
                raise ValueError(f"gate_groups names {name!r}: {error}") from error
            setattr(owner, child, layer)
        prefixes = tuple(f"{prefix}." for prefix in getattr(self.backbone, "training_only", ()))
        self._search_layers: dict[str, SearchLayer] = {}
        self._training_layers: dict[str, SearchLayer] = {}
        for name, module in self.backbone.named_modules():
            if isinstance(module, SearchConv2d | SearchLinear):
                layers = self._training_layers if prefixes and name.startswith(prefixes) else self._search_layers
                layers[name] = module

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.backbone(images))

    # ---- the gates ----

    @property
    def search_layers(self) -> dict[str, SearchLayer]:
        """Layer name (as in the backbone) -> gated layer, in the network's order; without heads for training only."""
        return self._search_layers

    @property
    def _gated_layers(self) -> list[SearchLayer]:
        """Every gated layer, also those of heads for training only."""
        return [*self._search_layers.values(), *self._training_layers.values()]

    @property
    def gates(self) -> dict[str, Gate]:
        """Layer name -> its gate (p, sizes), in the network's order."""
        return {name: layer.gate for name, layer in self.search_layers.items()}

    def gate_parameters(self) -> list[nn.Parameter]:
        """The drop logits."""
        return [layer.gate.drop_logit for layer in self._gated_layers]

    def weight_parameters(self) -> list[nn.Parameter]:
        """Everything that is trained besides the drop logits."""
        logits = {id(parameter) for parameter in self.gate_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in logits]

    def set_granularity(self, granularity: str) -> None:
        """Give every channel a probability of its own, started at its group's ("channel"), or nothing ("group")."""
        if granularity != "channel":
            return
        for layer in self._gated_layers:
            old = layer.gate
            new = Gate([1] * old.channels, temperature=old.temperature).to(old.drop_logit.device)
            new.fixed_drop = old.fixed_drop
            with torch.no_grad():
                new.drop_logit.copy_(old.per_channel(old.drop_logit))
            layer.gate = new.train(old.training)

    def set_gates(
        self, *, initial_drop: float | None = None, temperature: float | None = None, fixed_drop: float | None = None
    ) -> None:
        """Set what is given on every gate; `fixed_drop` is always set, None makes the probabilities learned ones."""
        for gate in (layer.gate for layer in self._gated_layers):
            gate.fixed_drop = fixed_drop
            if temperature is not None:
                gate.temperature = temperature
            if initial_drop is not None:
                with torch.no_grad():
                    gate.drop_logit.fill_(float(np.log(initial_drop) - np.log1p(-initial_drop)))

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

    def _gate_also(self, names: Iterable[str]) -> None:
        groups = {}
        for name in names:
            layer = self.backbone.get_submodule(name)
            if not isinstance(layer, SearchConv2d | SearchLinear):
                groups[name] = [layer.in_features if isinstance(layer, nn.Linear) else cast(int, layer.in_channels)]
        self._add_gates(groups)

    def set_drop_path(self, rate: float) -> None:
        """Drop whole branches in training, each DropPath with an attribute `depth_share` at `rate` times that share."""
        for module in self.backbone.modules():
            if "depth_share" in vars(module):
                vars(module)["drop_prob"] = rate * vars(module)["depth_share"]

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

    # ---- the objective ----

    def kl(self, *, l2: float, num_examples: float, prior_drop: float = 0.5) -> Tensor:
        """Both KL terms, already divided by N:

            (1/N) * sum over groups [ l2 * (1 - p) * ||W_group||^2 + K_group * KL(Bern(p) || Bern(u0)) ]

        W_group is the slice of the layer's weight that reads the group's channels, K_group their number. `l2` has no
        factor 1/2 (Eq. 15 has one; the authors' program, whose published values are used, has not).

        Args:
            l2: squared length scale of the weight prior.
            num_examples: N.
            prior_drop: u0 of the architecture prior.

        Returns:
            Scalar tensor, differentiable in the weights and the drop logits. Zhou et al. 2020, Eq. 11-15.
        """
        layers = self._gated_layers
        if not layers:
            return next(self.parameters()).new_zeros(())
        norms = torch.cat([layer.squared_norms() for layer in layers])
        if layers[0].gate.fixed_drop is not None:
            # the uniform baseline: nothing is learned about the masks, and the weights have an ordinary penalty
            return l2 * norms.sum() / num_examples
        logits = torch.cat([layer.gate.drop_logit for layer in layers])
        sizes = torch.tensor([size for layer in layers for size in layer.gate.sizes], dtype=logits.dtype)
        divergence = sizes.to(logits.device) * bernoulli_kl(logits, prior_drop)
        return (weight_prior(logits, norms, l2) + divergence).sum() / num_examples

    def ungated_penalty(self) -> Tensor:
        """Squared norm of the weights of all ungated convolutions, scalar."""
        squares = [
            module.weight.square().sum()
            for module in self.backbone.modules()
            if isinstance(module, nn.Conv2d) and not isinstance(module, SearchConv2d)
        ]
        return torch.stack(squares).sum() if squares else next(self.parameters()).new_zeros(())

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

    def cost(self) -> SupernetCost:
        """Exact cost with everything kept, and the expectation under the posterior, which is differentiable.

        Both count the weights of every surrogate, also of those that compaction would fold away.
        """
        kept = self.kept_cost()
        keep = {name: gate.keep_probabilities() for name, gate in self.gates.items()}
        expected = compaction.count(self.graph, compaction.expected(self.graph, keep))
        return SupernetCost(int(kept.params), int(kept.macs), expected.params, expected.macs)

    def assess(self, masks: Masks) -> Assessment:
        """Exact cost of the compact network, and whether its logits depend on the image."""
        graph = self._folded_graph(masks)
        liveness = compaction.analyse(graph, masks)
        cost = compaction.count(graph, liveness)
        return Assessment(int(cost.params), int(cost.macs), compaction.depends_on_input(graph, liveness))

    # ---- candidates ----

    def untouched(self, masks: Masks) -> tuple[str, ...]:
        """The surrogates that compaction leaves out: all inputs kept, and the weight, as it is now, the identity."""
        return tuple(
            name
            for name, layer in self._search_layers.items()
            if isinstance(layer, SurrogateConv2d) and np.all(masks.get(name, True)) and layer.is_identity()
        )

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
