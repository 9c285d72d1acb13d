"""The embedded digits, the in-memory path, the splits, and which data set is meant."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pgnas_cli.errors import DataError, UsageError
from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.data import find_data, open_data
from pgnas_cli.training.memory import ArrayStore, Epoch, Normalisation, crop_flip, cutout, resize, to_channels
from pgnas_cli.training.splits import apportion, cut_selection, limit_examples

IDENTITY = Normalisation((0.0,), (1 / 255,))  # x = pixel
CPU = torch.device("cpu")


def whole(batches):
    """All batches in one: (x, y)."""
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def same(first, second):
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def one_epoch(store, n, key="k", batch_size=None):
    epoch = Epoch(torch.arange(n), torch.arange(n), key)
    return whole(store.train_batches(epoch, batch_size or n, CPU, IDENTITY))


def test_digits_have_a_fixed_stratified_split():
    data = open_data("digits", seed=3)
    assert (data.num_train, data.num_selection, data.num_test) == (1197, 200, 400)
    assert (data.num_classes, data.in_chans, data.img_size) == (10, 1, 8)
    share = {}
    for split in ("train", "selection", "test"):
        y = whole(data.eval_batches(split, 500))[1]
        share[split] = torch.bincount(y, minlength=10) / len(y)
    assert (share["train"] - share["selection"]).abs().max() < 0.01
    assert (share["train"] - share["test"]).abs().max() < 0.01
    other = open_data("digits", seed=4)
    for split in ("train", "selection", "test"):  # another seed shuffles, it moves nothing between splits
        rows = [whole(d.eval_batches(split, 500))[0].flatten(1).sum(1).sort().values for d in (data, other)]
        assert torch.allclose(*rows)


def test_digits_index_arrays_cover_every_image_once_and_carry_their_source():
    import pgnas_cli.training.sources as sources

    with np.load(sources.__file__.replace("sources.py", "digits.npz")) as stored:
        index = np.concatenate([stored[part] for part in ("train", "selection", "test")])
        assert stored["images"].shape == (1797, 8, 8)
        assert stored["images"].dtype == np.uint8
        assert stored["images"].max() == 16
        assert "Alpaydin" in str(stored["attribution"])
        assert "CC BY 4.0" in str(stored["attribution"])
    assert sorted(index) == list(range(1797))


def test_digits_need_neither_timm_nor_torchvision():
    code = (
        "import sys; sys.modules['timm'] = sys.modules['torchvision'] = None\n"
        "from pgnas_cli.training.data import open_data\n"
        "print(next(iter(open_data('digits').train_batches(0, 4)))[0].shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "torch.Size([4, 1, 8, 8])\n", run.stderr


def test_an_epoch_depends_on_seed_and_number_only():
    first, second = open_data("digits", seed=1), open_data("digits", seed=1)
    wanted = list(first.train_batches(3, 64))
    list(second.train_batches(0, 64))
    next(iter(second.train_batches(1, 64)))
    list(second.eval_batches("test", 64))
    torch.rand(7)
    assert same(wanted, second.train_batches(3, 64))
    assert not same(wanted, second.train_batches(4, 64))
    assert not same(wanted, open_data("digits", seed=2).train_batches(3, 64))


def test_batch_size_changes_neither_order_nor_augmentation():
    data = open_data("digits", augmentation=Augmentation(cutout=2))
    small, large = [whole(data.train_batches(2, size)) for size in (16, 100)]
    n = min(len(small[0]), len(large[0]))
    assert n >= 1100
    assert torch.equal(small[0][:n], large[0][:n])
    assert torch.equal(small[1][:n], large[1][:n])


def test_the_global_generator_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = open_data("digits", limit_train=100)
    list(data.train_batches(0, 10))
    data.probe(3)
    assert torch.equal(before, torch.get_rng_state())


def test_every_example_has_its_own_shift():
    images = torch.zeros(900, 1, 16, 16, dtype=torch.uint8)
    images[:, 0, 8, 8] = 255
    x, _ = one_epoch(ArrayStore(images, torch.zeros(900, dtype=torch.int64), flip=False), 900)
    places = x.flatten(1).argmax(1)
    shifts = torch.stack([places // 16 - 8, places % 16 - 8], 1)  # pad is 2: 25 shifts, each 1 in 25
    kinds, counts = shifts.unique(dim=0, return_counts=True)
    assert len(kinds) == 25
    assert kinds.abs().max() == 2
    assert counts.min() > 15  # 36 expected, standard deviation 5.9
    assert counts.max() < 60


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_images_are_mirrored_where_that_is_sensible(flip):
    images = torch.zeros(400, 1, 16, 16, dtype=torch.uint8)
    images[..., :8] = 200
    x, _ = one_epoch(ArrayStore(images, torch.zeros(400, dtype=torch.int64), flip=flip), 400)
    mirrored = (x[..., 8:].sum((1, 2, 3)) > x[..., :8].sum((1, 2, 3))).sum()
    assert 150 < mirrored < 250 if flip else mirrored == 0


@pytest.mark.parametrize(("channels", "size", "pad"), [(1, 8, 1), (3, 12, 4)])
def test_crop_flip_equals_pad_and_slice(channels, size, pad):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, channels, size, size), generator=generator, dtype=torch.uint8)
    dy, dx = [torch.randint(0, 2 * pad + 1, (20,), generator=generator) for _ in range(2)]
    flip = torch.rand(20, generator=generator) < 0.5
    got = crop_flip(images, dy, dx, flip, pad)
    assert got.dtype == torch.uint8
    for b in range(20):
        padded = torch.zeros(channels, size + 2 * pad, size + 2 * pad, dtype=torch.uint8)
        padded[:, pad : pad + size, pad : pad + size] = images[b]
        wanted = padded[:, dy[b] : dy[b] + size, dx[b] : dx[b] + size]
        assert torch.equal(got[b], wanted.flip(-1) if flip[b] else wanted)


def test_cutout_zeroes_a_clipped_square_around_each_centre():
    x = cutout(torch.ones(3, 2, 6, 6), torch.tensor([0, 3, 5]), torch.tensor([0, 2, 5]), 3)
    holes = (x == 0).sum((2, 3))
    assert holes.tolist() == [[4, 4], [9, 9], [4, 4]]
    assert (x[1, :, 2:5, 1:4] == 0).all()


def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one():
    data = open_data("digits", limit_train=25)
    sizes = {size: [len(x) for x, _ in data.train_batches(0, size)] for size in (10, 25, 26, 1)}
    assert sizes == {10: [10, 10], 25: [25], 26: [25], 1: [1] * 25}
    assert all(data.num_train_batches(size) == len(found) for size, found in sizes.items())


def test_a_lone_training_example_is_refused():
    data = open_data("digits", limit_train=11)
    with pytest.raises(DataError, match="BatchNorm needs two"):
        data.train_batches(0, 4, world_size=10)
    with pytest.raises(UsageError, match="batch size of 0"):
        data.train_batches(0, 0)


def test_processes_share_an_epoch_out_between_them():
    data = open_data("digits", limit_train=103)
    x, y = whole(data.train_batches(5, 103))
    shares = [whole(data.train_batches(5, 8, rank=rank, world_size=4)) for rank in range(4)]
    assert [len(s[0]) for s in shares] == [24] * 4
    for rank, (x_share, y_share) in enumerate(shares):
        assert torch.equal(x_share, x[rank::4][:24])
        assert torch.equal(y_share, y[rank::4][:24])


def test_statistics_normalise_the_training_part():
    data = open_data("digits", limit_train=300)
    x, _ = whole(data.eval_batches("train", 77))
    assert x.dtype == torch.float32
    assert abs(x.mean()) < 1e-4
    assert abs(x.std() - 1) < 1e-3
    pixels = (x * data.std[0] + data.mean[0]) * 255
    assert (pixels - pixels.round()).abs().max() < 1e-3
    assert pixels.min().round() == 0
    assert pixels.max().round() == 255


def test_statistics_are_per_channel_and_survive_a_constant_one():
    images = torch.zeros(5, 3, 4, 4, dtype=torch.uint8)
    images[:, 1] = 51
    images[:, 2, :2] = 255
    norm = ArrayStore(images, torch.zeros(5, dtype=torch.int64), flip=False).statistics(torch.arange(5), chunk=2)
    assert norm.mean == (0.0, 0.2, 0.5)
    assert norm.std == (round(1 / 255, 6), round(1 / 255, 6), 0.5)


def test_evaluation_is_plain_repeatable_and_its_limits_are_nested():
    data = open_data("digits")
    x, y = whole(data.eval_batches("selection", 64))
    assert y.dtype == torch.int64
    assert len(x) == 200
    x_few, y_few = whole(data.eval_batches("selection", 7, limit=30))
    assert torch.equal(x_few, x[:30])
    assert torch.equal(y_few, y[:30])
    assert len(y_few.unique()) >= 8  # a fair sample, not the first class
    assert torch.equal(data.probe(5), x[:5])
    with pytest.raises(UsageError, match="limit of 0"):
        data.eval_batches("test", 8, limit=0)


def test_describe_is_json_and_its_checksum_tells_selections_apart():
    described = open_data("digits", seed=1).describe()
    assert json.loads(json.dumps(described)) == described
    assert described["spec"] == "digits"
    assert described["num_train"] == 1197
    assert described["seed"] == 1
    assert len(described["sha256"]["selection"]) == 64
    fewer = open_data("digits", seed=1, limit_train=50).describe()["sha256"]
    assert {name for name in fewer if fewer[name] == described["sha256"][name]} == {"selection", "test"}
    assert described["sha256"]["selection"] != open_data("digits", seed=2).describe()["sha256"]["selection"]


def test_digits_can_be_scaled_and_given_three_channels():
    data = open_data("digits", img_size=16, in_chans=3)
    x = data.probe(2)
    assert x.shape == (2, 3, 16, 16)
    assert torch.equal(x[:, 0], x[:, 2])
    assert len(data.mean) == 3


def test_resize_and_to_channels_keep_known_values():
    flat = torch.full((3, 1, 5, 5), 77, dtype=torch.uint8)
    assert torch.equal(resize(flat, 9, chunk=2), torch.full((3, 1, 9, 9), 77, dtype=torch.uint8))
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    assert to_channels(colours[:, :, None, None], 1).flatten().tolist() == [76, 150, 29, 255]


@pytest.mark.parametrize(
    ("counts", "total", "least"), [([5, 5, 5], 7, 0), ([100, 1, 1], 3, 1), ([9, 0, 3, 500], 60, 1)]
)
def test_apportion_shares_exactly_and_in_proportion(counts, total, least):
    counts = np.array(counts)
    given = apportion(counts, total, least)
    assert given.sum() == total
    assert (given <= counts).all()
    assert (given[counts > 0] >= least).all()
    if not least:
        assert (abs(given - counts * total / counts.sum()) < 1).all()


def test_the_selection_cut_is_stratified_seeded_and_complete():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 30)
    train, chosen = cut_selection(labels, 0.1, 7, "x")
    assert torch.bincount(labels[chosen]).tolist() == [10, 5, 3]
    assert torch.cat([train, chosen]).sort().values.equal(torch.arange(180))
    assert cut_selection(labels, 0.1, 7, "x")[1].equal(chosen)
    assert not cut_selection(labels, 0.1, 8, "x")[1].equal(chosen)
    assert len(cut_selection(labels, 36, 7, "x")[1]) == 36  # a count


@pytest.mark.parametrize("selection", [180, 1000, 0.001])
def test_an_impossible_selection_is_refused(selection):
    with pytest.raises(DataError, match="cannot be cut from 180"):
        cut_selection(torch.arange(180) % 3, selection, 0, "x")


def test_a_selection_that_empties_a_class_is_refused():
    labels = torch.tensor([0] * 50 + [1])
    with pytest.raises(DataError, match=r"leaves class 1 \(1 images\)"):
        cut_selection(labels, 49, 0, "x")


def test_limit_train_is_stratified_and_keeps_every_class():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2])
    index = torch.arange(0, 151, 1)
    kept = limit_examples(labels, index, 31, 0, "x")
    assert torch.bincount(labels[kept]).tolist() == [20, 10, 1]
    assert limit_examples(labels, index, 500, 0, "x").equal(index)
    with pytest.raises(DataError, match="fewer than its 3 classes"):
        limit_examples(labels, index, 2, 0, "x")


def test_limit_train_leaves_selection_and_test_alone():
    full, few = open_data("digits"), open_data("digits", limit_train=40)
    assert few.num_train == 40
    assert len(whole(few.train_batches(0, 40))[1].unique()) == 10
    for split in ("selection", "test"):
        assert torch.equal(whole(full.eval_batches(split, 200))[1], whole(few.eval_batches(split, 200))[1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"limit_train": 0}, UsageError, "limit-train 0"),
        ({"limit_train": 9}, DataError, "fewer than its 10 classes"),
        ({"selection": 0}, UsageError, "selection of 0"),
        ({"selection": 1.5}, UsageError, "selection of 1.5"),
        ({"selection": 0.2}, UsageError, "its own selection split"),
        ({"img_size": 0}, UsageError, "img-size 0"),
        ({"in_chans": 2}, UsageError, "2 input channels"),
        ({"workers": -1}, UsageError, "-1 workers"),
        ({"augmentation": Augmentation(cutout=9)}, UsageError, "cutout is 9, and the images of digits have 8 pixels"),
    ],
)
def test_bad_options_are_one_line_with_a_hint(options, error, message):
    with pytest.raises(error, match=message) as caught:
        open_data("digits", **options)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("digit", "; did you mean digits?"),
        ("torch/fashionmnist", "; did you mean torch/fashion_mnist"),
        ("cifar10", "; did you mean torch/cifar10?"),
        ("fashion-mnist", "; did you mean torch/fashion_mnist?"),
        ("mnis", "; did you mean torch/mnist, torch/"),
        ("???", ""),
    ],
)
def test_an_unknown_spec_names_its_neighbours(spec, near):
    """As they are to be typed."""
    with pytest.raises(UsageError, match="unknown data set") as caught:
        open_data(spec)
    assert str(caught.value).startswith(f"unknown data set {spec!r}{near}")
    assert near or str(caught.value).endswith("'???'")
    assert "folder:DIR" in caught.value.hint


def test_find_data_takes_the_option_then_the_recipe_then_the_environment(tmp_path):
    environ = {"PGNAS_DATA": "torch/mnist"}
    assert find_data("digits", "torch/cifar10", environ, tmp_path) == ("digits", None)
    assert find_data(None, "torch/cifar10", environ, tmp_path) == ("torch/cifar10", None)
    assert find_data(None, None, environ, tmp_path) == ("torch/mnist", None)


def test_find_data_falls_back_to_the_local_folder_then_to_digits(tmp_path):
    spec, notice = find_data(None, None, {}, tmp_path)
    assert spec == "digits"
    assert "using the embedded digits (8x8, 1797 images)" in notice
    (tmp_path / "data" / "train").mkdir(parents=True)
    assert find_data(None, None, {}, tmp_path)[0] == "digits"
    (tmp_path / "data" / "val").mkdir()
    spec, notice = find_data(None, None, {}, tmp_path)
    assert spec == "folder:./data"
    assert "./data" in notice


def test_a_plain_folder_is_taken_as_one(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    assert find_data("photos", None, {}, tmp_path) == ("folder:photos", None)
    assert find_data("digits", None, {}, tmp_path) == ("digits", None)
    assert find_data("nowhere", None, {}, tmp_path) == ("nowhere", None)
