"""The network that `pgnas_cli.load` and timm give back: a compact network with the methods of timm's models.

Its layers stand under the backbone's own names, its state dict has the keys of model.safetensors. `forward` is the
compact network's code; `forward_features` walks its graph instead, which costs microseconds a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from pgnas_cli import registry
from pgnas_cli.compact.network import CompactNetwork
from pgnas_cli.errors import UsageError
from pgnas_cli.export.maps import (
    Shapes,
    feature_maps,
    find_classifier,
    find_first_convolutions,
    first_convolution,
    shapes_of,
    unpooled,
)
from pgnas_cli.export.walking import walk
from pgnas_cli.plugin import BuildSpec

_KEPT = ("pretrained_cfg", "model_args", "_classifier")
"""Attributes of our own that a copy keeps; they are plain data."""
DROPOUT = "classifier_dropout"
MOST_NEW = 2**28
"""Numbers of a classifier or first convolution that is made anew, 1 GiB: a configuration may name their sizes."""


class ExportedNetwork(CompactNetwork):
    """A compact network, [B, C, H, W] -> [B, num_classes], with what timm expects of a model.

    Args:
        network: the compact network; its layers are shared, not copied.
        pretrained_cfg: timm's description of the input.
        model_args: what `timm.create_model` needs to build the same structure again.

    Attributes:
        num_classes: outputs of the classifier; 0 without one.
        num_features: channels of `forward_features`.
        head_hidden_size: inputs of the classifier.
        feature_info: a map for each resolution, see `FeatureMaps`.
    """

    pretrained_cfg: dict[str, Any]
    model_args: dict[str, Any]

    def __init__(
        self,
        network: fx.GraphModule,
        graph: fx.Graph | None = None,
        class_name: str = "ExportedNetwork",
        *,
        pretrained_cfg: Mapping[str, Any] | None = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(network, network.graph if graph is None else graph, class_name)
        self.pretrained_cfg, self.model_args = dict(pretrained_cfg or {}), dict(model_args or {})
        self._classifier = _classifier_of(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedNetwork:
        copied = super().__deepcopy__(memo)
        assert isinstance(copied, ExportedNetwork)
        _restore(copied, {name: getattr(self, name) for name in _KEPT})
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments = super().__reduce__()
        kept = {name: getattr(self, name) for name in _KEPT}
        return _unpickled, (function, arguments, kept, self.training)

    @property
    def _model_args(self) -> dict[str, Any]:
        """Where timm looks for what builds the model again."""
        return self.model_args

    @_model_args.setter
    def _model_args(self, value: Mapping[str, Any]) -> None:
        """What `timm.create_model` was called with; what only the user decides, such as trust_plugins, is not saved."""
        self.model_args = {"structure": value["structure"]} if "structure" in value else {}

    # ---- the classifier ----------------------------------------------------------------------------------------

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name of `pretrained_cfg`."""
        return self.pretrained_cfg

    @property
    def num_classes(self) -> int:
        head = self.get_classifier()
        return int(head.weight.shape[0]) if isinstance(head, nn.Linear | nn.Conv2d) else 0

    @property
    def in_chans(self) -> int:
        return first_convolution(self).in_channels

    @property
    def head_hidden_size(self) -> int:
        return self._classifier.inputs

    @property
    def num_features(self) -> int:
        return self._shapes()[self._unpooled()][1]

    def get_classifier(self) -> nn.Module:
        """The last layer, an Identity where it was taken off."""
        return self.get_submodule(self._classifier.name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for other classes, with PyTorch's initial weights; 0 takes it off: pooled features.

        Raises:
            UsageError: `num_classes` is negative or no whole number, or the classifier would be larger than 1 GiB;
                `global_pool` asks for another pooling than the network's own; the network has no classifier.
        """
        _check_count("num_classes", num_classes, 0, self._classifier.inputs)
        if not self._classifier.name:
            raise UsageError("the network ends in no single classifier to replace", "leave num_classes out")
        if global_pool is not None and global_pool != "avg":
            raise UsageError(
                f"global_pool={global_pool!r} was given: the pooling is a part of the exported network",
                "leave it out; forward_features(x) gives the maps before the pooling",
            )
        name, inputs, is_convolution = self._classifier
        like = next(self.parameters())
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        new: nn.Module = nn.Identity()
        if num_classes and is_convolution:
            new = nn.Conv2d(inputs, num_classes, 1, **options)
        elif num_classes:
            new = nn.Linear(inputs, num_classes, **options)
        self.set_submodule(name, new.train(self.training))

    def reset_input(self, in_chans: int) -> None:
        """The first convolution for other image channels: summed for one, else repeated and rescaled, as timm does.

        Raises:
            UsageError: `in_chans` is below 1 or no whole number, or its weights cannot be adapted, or take over 1 GiB.
        """
        from timm.models import adapt_input_conv

        first = first_convolution(self).weight
        _check_count("in_chans", in_chans, 1, first.numel() // first.shape[1])
        for name in find_first_convolutions(self):
            layer = self.get_submodule(name)
            assert isinstance(layer, nn.Conv2d)
            if layer.in_channels == in_chans:
                continue
            if layer.groups != 1:
                raise UsageError(f"{name} is a grouped convolution: its input channels cannot be changed", "")
            layer.weight = nn.Parameter(adapted(layer.weight.detach(), in_chans, adapt_input_conv))
            layer.in_channels = in_chans

    def reset_dropout(self, rate: float) -> None:
        """Dropout of what the classifier reads, in training, as timm's drop_rate.

        Raises:
            UsageError: `rate` is not in [0, 1).
        """
        if not 0 <= rate < 1:
            raise UsageError(f"drop_rate={rate} was given, it should be at least 0 and below 1", "drop_rate=0.2")
        head = next((node for node in self.graph.nodes if node.target == self._classifier.name), None)
        if head is None:
            return
        source = head.all_input_nodes[0]
        module = self.get_submodule(str(source.target)) if source.op == "call_module" else None
        if isinstance(module, nn.Dropout):
            module.p = float(rate)
        elif rate:
            self.add_submodule(DROPOUT, nn.Dropout(float(rate)).train(self.training))
            with self.graph.inserting_before(head):
                head.replace_input_with(source, self.graph.call_module(DROPOUT, (source,)))
            self.recompile()
            self.meta.pop("shapes", None)

    # ---- features ----------------------------------------------------------------------------------------------

    def _size(self) -> tuple[int, int]:
        """Height and width of the images it was made for."""
        _, height, width = self.pretrained_cfg["input_size"]
        return int(height), int(width)

    def _shapes(self) -> Shapes:
        """The shape of every value, for one image; the first call runs it."""
        found: Shapes | None = self.meta.get("shapes")
        if found is None:
            found = self.meta["shapes"] = shapes_of(self, self._size())
        return found

    def _unpooled(self) -> str:
        return unpooled(self, self._shapes())

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """For each resolution its last map, as timm lists them: {"num_chs", "reduction", "module"}."""
        return feature_maps(self, self._shapes(), self._size(), backbone_stages(self.model_args))

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the last maps before the pooling, [B, num_features, h, w]."""
        stop, image = self._unpooled(), next(node.name for node in self.graph.nodes if node.op == "placeholder")
        return walk(self, {image: x}, [stop])[stop]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gave -> logits [B, num_classes]; with `pre_logits` what the classifier reads."""
        output = next(node for node in self.graph.nodes if node.op == "output")
        last = output.all_input_nodes[0]
        if pre_logits:
            last = next(node for node in self.graph.nodes if node.target == self._classifier.name).all_input_nodes[0]
        found = walk(self, {self._unpooled(): x}, [last.name])[last.name]
        return found.flatten(1) if pre_logits else found

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """timm's groups for layer-wise learning rates: parameter name -> place of its block, from the image on.

        A block is all layers of one module; with `coarse`, of one module of the outermost level.
        """
        layers = [str(node.target) for node in self.graph.nodes if node.op == "call_module"]
        blocks = {_block(name, coarse): None for name in layers if list(self.get_submodule(name).parameters())}
        places = {block: place for place, block in enumerate(blocks)}
        return lambda name: places.get(_block(name.rpartition(".")[0], coarse), len(places))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """timm's switch; a network of one graph has no blocks to recompute, so only switching it off is taken.

        Raises:
            UsageError: it is switched on.
        """
        if enable:
            raise UsageError(
                "an exported network has no gradient checkpointing", "train it with smaller batches, or under bf16"
            )


def _block(layer: str, coarse: bool) -> str:
    return layer.partition(".")[0] if coarse else layer.rpartition(".")[0] or layer


def _check_count(name: str, count: int, least: int, each: int) -> None:
    """UsageError unless `count` is a whole number from `least` on, of which `each` numbers are made for every one."""
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise UsageError(f"{name}={count!r} was given, it should be a whole number of at least {least}", f"{name}=3")
    if count * each > MOST_NEW:
        raise UsageError(
            f"{name}={count} was given: its layer would have {count * each} numbers, at most {MOST_NEW} are made",
            f"{name}={MOST_NEW // each} at most",
        )


def adapted(weight: Tensor, in_chans: int, adapt: Any) -> Tensor:
    """A first convolution's weight [O, C, h, w] for other image channels: [O, in_chans, h, w]; see `reset_input`."""
    if weight.shape[1] == 3 or in_chans == 1:
        try:
            converted: Tensor = adapt(in_chans, weight)
            return converted
        except NotImplementedError:
            pass
    copies = -(-in_chans // weight.shape[1])
    return weight.repeat(1, copies, 1, 1)[:, :in_chans] * (weight.shape[1] / in_chans)


class _Classifier(NamedTuple):
    """The last layer of a network: its name, how many channels it reads, and whether it is a 1x1 convolution."""

    name: str
    inputs: int
    is_convolution: bool


def _classifier_of(network: fx.GraphModule) -> _Classifier:
    """The classifier of a network.

    Raises:
        UsageError: it ends in something else, such as the sum of two classifiers.
    """
    name = find_classifier(network)
    head = network.get_submodule(name) if name else None
    if isinstance(head, nn.Linear):
        return _Classifier(name, head.in_features, False)
    if isinstance(head, nn.Conv2d):
        return _Classifier(name, head.in_channels, True)
    return _Classifier("", 0, False)


def backbone_stages(model_args: Mapping[str, Any]) -> list[str]:
    """The modules that the backbone's own feature_info lists, where it has one: it is built on the meta device."""
    spec = BuildSpec.from_json(model_args["structure"]["backbone"])
    with torch.device("meta"):
        backbone, _ = registry.build_backbone(spec)
    info = getattr(backbone, "feature_info", None)
    listed = isinstance(info, list) and all(isinstance(entry, dict) and "module" in entry for entry in info)
    return [str(entry["module"]) for entry in info] if listed and info else []


def _restore(network: ExportedNetwork, kept: Mapping[str, Any]) -> None:
    for name, value in kept.items():
        setattr(network, name, copy.deepcopy(value))


def _unpickled(function: Any, arguments: Any, kept: Mapping[str, Any], training: bool) -> ExportedNetwork:
    network = ExportedNetwork(function(*arguments))
    _restore(network, kept)
    return network.train(training)
