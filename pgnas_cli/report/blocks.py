"""How a network's operations fall into stages and blocks: by their names and by who reads whom.

A network written for timm, torchvision or by hand keeps its repeated parts in a container: `layer1.0`, `layer1.1`, or
`denseblock1.denselayer1`. Such a container is found by three signs: its children are named alike up to a number, each
holds several operations, and each reads the one before it. Its children are the blocks; what lies in no such container
is a block of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class _Module:
    """A module that holds operations. first: place in the order of execution; members: the operations' places."""

    path: str
    children: dict[str, _Module] = field(default_factory=dict)
    members: list[int] = field(default_factory=list)


def stages(names: Sequence[str], ancestors: Mapping[int, int]) -> list[tuple[str, list[str]]]:
    """The stages of a network and the blocks of each, as module paths, in the order of execution.

    Args:
        names: module path of every operation, in the order of execution.
        ancestors: place in `names` -> bits of the places whose values it reads, directly or not.

    Returns:
        (path of the stage, paths of its blocks). Every operation lies in exactly one block; a stage that is one block
        has its path.
    """
    root = _Module("")
    for place, name in enumerate(names):
        module = root
        module.members.append(place)
        parts = name.split(".")
        for depth, part in enumerate(parts, 1):
            module = module.children.setdefault(part, _Module(".".join(parts[:depth])))
            module.members.append(place)
    return list(_stages(root, ancestors))


def _stages(module: _Module, ancestors: Mapping[int, int]) -> Iterator[tuple[str, list[str]]]:
    for child in module.children.values():
        inner = _descended(child)
        if _holds_stages(inner, ancestors):
            yield from _stages(inner, ancestors)
        elif _is_sequence(inner, ancestors):
            yield inner.path, [block.path for block in inner.children.values()]
        else:
            yield child.path, [child.path]


def _descended(module: _Module) -> _Module:
    """The module, or the only thing that it holds, and so on; not a single operation."""
    while len(module.children) == 1 and len(module.members) > 1:
        (module,) = module.children.values()
    return module


def _holds_stages(module: _Module, ancestors: Mapping[int, int]) -> bool:
    """Whether sequences lie deeper inside: in any child, or, where the module is a sequence, in half of them."""
    holding = sum(_has_sequence(_descended(child), ancestors) for child in module.children.values())
    return 2 * holding >= len(module.children) if _is_sequence(module, ancestors) else holding > 0


def _has_sequence(module: _Module, ancestors: Mapping[int, int]) -> bool:
    return _is_sequence(module, ancestors) or any(
        _has_sequence(child, ancestors) for child in module.children.values() if len(child.members) > 1
    )


def _is_sequence(module: _Module, ancestors: Mapping[int, int]) -> bool:
    children = list(module.children.values())
    if len(children) < 2 or any(len(child.members) < 2 for child in children):
        return False
    if len({re.sub(r"\d+", "", name) for name in module.children}) > 1:
        return False
    bits = [sum(1 << place for place in child.members) for child in children]
    return all(
        any(ancestors[place] & bits[index] for place in children[index + 1].members)
        for index in range(len(children) - 1)
    )
