"""A network with gated layers in training: its gates and their settings, the draw of all masks, the KL."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.conv import SearchConv2d, SearchLayer, SearchLinear, TappedNorms, search_layer
from pgnas_cli.supernet.gate import NOISES, Gate, logit
from pgnas_cli.supernet.gate_bank import GateBank
from pgnas_cli.supernet.noise import Noise
from pgnas_cli.supernet.weight_norms import sum_of_squares


class GatedNetwork(nn.Module):
    """What of a `Supernet` has to do with its gates, and nothing with candidates or sizes.

    Args:
        backbone: any network that maps images [B, C, H, W] to logits.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self._search_layers: dict[str, SearchLayer] = {}
        self._training_layers: dict[str, SearchLayer] = {}
        self._noise = Noise()
        self._gate_noise, self._gating = NOISES[0], True
        self._bank: GateBank | None = None
        self._tapped: TappedNorms | None = None

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
        self._search_layers, self._training_layers = {}, {}
        for name, module in self.backbone.named_modules():
            if isinstance(module, SearchConv2d | SearchLinear):
                layers = self._training_layers if prefixes and name.startswith(prefixes) else self._search_layers
                layers[name] = module
        self._set_gates(noise=self._gate_noise, enabled=self._gating)

    def forward(self, images: Tensor) -> Tensor:
        layers = self._gated_layers
        if not (self.training and layers):
            return cast(Tensor, self.backbone(images))
        with ExitStack() as stack:
            stack.callback(_clear, layers)
            if self.backbone._compiled_call_impl is not None:
                # dynamo looks for the gradient of what is handed over; there is none before the backward pass
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            if self._gating:
                shared = self._gate_noise == "batch"
                for layer, keep in zip(layers, self.bank.draw(len(images), self._noise, shared=shared), strict=True):
                    layer.gate.drawn = keep
            if torch.is_grad_enabled():
                self._tapped = TappedNorms(layers)
            return cast(Tensor, self.backbone(images))

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to one step: a copy, an average of the weights say, starts without it."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"_bank": None, "_tapped": None, "_noise": Noise()}

    def _gate_also(self, names: Iterable[str]) -> None:
        groups = {}
        for name in names:
            layer = self.backbone.get_submodule(name)
            if not isinstance(layer, SearchConv2d | SearchLinear):
                groups[name] = [layer.in_features if isinstance(layer, nn.Linear) else cast(int, layer.in_channels)]
        self._add_gates(groups)

    # ---- the gates and their settings ----

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
            new.fixed_drop, new.noise, new.enabled = old.fixed_drop, old.noise, old.enabled
            with torch.no_grad():
                new.drop_logit.copy_(old.per_channel(old.drop_logit))
            layer.gate = new.train(old.training)

    @property
    def bank(self) -> GateBank:
        """All gates side by side, also those of heads for training only."""
        gates = [layer.gate for layer in self._gated_layers]
        device = gates[0].drop_logit.device
        if self._bank is None or not self._bank.holds(gates, device):
            with torch.inference_mode(False):  # it outlives the mode
                self._bank = GateBank(gates, device)
        return self._bank

    def set_gates(
        self,
        *,
        initial_drop: float | None = None,
        temperature: float | None = None,
        fixed_drop: float | None = None,
        noise: str | None = None,
    ) -> None:
        """Set what is given on every gate; `fixed_drop` is always set, None makes the probabilities learned ones.

        Args:
            noise: "example" (as published) draws masks for every example, "batch" one for all examples of a batch.

        Raises:
            UsageError: there is no such noise.
        """
        if noise not in (None, *NOISES):
            raise UsageError(f"the noise of the gates is {noise!r}, it should be one of {', '.join(NOISES)}")
        self._gate_noise = noise or self._gate_noise
        given = {"temperature": temperature, "noise": noise}
        self._set_gates(fixed_drop=fixed_drop, **{name: value for name, value in given.items() if value is not None})
        if initial_drop is not None:
            with torch.no_grad():
                for logits in self.gate_parameters():
                    logits.fill_(logit(initial_drop))

    def set_gating(self, enabled: bool) -> None:
        """Switch the masks in training on or off; off, the drop probabilities learn from the KL alone."""
        self._gating = enabled
        self._set_gates(enabled=enabled)

    def _set_gates(self, **attributes: object) -> None:
        for layer in self._gated_layers:
            vars(layer.gate).update(attributes)

    def set_noise(self, seed: int | None, *, rows: slice = slice(None), total: int | None = None) -> None:
        """Where the following forward passes in training mode draw their masks from.

        With a seed the draw of example i of a global batch depends on (seed, i) and the device's type alone, so that
        one process and several draw the same masks. It costs what the default generator costs, plus up to 30 rows of
        one number per gated channel where a batch does not start and end at a multiple of 16 examples.

        Args:
            seed: of the step; None draws from torch's default generator, as at the start.
            rows: which examples of the global batch the batches to come are.
            total: examples of the global batch.

        Raises:
            ValueError: the rows are not a contiguous part of the global batch; or, in the forward pass, the batch has
                another number of examples.
        """
        self._noise = Noise.of_rows(seed, rows, total)

    # ---- the objective ----

    def kl(self, *, l2: float, num_examples: float, prior_drop: float = 0.5, constant_l2: bool = False) -> Tensor:
        """Both KL terms, already divided by N:

            (1/N) * sum over groups [ l2 * (1 - p) * ||W_group||^2 + K_group * KL(Bern(p) || Bern(u0)) ]

        W_group is the slice of the layer's weight that reads the group's channels, K_group their number. `l2` has no
        factor 1/2 (Eq. 15 has one; the authors' program, whose published values are used, has not). The groups of a
        gate with a constant rate (`fixed_drop`) have l2 * ||W_group||^2 in place of the bracket.

        Args:
            l2: squared length scale of the weight prior.
            num_examples: N.
            prior_drop: u0 of the architecture prior.
            constant_l2: leave the factor (1 - p) out (the ablation of Table 2).

        Returns:
            Scalar tensor, differentiable in the weights and the drop logits. Zhou et al. 2020, Eq. 11-15.
        """
        layers = self._gated_layers
        if not layers:
            return next(self.parameters()).new_zeros(())
        if self._tapped is not None and self._tapped.current(layers):
            norms_G = self._tapped.norms_G
        else:
            norms_G = torch.cat([layer.squared_norms() for layer in layers])
        self._tapped = None
        return self.bank.kl(norms_G, l2, prior_drop, constant_l2=constant_l2) / num_examples

    def ungated_penalty(self) -> Tensor:
        """Squared norm of the weights of all ungated convolutions, scalar."""
        weights = [
            module.weight
            for module in self.backbone.modules()
            if isinstance(module, nn.Conv2d) and not isinstance(module, SearchConv2d)
        ]
        return sum_of_squares(weights) if weights else next(self.parameters()).new_zeros(())


def _clear(layers: Iterable[SearchLayer]) -> None:
    """Take back what one forward pass was given: it would keep its graph alive."""
    for layer in layers:
        layer.gate.drawn = layer.tapped_weight = None
