"""Training at a constant rate of 0: a plain network, or a whole supernet as a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgnas_cli import inflate, restore
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import load_tensors
from pgnas_cli.supernet import masked_pointwise
from pgnas_cli.supernet.gate_bank import GateBank
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.loop import train

RECIPE = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320, "schedule.epochs": 1}


def trained(folder: Path) -> dict[str, Tensor]:
    """The tensors that a training at a rate of 0 ends with."""
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    run = restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})
    record = train(run, override(load_recipe("posterior"), RECIPE), device="cpu", fixed_drop="0")
    return load_tensors(run.path / record["checkpoint"], hint="")[0]


def test_no_masks_are_drawn_and_nothing_else_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of a training with masks of ones, bit for bit without matrix products for 1x1 kernels."""
    monkeypatch.setattr(masked_pointwise, "is_pointwise", lambda *_: False)
    drawn: list[Any] = []
    draw, set_gating = GateBank.draw, Supernet.set_gating

    def counted(*arguments: Any, **options: Any) -> Any:
        drawn.append(draw(*arguments, **options))
        return drawn[-1]

    monkeypatch.setattr(GateBank, "draw", counted)
    without = trained(tmp_path / "without")
    assert drawn == []
    monkeypatch.setattr(Supernet, "set_gating", lambda net, enabled: set_gating(net, True))
    ones = trained(tmp_path / "ones")
    assert {float(keep.min()) for masks in drawn for keep in masks} == {1.0}
    assert without.keys() == ones.keys()
    assert all(torch.equal(tensor, ones[name]) for name, tensor in without.items())
