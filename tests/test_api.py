"""The public API as a notebook uses it."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import pgnas_cli as pgnas


def test_a_supernet_in_memory() -> None:
    torch.manual_seed(0)
    net = pgnas.inflate("resnet18", width=0.1, num_classes=10, in_chans=1, img_size=8)
    assert isinstance(net, pgnas.Supernet)
    assert isinstance(net, torch.nn.Module)

    name, gate = next(iter(net.gates.items()))
    assert name.startswith("layer1.0")
    assert gate.p.shape == (len(gate.sizes),)
    assert sum(gate.sizes) == gate.channels

    cost = net.cost()
    assert cost.params == sum(p.numel() for p in net.weight_parameters())
    assert 0 < cost.expected_params < cost.params
    assert 0 < cost.expected_macs < cost.macs

    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(net(x), net(x))  # training: noise per example
    net.eval()
    assert torch.equal(net(x), net(x))  # evaluation: everything kept

    kl = net.kl(l2=80.0, num_examples=1.28e6, prior_drop=0.5)
    torch.autograd.backward(kl + cost.expected_params)
    assert kl.shape == ()
    assert gate.drop_logit.grad is not None

    g = torch.Generator().manual_seed(1)
    cand = net.sample(generator=g, strategy="posterior")
    assert isinstance(cand, pgnas.Candidate)
    assert set(cand.masks) == set(net.gates)
    assert len(cand.id) == 16
    uniform = net.sample(generator=g, strategy="uniform", drop_prob=0.4)
    assert uniform.params < cand.params < cost.params
    assert net.sample(generator=torch.Generator().manual_seed(1)) == cand

    with net.masked(cand):
        logits = net(x)
    small = net.compact(cand)
    assert cand.params == sum(p.numel() for p in small.parameters())
    torch.testing.assert_close(small(x), logits, rtol=0, atol=1e-5 * max(1.0, float(logits.detach().abs().max())))
    assert not torch.equal(logits, net(x))


def test_a_run_from_inflation_to_a_verified_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pgnas_cli.recipe import Recipe
    from pgnas_cli.recipe_file import override

    monkeypatch.delenv("PGNAS_RUN", raising=False)
    monkeypatch.chdir(tmp_path)
    made = pgnas.create_run(pgnas.inflate("shakeshake26_2x2d", in_chans=1, img_size=8), "runs/x")
    run = pgnas.open_run("runs/x")
    assert (run.path, pgnas.open_run().path) == (made.path, made.path)
    trained = pgnas.train(run, override(Recipe(), {"schedule.epochs": 1, "data.limit_train": 200}), device="cpu")
    sampled = pgnas.sample(run, n=3)
    ranked = pgnas.rank(run, device="cpu")
    exported = pgnas.export(run)
    assert (trained["epochs"], sampled["candidates"], ranked["candidates"]) == (1, 3, 3)
    assert exported["candidate"] == ranked["winner"]
    small = pgnas.load("runs/x/export")
    assert not small.training
    assert sum(p.numel() for p in small.parameters()) == ranked["params"]
    assert small(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert pgnas.verify("runs/x/export").passed


def test_export_is_a_package_that_can_be_called() -> None:
    from pgnas_cli.export.export import export

    assert isinstance(pgnas.export, types.ModuleType)
    assert callable(pgnas.export)
    assert pgnas.export.export.export is export
    with pytest.raises(TypeError, match="run"):
        pgnas.export()


def test_every_public_name_is_there_and_no_other() -> None:
    assert dir(pgnas) == sorted(pgnas.__all__)
    for name in pgnas.__all__:
        assert callable(getattr(pgnas, name)), name
    with pytest.raises(AttributeError, match="no attribute 'inflat'"):
        pgnas.inflat  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, json, pgnas_cli; dir(pgnas_cli); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "timm", "numpy", "safetensors", "rich", "typer"} & set(json.loads(done.stdout))
