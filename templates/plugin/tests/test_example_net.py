"""example_net is listed, has the listed size, and a candidate computes the same masked and as a compact network."""

from __future__ import annotations

import pytest
import torch

import pgnas_cli as pgnas
from pgnas_cli import registry
from pgnas_cli.plugin import Inflation
from pgnas_cli.supernet.proof import prove

LISTED = [info for status, info in registry.architectures() if status.name == "example_net"]


def test_the_plugin_keeps_the_contract() -> None:
    assert [status.problem for status in registry.plugins() if status.name == "example_net"] == [""]
    assert LISTED


@pytest.mark.parametrize("info", LISTED, ids=lambda info: info.name)
def test_the_listed_size_is_the_size_of_the_network(info) -> None:
    assert registry.plain_cost(registry.make_spec(info.name, Inflation())) == (info.params, info.macs)


@pytest.mark.parametrize("width", [1.0, 1.5])
@pytest.mark.parametrize("info", LISTED, ids=lambda info: info.name)
def test_masked_is_compact(info, width: float) -> None:
    net = pgnas.inflate(info.name, width=width)
    images = torch.randn(2, info.in_chans, info.img_size, info.img_size)
    assert net(images).shape == (2, info.num_classes)
    proof = prove(net, candidates=5)
    assert proof.passed, proof
