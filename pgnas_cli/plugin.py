"""What a zoo plugin is. A plugin brings a family of networks; the registry turns what it builds into a supernet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pgnas_cli.errors import UsageError as UsageError  # part of what plugins import
from pgnas_cli.strict_json import shown

if TYPE_CHECKING:
    from torch import nn

API_VERSION = 1
SMALL_IMAGE = 64
"""Up to this image size the default stem is a 3x3 convolution with stride 1 and no pooling."""
MOST = {"kernels": 99, "branches": 1_000, "growth": 10_000}
"""Largest value of a field of Inflation, far above any network: a larger one is a slip, or meant to exhaust memory."""


@dataclass(frozen=True)
class Inflation:
    """How a backbone is made larger than the network that is wanted.

    Args:
        width: inner channels = round(planes * width); 1 leaves the backbone as it is.
        kernels: each 3x3 convolution becomes one parallel convolution per kernel; empty leaves it.
        branches: number of parallel branches, for families that have them.
        growth: growth rate, for DenseNets.
        surrogate_pools: gated 1x1 convolutions behind pools and identities, for cells.
        stem: "auto" (by image size), "small" (3x3, stride 1, no pooling) or "backbone" (the backbone's own).
    """

    width: float = 1.0
    kernels: tuple[int, ...] = ()
    branches: int | None = None
    growth: int | None = None
    surrogate_pools: bool = False
    stem: str = "auto"

    def __post_init__(self) -> None:
        if not 0.0 < self.width < 1000.0:
            raise UsageError(f"a width of {self.width:g} was given, it should be above 0 and below 1000", "--width 1.7")
        if self.stem not in ("auto", "small", "backbone"):
            raise UsageError(f"stem {self.stem!r} was given, it should be auto, small or backbone", "--stem auto")
        if len(set(self.kernels)) != len(self.kernels):
            raise UsageError(f"a kernel size is named twice in {','.join(map(str, self.kernels))}", "--kernels 1,3,5,9")
        for name, values in (("kernels", self.kernels), ("branches", (self.branches,)), ("growth", (self.growth,))):
            if large := [value for value in values if value is not None and value > MOST[name]]:
                raise UsageError(f"{name} {shown(large[0])} was given, it should be at most {MOST[name]}")

    def changed(self) -> list[str]:
        """Names of the fields that differ from the plain backbone."""
        plain = Inflation()
        return [name for name, value in asdict(self).items() if value != getattr(plain, name)]

    def small_stem(self, img_size: int) -> bool:
        """Whether the stem for small images is meant."""
        return self.stem == "small" or (self.stem == "auto" and img_size <= SMALL_IMAGE)


@dataclass(frozen=True)
class ArchitectureInfo:
    """What `pgnas zoo list` says of an architecture. Static: listing never builds a network.

    Args:
        name: as typed by users.
        params: parameters of the plain network at its default classes and channels.
        macs: multiply-adds of the plain network at its default image size.
        num_classes: default number of classes.
        img_size: default image size, pixels a side.
        in_chans: default image channels.
        summary: half a line.
        published_params: parameters of the supernet as published, where there is such a row.
        published: where that figure stands.
        base: the plain network of which this one is an inflation; empty where it is itself the plain network.
        recipe: the recipe of `pgnas train --recipe` that repeats the published training; empty if there is none.
    """

    name: str
    params: int
    macs: int
    num_classes: int = 1000
    img_size: int = 224
    in_chans: int = 3
    summary: str = ""
    published_params: float | None = None
    published: str = ""
    base: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class BuildSpec:
    """Everything that determines the structure of a supernet, and the seed of its initial weights."""

    arch: str
    plugin: str
    inflation: Inflation
    num_classes: int
    in_chans: int
    img_size: int
    seed: int = 0
    distribution: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BuildSpec:
        """Rebuild from JSON.

        Raises:
            UsageError: a key is missing, unknown or of the wrong type.
        """
        data = dict(document)
        kinds: dict[str, type] = {
            "arch": str, "plugin": str, "inflation": dict, "num_classes": int, "in_chans": int, "img_size": int,
            "seed": int, "distribution": str,
        }  # fmt: skip
        for name, kind in kinds.items():
            if not isinstance(data.get(name), kind) or isinstance(data[name], bool):
                found = shown(data.get(name))
                raise UsageError(f"model description: key {name!r} should be {kind.__name__}, not {found}")
        if unknown := sorted(set(data) - set(kinds)):
            raise UsageError(f"model description: unknown key {shown(unknown[0])}")
        if not 0 <= data["seed"] < 2**63:
            raise UsageError(f"model description: seed is {data['seed']}, it should lie in 0..2^63-1")
        for name, most in (("num_classes", 10_000_000), ("in_chans", 10_000), ("img_size", 100_000)):
            if not 1 <= data[name] <= most:
                raise UsageError(f"model description: {name} is {data[name]}, it should lie in 1..{most}")
        return cls(**{**data, "inflation": _inflation_from_json(data["inflation"])})


def _inflation_from_json(document: Mapping[str, Any]) -> Inflation:
    plain = asdict(Inflation())
    if set(document) != set(plain):
        raise UsageError(f"model description: inflation should have the keys {', '.join(plain)}")
    width, kernels, stem = document["width"], document["kernels"], document["stem"]
    whole = all(document[name] is None or type(document[name]) is int for name in ("branches", "growth"))
    if (
        not isinstance(width, int | float)
        or isinstance(width, bool)
        or not isinstance(kernels, list | tuple)
        or not all(type(k) is int for k in kernels)
        or not isinstance(stem, str)
        or not isinstance(document["surrogate_pools"], bool)
        or not whole
    ):
        raise UsageError(f"model description: inflation has a value of the wrong type: {shown(dict(document))}")
    if not 0 < width < 1000:  # also of a whole number that is too large for a float
        raise UsageError(f"model description: width is {shown(width)}, it should lie above 0 and below 1000")
    return Inflation(**{**document, "width": float(width), "kernels": tuple(kernels)})


class ZooPlugin(ABC):
    """A family of networks. Import torch only inside `build`: listing has to be instant.

    Class attributes:
        name: the family's name, unique among installed plugins.
        api_version: the API_VERSION that the plugin was written for.
        options: the fields of Inflation that the family understands, besides none.
    """

    name: ClassVar[str]
    api_version: ClassVar[int] = API_VERSION
    options: ClassVar[frozenset[str]] = frozenset({"width"})

    @abstractmethod
    def architectures(self) -> Sequence[ArchitectureInfo]:
        """The named architectures, without importing torch."""

    def matches(self, arch: str) -> bool:
        """Whether the family builds `arch`; override for patterns such as shakeshake26_2x<W>d."""
        return any(info.name == arch for info in self.architectures())

    def info(self, arch: str) -> ArchitectureInfo | None:
        """The static description of `arch`; None for one that only the pattern matches."""
        return next((info for info in self.architectures() if info.name == arch), None)

    @abstractmethod
    def build(
        self,
        arch: str,
        inflation: Inflation,
        *,
        num_classes: int,
        in_chans: int,
        img_size: int,
        pretrained: bool | Path = False,
    ) -> nn.Module:
        """The inflated network. `forward` returns logits [B, num_classes].

        A network that trains with an auxiliary head leaves its logits, in training mode, in the attribute `aux_logits`
        and names the head's modules in `training_only`, a tuple of prefixes; they are not part of a candidate. A
        DropPath with an attribute `depth_share` in (0, 1] gets that share of the recipe's drop_path.

        Args:
            pretrained: True for the published weights, a path for those of a safetensors file. Only asked for with an
                inflation that changes nothing: the registry widens the plain network itself.
        """

    def renamed(self, model: nn.Module) -> Mapping[str, str]:
        """Layers of an inflated `model` that stand, in the plain network, under another name: name -> plain name.

        With pretrained weights, layers that are neither here nor in the plain network are new: read with zeros.
        """
        return {}

    @abstractmethod
    def gate_groups(self, model: nn.Module) -> Mapping[str, Sequence[int]]:
        """Name of each Conv2d or Linear whose inputs are gated -> sizes of its input groups, summing to its inputs."""


class TimmFamily(ZooPlugin):
    """A family of timm's networks: its names may carry timm's tag of the weights, such as resnet50.a1_in1k."""

    def matches(self, arch: str) -> bool:
        """Whether the family builds `arch`, whatever its tag."""
        return super().matches(arch.partition(".")[0])

    def info(self, arch: str) -> ArchitectureInfo | None:
        """The static description of `arch`, whatever its tag."""
        return super().info(arch.partition(".")[0])
