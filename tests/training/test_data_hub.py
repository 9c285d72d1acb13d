"""Sets of the Hub: their splits, labels and rows, with a stand-in for timm's reader of them, and with the reader."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from image_sets import whole, write_folder
from PIL import Image
from timm.data.readers.reader import Reader

from pgnas_cli.errors import DataError
from pgnas_cli.training.data import open_data
from pgnas_cli.training.images import HubImages


@pytest.mark.parametrize(("splits", "sizes"), [("train validation", (22, 2, 24)), ("train val test", (24, 24, 24))])
def test_hugging_face_sets_are_split_like_folders(tmp_path, monkeypatch, splits, sizes):
    """Stands in for timm's reader of the package `datasets`, which the tests do not install."""
    from timm.data.dataset import ImageDataset

    write_folder(tmp_path, splits.split())

    def create_dataset(spec, root, split):
        if not (tmp_path / split).is_dir():
            raise ValueError(f"unknown split {split}")
        dataset = ImageDataset(str(tmp_path / split))
        dataset.reader.label_key = "label"
        dataset.reader.iter_targets = lambda: (label for _, label in dataset.reader.samples)
        return dataset

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create_dataset)
    data = open_data("hfds/user/set", img_size=16, workers=0)
    assert (data.num_train, data.num_selection, data.num_test) == sizes
    assert data.class_names == ["cat", "dog", "owl"]
    assert next(iter(data.train_batches(0, 5)))[0].shape == (5, 3, 16, 16)
    (tmp_path / "train").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="unknown split train"):
        open_data("hfds/user/set")


class Rows(Reader):
    """Stands in for timm's reader of the package `datasets`: a row is {"image": {"bytes", "path"}, ...}."""

    label_key = "label"

    def __init__(self, rows):
        self.rows = rows
        self.class_to_idx = {}

    def __getitem__(self, index):
        image = self.rows[index]["image"]
        if not image["bytes"]:
            assert image["path"]
        return io.BytesIO(image["bytes"]), self.rows[index]["label"]

    def __len__(self):
        return len(self.rows)

    def _filename(self, index, basename=False, absolute=False):
        return self.rows[index]["image"]["path"]

    def iter_targets(self):
        return (row[self.label_key] for row in self.rows)


def open_rows(monkeypatch, rows):
    def create_dataset(spec, root, split):
        if split == "test":
            raise ValueError(f"unknown split {split}")
        return SimpleNamespace(reader=Rows(rows))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", create_dataset)
    return open_data("hfds/user/set", img_size=16, workers=0, selection=4)


def png(value):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(stream, "png")
    return {"bytes": stream.getvalue(), "path": None}


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("cat", "holds 'cat' in row 3"),
        (None, "holds None in row 3"),
        ([1], r"holds \[1\] in row 3"),
        (1.0, "holds 1.0 in row 3"),
    ],
)
def test_labels_of_the_hub_that_are_not_class_numbers_are_refused(monkeypatch, label, message):
    rows = [{"image": png(i), "label": i % 2} for i in range(8)]
    assert open_rows(monkeypatch, rows).class_names == ["0", "1"]
    rows[3]["label"] = label
    with pytest.raises(DataError, match=f"the column 'label' of train {message}, not the number of a class") as caught:
        open_rows(monkeypatch, rows)
    assert caught.value.hint


def test_a_set_of_the_hub_without_a_label_column_is_refused(monkeypatch):
    with pytest.raises(DataError, match="train has no column 'label'"):
        open_rows(monkeypatch, [{"image": png(i), "fine_label": i % 2} for i in range(8)])


@pytest.mark.parametrize("empty", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}])
def test_a_row_of_the_hub_without_an_image_is_one_that_cannot_be_read(monkeypatch, empty):
    data = open_rows(monkeypatch, [{"image": empty if i == 3 else png(i), "label": i % 2} for i in range(12)])
    assert data.corrupt == {"train": ["number 3"]}
    assert data.num_test == 11
    images = HubImages(SimpleNamespace(reader=Rows([{"image": empty}])))
    images._sizes = [None]
    assert (images.name(0), images.identity(0)) == ("number 0", "?")


def test_a_set_that_the_package_datasets_reads(tmp_path):
    """A parquet file with its images inside, as the Hub has them; skipped where the extra `data` is not installed."""
    pytest.importorskip("datasets")
    import pyarrow as pa
    from pyarrow import parquet

    write_folder(tmp_path / "files")
    label = {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}
    features = {"image": {"_type": "Image"}, "label": label}

    def open_written(extra: bytes):
        for split, part in (("train", "train"), ("validation", "val")):
            files = sorted((tmp_path / "files" / part).rglob("*.png"))
            images = [{"bytes": f.read_bytes() + extra * (part == "val"), "path": None} for f in files]
            table = pa.table({"image": images, "label": [label["names"].index(f.parent.name) for f in files]})
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
            (tmp_path / "set").mkdir(exist_ok=True)
            parquet.write_table(table, tmp_path / "set" / f"{split}-00000-of-00001.parquet")
        return open_data(f"hfds/{tmp_path}/set", data_dir=tmp_path / "cache", img_size=16, workers=0)

    data = open_written(b"")
    assert (data.num_train, data.num_selection, data.num_test) == (22, 2, 24)
    assert data.class_names == label["names"]
    x, y = whole(data.eval_batches("test", 7))
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    assert torch.equal((x * std + mean).sum((2, 3)).argmax(1), y)
    before, after = data.describe()["sha256"], open_written(b"more").describe()["sha256"]
    assert {split for split in before if before[split] != after[split]} == {"test"}


@pytest.mark.parametrize("spec", ["hfds/user/set", "hfids/set", "tfds/set"])
def test_missing_packages_are_one_line(spec, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="needs the package") as caught:
        open_data(spec)
    assert "pip install" in caught.value.hint


def test_streams_are_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(DataError, match="is a stream") as caught:
        open_data("hfids/set")
    assert "folder:DIR" in caught.value.hint
