"""`pgnas doctor` reports and never fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgnas_cli.commands import doctor

Run = Callable[..., subprocess.CompletedProcess[str]]


def by_item(stdout: str) -> dict[str, dict[str, Any]]:
    return {check["item"]: check for check in json.loads(stdout)["checks"]}


def image_folder(root: Path, *splits: str) -> Path:
    for split in splits:
        (root / split).mkdir(parents=True)
    return root


def test_the_table_has_a_row_for_everything(forked: Run) -> None:
    done = forked("doctor")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["area", "item", "state", "detail"]
    items = [row[1] for row in rows[2:]]
    for item in ("python", "pgnas", "torch", "torchvision", "timm", "typer", "safetensors", "huggingface-hub"):
        assert item in items
    for item in ("cpu", "mps", "$PGNAS_DATA", "./data", "digits", "./runs", "resnet", "shakeshake"):
        assert item in items


def test_json_with_data_a_broken_package_and_a_broken_plugin(pgnas: Run, tmp_path: Path) -> None:
    """One run of the program for all three: it imports torch."""
    information = tmp_path / "path" / "otherzoo-2.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: otherzoo\nVersion: 2.0\n")
    (information / "entry_points.txt").write_text("[pgnas.zoo]\nmammoth = otherzoo:Mammoth\n")
    broken = tmp_path / "path" / "timm"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('operator nms\\ndoes not exist')")
    image_folder(tmp_path / "data", "train", "val")
    chosen = image_folder(tmp_path / "chosen", "train", "val", "test")
    done = pgnas("doctor", "--json", env={"PYTHONPATH": str(broken.parent), "PGNAS_DATA": str(chosen)})
    assert done.returncode == 0
    assert json.loads(done.stdout)["ok"] is False
    checks = by_item(done.stdout)
    assert checks["timm"]["state"] == "broken"
    assert checks["timm"]["detail"].endswith("does not import: RuntimeError: operator nms")
    assert checks["torch"]["state"] == "ok"
    assert checks["./data"] == {
        "area": "data",
        "item": "./data",
        "state": "ok",
        "detail": f"{tmp_path / 'data'}: train, val",
    }
    assert checks["$PGNAS_DATA"]["detail"] == f"{chosen}: train, val, test"
    assert "timm" in done.stderr
    assert "Traceback" not in done.stderr
    assert checks["mammoth"]["state"] == "broken"
    assert checks["mammoth"]["detail"].startswith("otherzoo 2.0: ")
    assert "No module named 'otherzoo'" in checks["mammoth"]["detail"]
    assert checks["resnet"]["state"] == "ok"


def test_without_torch_it_still_reports(pgnas: Run, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: cannot open shared object file')")
    done = pgnas("doctor", "--json", env={"PYTHONPATH": str(tmp_path), "PGNAS_DATA": "nowhere"})
    assert done.returncode == 0
    checks = by_item(done.stdout)
    assert checks["torch"]["state"] == "broken"
    assert "libtorch.so" in checks["torch"]["detail"]
    assert checks["cpu"]["detail"].endswith("cores")
    assert "mps" not in checks
    assert checks["$PGNAS_DATA"]["state"] == "broken"
    assert checks["$PGNAS_DATA"]["detail"].endswith("nowhere has no train/ and no val/")
    assert checks["./data"]["state"] == "absent"


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", {"no-such-package": "no_such_package"})
    check = list(doctor._versions())[-1]
    assert (check.state, check.detail) == ("broken", "not installed: pip install no-such-package")


class FakeTorch:
    """The little of torch that the GPU rows read."""

    def __init__(self, gpus: int, warning: str = "", cuda: str | None = "13.0") -> None:
        self.version = type("Version", (), {"cuda": cuda, "hip": None})
        self.cuda = self
        self.gpus, self.warning = gpus, warning

    def is_available(self) -> bool:
        import warnings

        if self.warning:
            warnings.warn(self.warning, stacklevel=2)
        return self.gpus > 0

    def device_count(self) -> int:
        return self.gpus

    def get_device_properties(self, index: int) -> Any:
        return type("Properties", (), {"name": f"GPU {index}", "total_memory": 80 * 2**30})


@pytest.mark.parametrize(
    ("torch", "rows"),
    [
        (FakeTorch(2), [("cuda:0", "ok", "GPU 0, 80 GiB"), ("cuda:1", "ok", "GPU 1, 80 GiB")]),
        (FakeTorch(0), [("cuda", "absent", "no GPU (torch is built for CUDA 13.0)")]),
        (FakeTorch(0, "driver too old"), [("cuda", "broken", "UserWarning: driver too old")]),
        (FakeTorch(0, cuda=None), [("cuda", "absent", "this torch is built without CUDA")]),
    ],
)
def test_gpu_rows(torch: FakeTorch, rows: list[tuple[str, str, str]]) -> None:
    assert [(check.item, check.state, check.detail) for check in doctor._gpus(torch)] == rows


def test_little_disk_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 10**9, "total": 10**11})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    check = doctor._disk(tmp_path / "runs")
    assert (check.state, check.detail) == ("broken", f"1.00 GB free of 100 GB at {tmp_path}: less than 2.00 GB")


@pytest.mark.parametrize(
    ("named", "state", "detail"),
    [
        ("digits", "ok", "digits: looked for when training starts"),
        ("torch/fashion_mnist", "ok", "torch/fashion_mnist: looked for when training starts"),
        ("folder:photos", "broken", "photos has no train/ and no val/"),
    ],
)
def test_the_environment_may_name_any_data_set(monkeypatch, tmp_path, named: str, state: str, detail: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGNAS_DATA", named)
    found = next(check for check in doctor._data() if check.item == "$PGNAS_DATA")
    assert found.state == state
    assert found.detail.endswith(detail)
