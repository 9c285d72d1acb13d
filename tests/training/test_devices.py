"""Which devices --device, --gpus and --procs name."""

from __future__ import annotations

import pytest
import torch

from pgnas_cli.errors import UsageError
from pgnas_cli.training.devices import Devices, choose_device, choose_devices


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("gpus", "mps", "arguments", "chosen"),
    [
        (0, False, {}, "cpu"),
        (2, True, {}, "cuda:0"),
        (0, True, {}, "mps"),
        (2, False, {"device": "cpu"}, "cpu"),
        (2, False, {"device": "cuda:1"}, "cuda:1"),
        (2, False, {"gpus": "1"}, "cuda:1"),
        (0, True, {"device": "mps"}, "mps"),
    ],
)
def test_the_chosen_device(monkeypatch, gpus: int, mps: bool, arguments: dict[str, str], chosen: str) -> None:
    pretend(monkeypatch, gpus, mps)
    assert choose_device(**arguments) == torch.device(chosen)


@pytest.mark.parametrize(
    ("gpus", "arguments", "named"),
    [
        (0, {"gpus": "7"}, "--gpus 7"),
        (2, {"gpus": "0,2"}, "GPU 2"),
        (2, {"gpus": "-1"}, "GPU -1"),
        (1, {"gpus": "all"}, "all"),
        (1, {"gpus": ""}, "--gpus"),
        (0, {"device": "cuda"}, "--device cuda"),
        (1, {"device": "cuda:1"}, "--device cuda:1"),
        (1, {"device": "mps"}, "--device mps"),
        (1, {"device": "meta"}, "--device meta"),
        (1, {"device": "toaster"}, "toaster"),
    ],
)
def test_a_device_that_is_not_there_is_refused_naming_those_that_are(monkeypatch, gpus, arguments, named) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(UsageError) as error:
        choose_device(**arguments)
    assert named in str(error.value)
    here = ", ".join([*(f"cuda:{index}" for index in range(gpus)), "cpu"])
    assert f"devices here: {here}" in error.value.hint


def test_several_gpus_are_refused_with_the_first(monkeypatch) -> None:
    pretend(monkeypatch, 2)
    with pytest.raises(UsageError) as error:
        choose_device(gpus="1,0")
    assert error.value.hint == "--gpus 1"


@pytest.mark.parametrize(
    ("arguments", "kind", "indices"),
    [
        ({"gpus": "0,1,3"}, "cuda", (0, 1, 3)),
        ({"gpus": "0,0,1"}, "cuda", (0, 0, 1)),
        ({"gpus": "1,0", "procs": 2}, "cuda", (1, 0)),
        ({"device": "cpu", "procs": 3}, "cpu", (0, 1, 2)),
        ({"device": "cuda:1", "procs": 1}, "cuda", (1,)),
    ],
)
def test_one_process_for_each_device(monkeypatch, arguments, kind: str, indices: tuple[int, ...]) -> None:
    pretend(monkeypatch, 4)
    assert choose_devices(**arguments) == Devices(kind, indices)


@pytest.mark.parametrize(
    ("arguments", "named", "fix"),
    [
        ({"gpus": "0", "device": "cpu"}, "--gpus 0 and --device cpu contradict", "leave --device out"),
        ({"gpus": "0,1", "procs": 3}, "--gpus 0,1 and --procs 3", "leave --procs out"),
        ({"procs": 2}, "--procs 2 on cuda", "--gpus 0,1, or --device cpu --procs 2"),
    ],
)
def test_options_that_contradict_each_other_name_a_fix(monkeypatch, arguments, named: str, fix: str) -> None:
    pretend(monkeypatch, 4)
    with pytest.raises(UsageError) as error:
        choose_devices(**arguments)
    assert named in str(error.value)
    assert error.value.hint == fix
