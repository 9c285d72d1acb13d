"""What a configuration says of a network's structure, checked before anything is built from it.

The "pgnas" section of config.json and the argument `structure` of the timm architecture say the same things. Whoever
wrote them may be hostile: whatever they say is a value to be checked, and bounded before it decides a size or a loop.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgnas_cli import registry
from pgnas_cli.contract import ARCHITECTURE_NAME
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.artifact import DAMAGED, FORMAT, SEMANTICS
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.posterior.candidate import unpack
from pgnas_cli.strict_json import shown

LAYOUTS = ("gather", "dense")
MOST_LAYERS = 2**14
"""Masked layers: supnet-ei with its surrogates, which has most of the listed, has 329."""
MOST_CHANNELS = 2**22
"""Channels that all masks have together: an EfficientNet-L2 has 0.3 million."""
LONGEST_NAME = 200
"""Characters of an architecture's name: the longest of timm, with its tag, has 74."""
TRUST = "if you trust that plugin: load(..., trust_plugins=True), or --trust-plugins"


@dataclass(frozen=True)
class Structure:
    """How the compact network of an artifact is built again.

    Args:
        spec: how the backbone is built.
        sizes: masked layer -> number of its input channels, in the network's order.
        layout: "gather" or "dense".
        folded: the surrogates that were left out.
        fold_bn: whether BatchNorms were folded into the layers in front of them.
        kept: the masks, bit-packed; None where the document leaves them to pgnas.safetensors.
    """

    spec: BuildSpec
    sizes: Mapping[str, int]
    layout: str
    folded: tuple[str, ...] = ()
    fold_bn: bool = False
    kept: bytes | None = None

    @property
    def mask_bytes(self) -> int:
        """Length of the bit-packed masks."""
        return (sum(self.sizes.values()) + 7) // 8

    def masks(self, where: str, kept: bytes | None = None) -> dict[str, np.ndarray]:
        """The masks, layer name -> bool [K]: those of the document, or `kept` from elsewhere.

        Raises:
            RunError: there are none, they are of another length, or drop inputs of a layer that is folded away.
        """
        packed = self.kept if kept is None else kept
        if packed is None or len(packed) != self.mask_bytes:
            found = "none" if packed is None else f"{len(packed)} bytes"
            raise RunError(
                f"{where}: the masks of {sum(self.sizes.values())} channels take {self.mask_bytes} bytes, not {found}",
                DAMAGED,
            )
        if packed and packed[-1] & (1 << (-sum(self.sizes.values()) % 8)) - 1:
            raise RunError(f"{where}: the masks have bits behind their last channel", DAMAGED)
        masks = unpack(np.frombuffer(packed, np.uint8)[None], self.sizes)[0]
        if wrong := [name for name in self.folded if not masks[name].all()]:
            raise RunError(f"{where}: {shown(wrong[0])} is folded away, but its mask drops inputs", DAMAGED)
        return masks


def structure_of(document: object, where: str, *, trust_plugins: bool = True) -> Structure:
    """The structure that a "pgnas" section, or timm's `model_args["structure"]`, describes. Nothing is built.

    Keys that say nothing of the structure are passed over.

    Args:
        document: as read from JSON.
        where: file and key, for messages: "PATH/config.json: pgnas".
        trust_plugins: also take an installed plugin that is not pgnas's own.

    Raises:
        RunError: a key is missing, of a wrong kind or out of its bounds; the format is a newer one; the plugin is not
            installed, or is not trusted.
    """
    if not isinstance(document, dict):
        raise RunError(f"{where} should be an object, not {shown(document)}", DAMAGED)
    for key, newest in (("format", FORMAT), ("semantics", SEMANTICS)):
        version = document.get(key)
        if type(version) is not int or version < 1:
            raise RunError(f"{where}.{key} should be a whole number, not {shown(version)}", DAMAGED)
        if version > newest:
            raise RunError(
                f"{where} has {key} {shown(version)}, this version reads up to {newest}", "pip install --upgrade pgnas"
            )
    layout = document.get("layout")
    if not isinstance(layout, str) or layout not in LAYOUTS:
        raise RunError(f"{where}.layout should be {' or '.join(LAYOUTS)}, not {shown(layout)}", DAMAGED)
    fold_bn = document.get("fold_bn", False)
    if not isinstance(fold_bn, bool):
        raise RunError(f"{where}.fold_bn should be true or false, not {shown(fold_bn)}", DAMAGED)
    spec = _spec(document.get("backbone"), f"{where}.backbone", trust_plugins)
    sizes = _sizes(document.get("masks"), f"{where}.masks")
    folded = _folded(document, sizes, f"{where}.folded")
    return Structure(spec, sizes, layout, folded, fold_bn, _kept(document, f"{where}.kept"))


def _spec(document: object, where: str, trust_plugins: bool) -> BuildSpec:
    if not isinstance(document, dict):
        raise RunError(f"{where} should be an object, not {shown(document)}", DAMAGED)
    try:
        spec = BuildSpec.from_json(document)
    except UsageError as error:
        raise RunError(f"{where}: {error}", DAMAGED) from None
    if len(spec.arch) > LONGEST_NAME or not ARCHITECTURE_NAME.fullmatch(spec.arch):
        raise RunError(f"{where}.arch is {shown(spec.arch)}, which names no architecture", DAMAGED)
    known = [status for status in registry.plugins() if status.plugin is not None and status.plugin.name == spec.plugin]
    if not known:
        raise RunError(
            f"{where}.plugin: no installed plugin is called {shown(spec.plugin)}",
            f"install the package that brings it; then, {TRUST}" if spec.plugin.isidentifier() else DAMAGED,
        )
    if not trust_plugins and not known[0].own:
        raise RunError(
            f"{where}.plugin is {shown(spec.plugin)} of {known[0].distribution}, which is not pgnas's own", TRUST
        )
    return spec


def _sizes(document: object, where: str) -> dict[str, int]:
    if not isinstance(document, dict) or not all(type(n) is int and 0 < n <= MOST_CHANNELS for n in document.values()):
        raise RunError(f"{where} should map layers to channels, not {shown(document)}", DAMAGED)
    if len(document) > MOST_LAYERS or sum(document.values()) > MOST_CHANNELS:
        raise RunError(
            f"{where} has {len(document)} layers of {sum(document.values())} channels together, "
            f"at most {MOST_LAYERS} of {MOST_CHANNELS} are read",
            DAMAGED,
        )
    return dict(document)


def _folded(document: dict[str, Any], sizes: Mapping[str, int], where: str) -> tuple[str, ...]:
    """Masked layers, each named once; absent where there are none."""
    if "folded" not in document:
        return ()
    names = document["folded"]
    listed = isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    if not listed or len(set(names)) < len(names):
        raise RunError(f"{where} should be a list of different layers, not {shown(names)}", DAMAGED)
    if wrong := [name for name in names if name not in sizes]:
        raise RunError(f"{where} names {shown(wrong[0])}, which is not masked", DAMAGED)
    return tuple(names)


def _kept(document: dict[str, Any], where: str) -> bytes | None:
    if "kept" not in document:
        return None
    text = document["kept"]
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else _refuse(where, text)
    except (binascii.Error, ValueError):  # the latter of text that is not ASCII
        return _refuse(where, text)


def _refuse(where: str, value: object) -> bytes:
    raise RunError(f"{where} should be text in base64, not {shown(value)}", DAMAGED)
