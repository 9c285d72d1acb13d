"""torchvision sets and folders, in real layouts with tiny synthetic content."""

import os
import pickle
import random
import struct

import numpy as np
import pytest
import torch
from image_sets import whole, write_folder
from PIL import Image

from pgnas_cli.errors import DataError, UsageError
from pgnas_cli.training import sources
from pgnas_cli.training.data import open_data
from pgnas_cli.training.seeds import seeded


def write_idx(path, array):
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def write_fashion(root, n_train=120, n_test=40, shape=(28, 28)):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        images[:, 0, 0] = labels  # so that a test can see that images keep their labels
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
    return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"))


def test_fashion_mnist_is_cut_from_its_idx_files(tmp_path):
    write_fashion(tmp_path)
    data = open_data("torch/fashion_mnist", data_dir=tmp_path, limit_train=50)
    assert (data.num_train, data.num_selection, data.num_test) == (50, 12, 40)
    assert (data.num_classes, data.in_chans, data.img_size) == (10, 1, 28)
    assert data.class_names[9] == "Ankle boot"
    assert data.describe()["in_memory"]
    for split in ("train", "selection", "test"):
        x, y = whole(data.eval_batches(split, 16))
        assert torch.equal(((x[:, 0, 0, 0] * data.std[0] + data.mean[0]) * 255).round().long(), y)
    seen = [whole(data.eval_batches(s, 64))[0].flatten(1) for s in ("train", "selection")]
    assert torch.cdist(*seen).min() > 1  # no image in both


def test_the_selection_is_the_same_whatever_limit_train_is(tmp_path):
    write_fashion(tmp_path)
    opened = [open_data("torch/fashion_mnist", data_dir=tmp_path, limit_train=n, selection=20) for n in (None, 30)]
    assert [d.num_train for d in opened] == [100, 30]
    assert len({d.describe()["sha256"]["selection"] for d in opened}) == 1
    other = open_data("torch/fashion_mnist", data_dir=tmp_path, selection=20, seed=1)
    assert other.describe()["sha256"]["selection"] != opened[0].describe()["sha256"]["selection"]


@pytest.mark.parametrize(("name", "flips"), [("fashion_mnist", True), ("mnist", False), ("cifar10", True)])
def test_only_sets_with_a_left_and_right_alike_are_mirrored(name, flips):
    assert sources.TORCH_SETS[name].flip == flips


def test_images_that_are_not_square_need_a_size(tmp_path):
    write_fashion(tmp_path, shape=(28, 20))
    with pytest.raises(DataError, match="28 x 20, not square") as caught:
        open_data("torch/fashion_mnist", data_dir=tmp_path)
    assert "--img-size 28" in caught.value.hint
    assert open_data("torch/fashion_mnist", data_dir=tmp_path, img_size=16).probe(2).shape == (2, 1, 16, 16)


def test_a_missing_set_says_where_and_what(tmp_path):
    with pytest.raises(DataError, match="FashionMNIST/raw") as caught:
        open_data("torch/fashion_mnist", data_dir=tmp_path)
    assert "train-images-idx3-ubyte" in caught.value.hint
    assert "download" not in str(caught.value) + caught.value.hint
    raw = write_fashion(tmp_path)
    for path in list(raw.iterdir()):
        path.rename(f"{path}.gz")
    with pytest.raises(DataError, match="no train-images-idx3-ubyte") as caught:
        open_data("torch/fashion_mnist", data_dir=tmp_path)
    assert "gunzip" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("t10k-images-idx3-ubyte", lambda b: b[:-100], "is damaged"),
        ("train-labels-idx1-ubyte", lambda b: b + b"\0", "is damaged"),
        ("train-images-idx3-ubyte", lambda b: b[:9], "is not an idx file"),
        ("train-images-idx3-ubyte", lambda b: b"\x1f\x8b" + b[2:], "is not an idx file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, name, damage, message):
    path = write_fashion(tmp_path) / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{name} {message}"):
        open_data("torch/fashion_mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("labels", "message"), [(np.arange(119) % 10, "120 images but 119 labels"), (np.arange(120) % 11, "0 to 10 but 10")]
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    write_idx(write_fashion(tmp_path) / "train-labels-idx1-ubyte", labels.astype(np.uint8))
    with pytest.raises(DataError, match=message):
        open_data("torch/fashion_mnist", data_dir=tmp_path)


def write_cifar(root, n=20):
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        labels = (np.arange(n) % 10).tolist()
        images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        images[:, :, 0, 0] = np.array(labels)[:, None] * 3 + np.arange(3)
        (base / name).write_bytes(pickle.dumps({"data": images.reshape(n, -1), "labels": labels}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"c{i}" for i in range(10)]}))


def test_cifar_keeps_channels_and_labels(tmp_path, monkeypatch):
    write_cifar(tmp_path)
    with pytest.raises(DataError, match="corrupted"):  # torchvision's md5 check, in one line
        open_data("torch/cifar10", data_dir=tmp_path)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: os.path.isfile(path))
    data = open_data("torch/cifar10", data_dir=tmp_path)
    assert (data.num_train, data.num_selection, data.num_test) == (90, 10, 20)
    assert (data.in_chans, data.img_size, data.class_names[2]) == (3, 32, "c2")
    x, y = whole(data.eval_batches("train", 32))
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    assert torch.equal(((x[:, :, 0, 0] * std + mean) * 255).round().long(), y[:, None] * 3 + torch.arange(3))


def test_a_set_too_large_for_memory_goes_through_the_loader(tmp_path):
    write_fashion(tmp_path)
    data = open_data("torch/fashion_mnist", data_dir=tmp_path, memory_limit=1000, workers=0)
    assert not data.describe()["in_memory"]
    assert data.img_size == 28
    x, y = whole(data.eval_batches("test", 16))
    assert x.shape == (40, 1, 28, 28)
    pixels = ((x[:, 0, 0, 0] * data.std[0] + data.mean[0]) * 255).round().long()
    assert torch.equal(pixels, y)
    assert len(whole(data.train_batches(0, 16))[0]) == 96


def test_val_is_the_test_split_of_a_folder_with_two(folder):
    data = open_data(f"folder:{folder}", img_size=32, workers=0, selection=6)
    assert (data.num_train, data.num_selection, data.num_test) == (18, 6, 24)
    assert data.class_names == ["cat", "dog", "owl"]
    assert (data.in_chans, data.img_size) == (3, 32)
    assert data.describe()["location"] == str(folder)
    for split in ("train", "selection", "test"):
        x, y = whole(data.eval_batches(split, 5))
        mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
        assert torch.equal((x * std + mean).sum((2, 3)).argmax(1), y)


def test_val_is_the_selection_split_of_a_folder_with_three(tmp_path):
    write_folder(tmp_path, ("train", "val", "test"), n=3)
    data = open_data(str(tmp_path), img_size=16, in_chans=1, workers=0)
    assert (data.num_train, data.num_selection, data.num_test) == (9, 9, 9)
    assert data.probe(4).shape == (4, 1, 16, 16)
    assert len(data.mean) == 1
    with pytest.raises(UsageError, match="its own selection split"):
        open_data(str(tmp_path), selection=0.2)


def test_torch_image_folder_reads_the_same_layout(folder):
    data = open_data("torch/image_folder", data_dir=folder, img_size=16, workers=0, selection=3)
    assert (data.num_train, data.num_selection, data.num_test) == (21, 3, 24)
    assert next(iter(data.train_batches(0, 4)))[0].shape == (4, 3, 16, 16)


def test_a_folder_reads_at_224_unless_told_otherwise(folder):
    assert open_data(f"folder:{folder}", workers=0).probe(1).shape == (1, 3, 224, 224)


def test_loader_epochs_depend_on_seed_and_number_only(folder):
    """Also with colour jitter (img_size above 64), and for any number of workers."""
    first = open_data(f"folder:{folder}", img_size=72, workers=0)
    second = open_data(f"folder:{folder}", img_size=72, workers=2)
    x, y = whole(first.train_batches(3, 6))
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    next(iter(second.train_batches(1, 6)))
    x_again, y_again = whole(second.train_batches(3, 6))
    assert torch.equal(x, x_again)
    assert torch.equal(y, y_again)
    x_other, _ = whole(first.train_batches(4, 6))
    assert not torch.equal(x, x_other)


def test_loader_epochs_leave_the_global_generators_alone(folder):
    data = open_data(f"folder:{folder}", img_size=72, workers=0)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(data.train_batches(0, 6))
    list(data.eval_batches("test", 6))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_loader_augments_each_image_by_itself(tmp_path):
    write_folder(tmp_path, n=8)
    for path in tmp_path.rglob("*.png"):
        pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    x, _ = next(iter(open_data(f"folder:{tmp_path}", img_size=24, workers=0).train_batches(0, 16)))
    assert len(x.flatten(1).unique(dim=0)) >= 12  # one image 16 times; few crops of so small an image may coincide


def test_seeded_gives_the_states_back_after_an_error():
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    with pytest.raises(KeyError), seeded("x"):
        raise KeyError
    assert torch.equal(torch.rand(1), wanted)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    def message(name):
        with pytest.raises(DataError) as caught:
            open_data(f"folder:{tmp_path / name}")
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        return str(caught.value)

    assert "does not exist" in message("nowhere")
    (tmp_path / "bare").mkdir()
    assert "holds no folder train" in message("bare")
    write_folder(tmp_path / "alone", ("train",), n=1)
    assert "neither val nor test" in message("alone")
    (tmp_path / "void" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "void" / "val").mkdir()
    assert "no images in" in message("void")
    write_folder(tmp_path / "hollow", n=1)
    (tmp_path / "hollow" / "train" / "yak").mkdir()
    assert f"{tmp_path / 'hollow' / 'train' / 'yak'} holds no images" in message("hollow")
    write_folder(tmp_path / "differ", ("train",), n=1)
    write_folder(tmp_path / "differ", ("val",), classes=("cat", "dog", "emu"), n=1)
    assert "val has 'emu', which train lacks; val lacks 'owl'" in message("differ")
    write_folder(tmp_path / "loose", n=1)
    (tmp_path / "loose" / "train" / "cat" / "0.png").rename(tmp_path / "loose" / "train" / "0.png")
    assert "0.png lies outside a class folder" in message("loose")
    write_folder(tmp_path / "one", classes=("cat",), n=3)
    assert "only one class, 'cat'" in message("one")
