"""Tar shards as webdataset and timm write them, tiny."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pgnas_cli.errors import DataError, PgnasError
from pgnas_cli.recipe import Data as RecipeData
from pgnas_cli.recipe import Recipe
from pgnas_cli.training.data import open_data
from pgnas_cli.training.setup import with_data
from pgnas_cli.training.tars import members as find_members
from pgnas_cli.training.tars import read_at

SIZE = 12


def picture(label: int, number: int) -> bytes:
    """A PNG whose first pixel tells its label and number."""
    pixels = np.random.default_rng([label, number]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[0, 0] = (10 * label, number, 7)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def members(numbers: range, classes: int = 3, folder: str = "") -> list[tuple[str, bytes]]:
    found = []
    for number in numbers:
        label = number % classes
        found += [(f"{folder}{number:04}.cls", str(label).encode()), (f"{folder}{number:04}.json", b"{}")]
        found += [(f"{folder}{number:04}.png", picture(label, number))]
    return found


def write_shards(root: Path, train: int = 24, val: int = 6) -> Path:
    half = train // 2
    write_tar(root / "set-train-0000.tar", members(range(half)))
    write_tar(root / "set-train-0001.tar", members(range(half, train)), format=tarfile.PAX_FORMAT)
    write_tar(root / "set-validation-0000.tar", members(range(100, 100 + val), folder="deep/er/"))
    return root


def pixels_of(data, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The first pixel (label, number) of every image, and its label."""
    batches = list(data.eval_batches(split, 5))
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return ((x[:, :, 0, 0] * std + mean) * 255).round().long(), y


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_every_image_keeps_its_label_and_is_there_once(tmp_path: Path, memory_limit: int) -> None:
    write_shards(tmp_path)
    data = open_data(f"wds/{tmp_path}", img_size=SIZE, selection=6, workers=0, memory_limit=memory_limit)
    assert (data.num_train, data.num_selection, data.num_test) == (18, 6, 6)
    assert data.class_names == ["0", "1", "2"]
    assert data.describe()["in_memory"] == bool(memory_limit)
    numbers = []
    for split in ("train", "selection", "test"):
        first, labels = pixels_of(data, split)
        assert torch.equal(first[:, 0], 10 * labels)
        numbers += first[:, 1].tolist()
    assert sorted(numbers) == [*range(24), *range(100, 106)]


def test_shards_are_read_like_the_same_images_in_folders(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    for split, numbers in (("train", range(24)), ("val", range(100, 106))):
        for number in sorted(numbers, key=lambda n: (n % 3, n)):
            path = tmp_path / "files" / split / str(number % 3) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number % 3, number))
    # an image's place in the set differs, so compare what becomes of each image in evaluation
    shards, files = [open_data(s, img_size=16, workers=0) for s in (f"wds/{tmp_path}/shards", f"{tmp_path}/files")]
    found = [{tuple(x.flatten().tolist()) for x, _ in d.eval_batches("test", 1)} for d in (shards, files)]
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_epochs_of_shards_repeat_for_any_workers_and_can_be_entered(tmp_path: Path) -> None:
    write_shards(tmp_path)
    epochs = [open_data(f"wds/{tmp_path}", img_size=16, workers=w) for w in (0, 2)]
    x, x_again = [torch.cat([x for x, _ in data.train_batches(2, 5)]) for data in epochs]
    assert torch.equal(x, x_again)
    assert torch.equal(torch.cat([x for x, _ in epochs[0].train_batches(2, 5, start=2)]), x[10:])


def test_splits_come_from_the_folders_or_the_info_file(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_tar(tmp_path / "folders" / split / "00.tar", members(range(6)))
    data = open_data("wds/folders", data_dir=tmp_path, workers=0)
    assert (data.num_train, data.num_selection, data.num_test) == (6, 6, 6)
    for name in ("a", "b"):
        write_tar(tmp_path / "info" / f"{name}.tar", members(range(30 if name == "a" else 6)))
    splits = {"train": {"filenames": ["a.tar"], "num_samples": 30}, "validation": {"filenames": ["b.tar"]}}
    info = tmp_path / "info" / "_info.json"
    info.write_text(json.dumps({"splits": splits, "class_names": ["cat", "dog", "owl"]}))
    # timm: `wds/NAME --data-dir DIR`, where NAME is a mere name
    data = open_data("wds/any-name", data_dir=tmp_path / "info", workers=0)
    assert (data.num_train, data.num_selection, data.num_test) == (27, 3, 6)
    assert data.class_names == ["cat", "dog", "owl"]
    splits["train"]["num_samples"] = 31
    info.write_text(json.dumps({"splits": splits}))
    with pytest.raises(DataError, match="30 images in train, its info file says 31"):
        open_data(f"wds/{tmp_path}/info")


def test_class_names_stand_in_a_text_file(tmp_path: Path) -> None:
    (write_shards(tmp_path) / "classes.txt").write_text("tench\ngold fish\nshark\nray\n")
    assert open_data(f"wds/{tmp_path}").class_names == ["tench", "gold fish", "shark", "ray"]
    (tmp_path / "classes.txt").write_text("tench\ngold fish\n")
    with pytest.raises(DataError, match="labels from 0 to 2, where there are 2 classes"):
        open_data(f"wds/{tmp_path}")


def test_the_checksum_changes_with_a_member(tmp_path: Path) -> None:
    before = open_data(f"wds/{write_shards(tmp_path)}", workers=0).describe()["sha256"]
    assert open_data(f"wds/{tmp_path}", workers=0).describe()["sha256"] == before
    changed = members(range(100, 106), folder="deep/er/")
    changed[2] = (changed[2][0], changed[2][1] + b"\0")
    write_tar(tmp_path / "set-validation-0000.tar", changed)
    after = open_data(f"wds/{tmp_path}", workers=0).describe()["sha256"]
    assert {split for split in before if before[split] != after[split]} == {"test"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_the_standard_library_finds_them(tmp_path: Path, form: int) -> None:
    names = ["a.cls", "./b.jpg", "c/" + "d" * 90 + "/" + "e" * 60 + ".png", "empty.txt", "z.jpg"]
    names += ["f" * 300 + ".jpg", "über.png"] if form != tarfile.USTAR_FORMAT else []
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 700 * number if name != "empty.txt" else 0, 1.5e9 + 0.25
            tar.addfile(member, io.BytesIO(bytes([number]) * member.size))
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE):
                other = tarfile.TarInfo(f"other{number}")
                other.type, other.linkname = kind, "a.cls"
                tar.addfile(other)
    with tarfile.open(path) as tar:
        wanted = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert [tuple(member) for member in find_members(path)] == wanted
    assert len(wanted) == len(names)
    with path.open("rb", buffering=0) as file:
        assert read_at(file, *wanted[1][1:]) == b"\1" * 700


def _header(size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a.png with its own size field and a sound checksum."""
    head = b"a.png".ljust(124, b"\0") + size.ljust(12, b"\0") + b"0" * 12 + b" " * 8 + kind
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def _pax(record: bytes) -> bytes:
    return _header(b"%011o" % len(record), b"x") + record.ljust(512, b"\0") + _header(b"00000000000")


@pytest.mark.parametrize(
    "content",
    [
        _header(b"-0000001000"),
        _header(b"-0000001000", b"5"),
        _header(b"0_0"),
        _header(b"\xff" * 12),
        _pax(b"13 size=-512\n"),
        _pax(b"11 size= 0\n"),
        _pax(b"0 a=b\n"),
        _pax(b"-3 a=b\n"),
        _pax(b"99 a=b\n"),
        _pax(b"5 ab\n"),
        _pax(b"5\n"),
        _pax(b"6 a=bc"),
    ],
)
def test_numbers_that_lead_nowhere_are_damage(tmp_path: Path, content: bytes) -> None:
    """A negative size led back to the header before, for ever."""
    path = tmp_path / "x.tar"
    path.write_bytes(content + bytes(1024))
    with pytest.raises(DataError, match=r"x\.tar is damaged"):
        list(islice(find_members(path), 10))
    path.write_bytes(_pax(b"6 a=b\n") + bytes(1024))
    assert [tuple(member) for member in find_members(path)] == [("a.png", 1536, 0)]


def test_damage_anywhere_in_a_shard_is_never_a_traceback(tmp_path: Path) -> None:
    """Any byte of the headers may be wrong: the members are found, or a DataError names the file."""
    path = tmp_path / "train-0.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("a.cls")
        member.size, member.mtime = 1, 1.25
        tar.addfile(member, io.BytesIO(b"1"))
    content = path.read_bytes()
    refused = []
    # every byte of the pax record "14 mtime=1.25" at 512 becomes many others; those of the headers one other
    changes = [(place, change) for place in range(512, 526) for change in range(1, 256, 5)]
    for place, change in [*changes, *((place, 0x55) for place in range(0, 1600, 7))]:
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
        try:
            list(find_members(path))
        except DataError as error:
            refused.append(str(error))
    assert len(refused) > 300
    assert all(str(path) in message for message in refused)


def _gzip(root: Path) -> None:
    write_tar(root / "train-0.tar.gz", [])


def _cut(root: Path) -> None:
    path = write_shards(root) / "set-train-0001.tar"
    path.write_bytes(path.read_bytes()[:6000])


def _no_tar(root: Path) -> None:
    (write_shards(root) / "set-train-0002.tar").write_bytes(b"x" * 2000)


def _compressed(root: Path) -> None:
    with tarfile.open(write_shards(root) / "set-train-0002.tar", "w:gz"):
        pass


def _only_train(root: Path) -> None:
    write_tar(root / "train-0.tar", members(range(6)))


def _info(**described):
    return lambda root: (write_shards(root) / "_info.json").write_text(json.dumps(described))


def _splits(filenames, **more):
    val = {"filenames": ["set-validation-0000.tar"]}
    return _info(splits={"train": {"filenames": filenames, **more}, "val": val})


def _added(*extra: tuple[str, bytes]):
    return lambda root: write_tar(write_shards(root) / "set-train-0002.tar", list(extra))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no shards of a train, val or test split"),
        (_gzip, "train-0.tar.gz is compressed"),
        (_cut, "set-train-0001.tar is cut short"),
        (_no_tar, "set-train-0002.tar is damaged, or compressed"),
        (_compressed, "set-train-0002.tar is damaged, or compressed"),
        (_only_train, "holds no shards of val or test"),
        (_added(("a.cls", b"cat"), ("a.png", b"")), "a.cls holds b'cat', not the number of a class"),
        (_added(("a.png", b"")), "sample a lacks a.cls"),
        (_added(("a.cls", b"1")), "sample a lacks an image"),
        (_added(("a.cls", b"1"), ("a.png", b""), ("a.png", b"")), "holds two samples a"),
        (_added(("a.cls", b"-1"), ("a.png", b"")), "labels from -1 to 2"),
        (
            _added(("a.cls", b"%d" % 10**9), ("a.png", b"")),
            r"the .cls of .*set-train-0002.tar/a.png says class 1000000000, where there are 25 training images",
        ),
        (lambda root: (write_shards(root) / "classes.txt").write_bytes(b"caf\xe9\nb\n"), "classes.txt is not UTF-8"),
        (lambda root: (root / "_info.json").write_bytes(b'{"a": "\xe9"}'), "_info.json is not JSON"),
        (_splits(5), "_info.json: the filenames of train are not a list"),
        (_splits(None), "the filenames of train are not a list"),
        (_splits([1]), "the filenames of train are not a list"),
        (_splits("set-train-0000.tar"), "the filenames of train are not a list"),
        (_splits(["set-train-0000.tar"], num_samples="12"), "num_samples of train is '12', not a whole number"),
        (_splits(["../x.tar"]), r"'\.\./x.tar', a shard of train, is not a name below"),
        (_splits(["/x.tar"]), "'/x.tar', a shard of train, is not a name below"),
        (_splits(["a\0b.tar"]), "a shard of train, is not a name below"),
        (_splits(["set-train-0000.tar"] * 2), "names the shard 'set-train-0000.tar' of train twice"),
        (
            _info(splits={"train": {"filenames": []}, "training": {"filenames": []}}),
            "describes the train split twice, the second time as 'training'",
        ),
        (_info(class_names=5), "class_names is not a list of names"),
        (_info(class_names="abc"), "class_names is not a list of names"),
        (_info(class_names={"cat": 0}), "class_names is not a list of names"),
        (lambda root: (root / "_info.json").write_text("{"), "_info.json is not JSON"),
        (lambda root: (root / "_info.json").write_text('{"splits": ["train"]}'), "_info.json does not describe splits"),
        (
            lambda root: (root / "_info.json").write_text('{"splits": {"train": {"filenames": ["x.tar"]}}}'),
            "no .*x.tar, which the info file names",
        ),
    ],
)
def test_shards_that_cannot_be_used_are_one_line(tmp_path: Path, make, message: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        open_data(f"wds/{tmp_path}", workers=0)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_run_finds_its_shards_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "shards")
    for given, wanted in (("wds/shards", f"wds/{tmp_path}/shards"), ("wds/elsewhere", "wds/elsewhere")):
        assert with_data(Recipe(data=RecipeData(name=given)), print).data.name == wanted
    recipe = with_data(Recipe(data=RecipeData(name="wds/shards", dir=".")), print)
    assert (recipe.data.name, recipe.data.dir) == ("wds/shards", str(tmp_path))
    assert open_data(recipe.data.name, data_dir=Path(recipe.data.dir)).num_test == 6


@pytest.mark.parametrize("rest", ["pipe:curl x", "https://host/train-{0..9}.tar", "s3://b/x.tar", "/nowhere/train.tar"])
def test_streams_and_missing_folders_are_refused(rest: str) -> None:
    with pytest.raises(PgnasError, match=r"is a stream|is not a folder") as caught:
        open_data(f"wds/{rest}")
    assert "tar files" in caught.value.hint or "wds/DIR" in caught.value.hint
