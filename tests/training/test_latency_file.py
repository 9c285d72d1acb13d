"""train/latency.json: what is written comes back, and what is damaged or of another network is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli import inflate
from pgnas_cli.errors import RunError
from pgnas_cli.supernet.latency import LatencyTable
from pgnas_cli.supernet.latency_measure import measure_table
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.training.latency_table import TABLE, read_table, write_table


@pytest.fixture(scope="module")
def net() -> Supernet:
    return inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)


@pytest.fixture(scope="module")
def table(net: Supernet) -> LatencyTable:
    return measure_table(net, runs=1)


def test_a_table_comes_back_as_it_was(tmp_path: Path, net: Supernet, table: LatencyTable) -> None:
    path = tmp_path / TABLE
    write_table(path, table)
    assert read_table(path, net) == table
    environment = json.loads(path.read_text())["environment"]
    assert set(environment) == {"device", "machine", "threads", "torch", "batch", "channels_last"}


def test_a_missing_table_says_how_to_get_one(tmp_path: Path, net: Supernet) -> None:
    with pytest.raises(RunError, match="is missing") as error:
        read_table(tmp_path / TABLE, net)
    assert "pgnas train --force" in error.value.hint


def first(document: dict[str, Any], key: str) -> str:
    return next(iter(document[key]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("constant"), "'constant' is missing"),
        (lambda d: d.update(format=9), "format 9"),
        (lambda d: d["environment"].pop("threads"), "'threads' is missing"),
        (lambda d: d["environment"].update(channels_last=1), "'channels_last' should be bool"),
        (lambda d: d["calibration"].clear(), "'calibration' should hold"),
        (lambda d: d["calibration"][-1].update(seconds=0.0), "'calibration' should hold"),
        (lambda d: d["calibration"][-1].pop("sum"), "'calibration' should hold"),
        (lambda d: d["whole"].update(sum=-1.0), "'whole' should hold"),
        (lambda d: d["operations"].update({first(d, "operations"): "conv"}), "which entries lacks"),
        (lambda d: d["gathers"].update(nothing=first(d, "entries")), "gathers.nothing is no operation"),
        (lambda d: d.update(operations={}), "operations lacks"),
        (lambda d: d["entries"].update({first(d, "entries"): 3}), "should be an object"),
        (lambda d: d["entries"][first(d, "entries")].update(groups=[]), "'groups' should be a list"),
        (lambda d: d["entries"][first(d, "entries")].update(outputs=[4, 1]), "'outputs' should ascend"),
        (lambda d: d["entries"][first(d, "entries")]["seconds"].append(1.0), "'seconds' should be"),
        (lambda d: d["entries"][first(d, "entries")]["seconds"].__setitem__(0, -1.0), "'seconds' should be"),
    ],
)
def test_a_damaged_table_names_the_key(tmp_path: Path, net: Supernet, table: LatencyTable, change, message) -> None:
    path = tmp_path / TABLE
    write_table(path, table)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(RunError, match=message) as error:
        read_table(path, net)
    assert str(path) in str(error.value)


def test_the_table_of_another_network_is_refused(tmp_path: Path, table: LatencyTable) -> None:
    write_table(tmp_path / TABLE, table)
    with pytest.raises(RunError, match="of this supernet"):
        read_table(tmp_path / TABLE, inflate("resnet18", in_chans=1, img_size=8, seed=0))
