"""A supernet adapted to the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pgnas_cli import inflate, restore
from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors
from pgnas_cli.training.budget import uniform_rate
from pgnas_cli.training.setup import open_run_data, prepare

TINY = "shakeshake26_2x2d"


def make_run(folder: Path, arch: str = TINY, explicit: tuple[str, ...] = (), **sizes: int) -> RunDirectory:
    net = inflate(arch, **sizes)
    return restore.create_run(net, folder / "run", options={"explicit": list(explicit)})


def digits(**changes: object) -> Recipe:
    return override(load_recipe("posterior"), {"data.name": "digits", **changes})


def stored(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_tensors(run.supernet_path, hint="")[0]


def test_a_supernet_that_fits_is_loaded_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path, in_chans=1, img_size=8, num_classes=10, explicit=("in_chans", "img_size"))
    prepared = prepare(run, digits(), open_run_data(run, digits()))
    assert prepared.notices == ()
    assert prepared.recipe.adapted == Recipe().adapted
    own, old = prepared.net.state_dict(), stored(run)
    gates = {name for name in own if name.endswith("drop_logit")}
    assert own.keys() == old.keys()
    assert all(torch.equal(own[name], old[name]) for name in own.keys() - gates)


def test_other_channels_and_size_keep_every_weight_and_sum_the_stem(tmp_path: Path) -> None:
    run = make_run(tmp_path)  # 3 x 32 x 32, 10 classes
    prepared = prepare(run, digits(), open_run_data(run, digits()))
    own, old = prepared.net.state_dict(), stored(run)
    summed = {name for name in own if own[name].shape != old[name].shape}
    assert summed == {"backbone.stem.weight"}
    torch.testing.assert_close(own["backbone.stem.weight"], old["backbone.stem.weight"].sum(1, keepdim=True))
    assert all(torch.equal(own[name], old[name]) for name in own.keys() - summed if "drop_logit" not in name)
    assert prepared.net.input_size == (1, 8, 8)
    assert prepared.recipe.adapted.in_chans == 1
    assert (prepared.recipe.adapted.img_size, prepared.recipe.adapted.num_classes) == (8, None)
    (line,) = prepared.notices
    assert "channels 3 -> 1" in line
    assert "image size 32 -> 8" in line
    assert "classes" not in line
    assert "anew" not in line


def test_other_classes_start_the_classifier_anew_and_say_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, in_chans=1, img_size=8, num_classes=7, explicit=("in_chans", "img_size"))
    prepared = prepare(run, digits(), open_run_data(run, digits()))
    own, old = prepared.net.state_dict(), stored(run)
    anew = {name for name in own if own[name].shape != old[name].shape}
    assert anew == {"backbone.fc.weight", "backbone.fc.bias"}
    assert own["backbone.fc.weight"].shape[0] == 10
    assert all(torch.equal(own[name], old[name]) for name in own.keys() - anew if "drop_logit" not in name)
    assert prepared.notices == ("adapted the supernet to the data: classes 7 -> 10; starting anew: fc.weight, fc.bias",)
    assert prepared.recipe.adapted.num_classes == 10


def test_another_stem_starts_anew_and_the_rest_is_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path, "resnet18", width=0.05, num_classes=10)  # its stem is the 7x7 of large images
    prepared = prepare(run, digits(), open_run_data(run, digits()))
    own, old = prepared.net.state_dict(), stored(run)
    assert own["backbone.conv1.weight"].shape == (64, 1, 3, 3)
    assert all(torch.equal(own[n], old[n]) for n in own if "drop_logit" not in n and n != "backbone.conv1.weight")
    assert prepared.notices[0].endswith("; starting anew: conv1.weight")


@pytest.mark.parametrize("explicit", [(), ("in_chans", "img_size")])
def test_sizes_named_at_inflation_scale_the_images_instead(tmp_path: Path, explicit: tuple[str, ...]) -> None:
    run = make_run(tmp_path, in_chans=3, img_size=16, explicit=explicit)
    data = open_run_data(run, digits())
    assert (data.in_chans, data.img_size) == ((3, 16) if explicit else (1, 8))
    assert bool(prepare(run, digits(), data).notices) == (not explicit)


# ---- gates ----


def test_the_gates_get_what_the_recipe_asks_for(tmp_path: Path) -> None:
    run = make_run(tmp_path, in_chans=1, img_size=8, explicit=("in_chans", "img_size"))
    recipe = digits(**{"objective.initial_drop": 0.3, "objective.temperature": 0.7, "objective.granularity": "channel"})
    net = prepare(run, recipe, open_run_data(run, recipe)).net
    for gate in net.gates.values():
        assert gate.temperature == 0.7
        assert len(gate.sizes) == gate.channels
        torch.testing.assert_close(gate.p, torch.full_like(gate.p, 0.3))


@pytest.mark.parametrize(("text", "rate"), [("0.25", 0.25), ("0", 0.0), ("0.5x", None), ("4000", None)])
def test_fixed_drop_is_a_rate_or_the_rate_of_a_size(tmp_path: Path, text: str, rate: float | None) -> None:
    run = make_run(tmp_path, in_chans=1, img_size=8, explicit=("in_chans", "img_size"))
    prepared = prepare(run, digits(), open_run_data(run, digits()), fixed_drop=text)
    if rate is None:
        size = 4000 if text == "4000" else 0.5 * prepared.net.kept_cost().params
        rate = uniform_rate(prepared.net, size)
        assert float(prepared.net.cost().expected_params) == pytest.approx(size, rel=1e-4)
    assert prepared.recipe.objective.fixed_drop == rate
    assert {gate.fixed_drop for gate in prepared.net.gates.values()} == {rate}


@pytest.mark.parametrize("text", ["1", "-0.1", "nan", "half", "99x"])
def test_another_fixed_drop_is_refused(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path, in_chans=1, img_size=8, explicit=("in_chans", "img_size"))
    with pytest.raises(UsageError) as error:
        prepare(run, digits(), open_run_data(run, digits()), fixed_drop=text)
    assert error.value.hint
