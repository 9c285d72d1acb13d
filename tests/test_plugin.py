"""The plugin contract: inflations, model descriptions and what the base class does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgnas_cli.errors import UsageError
from pgnas_cli.plugin import API_VERSION, ArchitectureInfo, BuildSpec, Inflation, ZooPlugin

SPEC = BuildSpec("net", "family", Inflation(1.7, (1, 3), 2, 12, True, "small"), 10, 3, 32, 5, "family 1.0")

counts = st.none() | st.integers(1, 99)
inflations = st.builds(
    Inflation,
    width=st.floats(1e-3, 999),
    kernels=st.lists(st.sampled_from([1, 3, 5, 7, 9]), unique=True).map(tuple),
    branches=counts,
    growth=counts,
    surrogate_pools=st.booleans(),
    stem=st.sampled_from(["auto", "small", "backbone"]),
)
specs = st.builds(
    BuildSpec,
    arch=st.text(),
    plugin=st.text(),
    inflation=inflations,
    num_classes=st.integers(1, 10_000_000),
    in_chans=st.integers(1, 10_000),
    img_size=st.integers(1, 100_000),
    seed=st.integers(0, 2**62),
    distribution=st.text(),
)


class Plugin(ZooPlugin):
    name = "family"

    def architectures(self) -> Sequence[ArchitectureInfo]:
        return [ArchitectureInfo("one", 1, 2), ArchitectureInfo("two", 3, 4)]

    def build(self, arch: str, inflation: Inflation, **_: Any) -> Any:
        raise AssertionError("not asked for")

    def gate_groups(self, model: Any) -> Mapping[str, Sequence[int]]:
        return {}


def test_what_a_plugin_need_not_write() -> None:
    plugin = Plugin()
    assert plugin.api_version == API_VERSION
    assert plugin.options == {"width"}
    assert plugin.matches("two")
    assert not plugin.matches("three")
    assert plugin.info("two") == ArchitectureInfo("two", 3, 4)
    assert plugin.info("three") is None


@pytest.mark.parametrize("method", ["architectures", "build", "gate_groups"])
def test_what_a_plugin_has_to_write(method: str) -> None:
    incomplete = type("Incomplete", (Plugin,), {method: getattr(ZooPlugin, method)})
    with pytest.raises(TypeError, match=method):
        incomplete()


@settings(max_examples=50, deadline=None)
@given(specs)
def test_a_description_survives_json(spec: BuildSpec) -> None:
    found = BuildSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert found == spec
    assert found.distribution == spec.distribution
    assert isinstance(found.inflation.kernels, tuple)


def test_the_distribution_is_no_part_of_the_structure() -> None:
    document = SPEC.to_json()
    assert BuildSpec.from_json(document | {"distribution": "family 2.0"}) == SPEC
    assert BuildSpec.from_json(document | {"seed": 6}) != SPEC


@pytest.mark.parametrize("key", list(SPEC.to_json()))
@pytest.mark.parametrize("value", [None, [], 1.5, True], ids=repr)
def test_a_description_with_a_bad_or_missing_value_is_refused(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"key '{key}' should be"):
        BuildSpec.from_json(SPEC.to_json() | {key: value})
    with pytest.raises(UsageError, match=f"key '{key}' should be"):
        BuildSpec.from_json({name: given for name, given in SPEC.to_json().items() if name != key})


@pytest.mark.parametrize("key", ["num_classes", "in_chans", "img_size"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_a_description_with_a_size_out_of_range_is_refused(key: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{key} is {value}"):
        BuildSpec.from_json(SPEC.to_json() | {key: value})


def test_a_description_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown key 'extra'"):
        BuildSpec.from_json(SPEC.to_json() | {"extra": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": "1.7"}, "wrong type"),
        ({"width": True}, "wrong type"),
        ({"width": 0}, "above 0"),
        ({"kernels": "13"}, "wrong type"),
        ({"kernels": [1, 3.0]}, "wrong type"),
        ({"kernels": [3, 3]}, "named twice"),
        ({"branches": 2.5}, "wrong type"),
        ({"growth": True}, "wrong type"),
        ({"surrogate_pools": 1}, "wrong type"),
        ({"stem": None}, "wrong type"),
        ({"stem": "big"}, "stem 'big'"),
        ({"extra": 1}, "should have the keys"),
    ],
)
def test_a_description_with_a_bad_inflation_is_refused(changes: dict, message: str) -> None:
    document = SPEC.to_json()
    with pytest.raises(UsageError, match=message):
        BuildSpec.from_json(document | {"inflation": document["inflation"] | changes})


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf, 1000.0])
def test_a_width_has_to_be_positive_and_finite(width: float) -> None:
    with pytest.raises(UsageError, match="width"):
        Inflation(width=width)


def test_changed_names_what_is_asked_for() -> None:
    assert Inflation().changed() == []
    assert Inflation(width=1.5, kernels=(3,), stem="small").changed() == ["width", "kernels", "stem"]
