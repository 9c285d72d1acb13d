"""Sets of image files: class folders, torchvision's folders, and sets of the Hub through the package `datasets`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgnas_cli.errors import DataError
from pgnas_cli.training.images import HubImages, Images, TimmImages, TorchImages
from pgnas_cli.training.source import Reading, Source, from_file_sets

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("val", "valid", "validation")
LAYOUT = "one folder per class: DIR/train/CLASS/*.jpg, DIR/val/CLASS/*.jpg and, if you have one, DIR/test"


def open_folder(root: Path, reading: Reading) -> Source:
    """Class folders under root/train and root/val and/or root/test.

    Raises:
        DataError: a folder is missing or empty, or the splits differ in their classes.
    """
    if not root.is_dir():
        raise DataError(f"folder:{root} does not exist (looked at {root.absolute()})", f"it needs {LAYOUT}")
    found = {
        part: next((root / n for n in names if (root / n).is_dir()), None)
        for part, names in (("train", TRAIN_FOLDERS), ("val", VAL_FOLDERS), ("test", ("test",)))
    }
    if found["train"] is None:
        raise DataError(f"{root} holds no folder train", f"it needs {LAYOUT}")
    if found["val"] is None and found["test"] is None:
        raise DataError(f"{root} holds train but neither val nor test", f"it needs {LAYOUT}")
    from timm.data.dataset_factory import create_dataset

    datasets = {}
    for part, folder in found.items():
        if folder is None:
            continue
        try:
            datasets[part] = create_dataset("", root=str(folder), search_split=False)
        except RuntimeError as error:
            raise DataError(f"no images in {folder}", f"it needs {LAYOUT}") from error
        samples = datasets[part].reader.samples
        _check_class_folders(folder, [Path(path) for path, _ in samples])
    classes = {part: list(dataset.reader.class_to_idx) for part, dataset in datasets.items()}
    for part, names in classes.items():
        _check_same_classes(root, part, classes["train"], names)
    labels = {part: [label for _, label in d.reader.samples] for part, d in datasets.items()}
    images = {part: TimmImages(dataset) for part, dataset in datasets.items()}
    return from_file_sets(images, labels, classes["train"], reading, root)


def open_hfds(spec: str, root: Path | None, reading: Reading) -> Source:
    """`hfds/NAME` as timm reads it, through the package `datasets` and its own cache (`root` if given).

    Raises:
        DataError: the package is missing, or the set or its splits cannot be read.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{spec} needs the package datasets", 'pip install "pgnas[data]"')
    from timm.data.dataset_factory import create_dataset

    found: dict[str, Any] = {}
    reason = ""
    for part, splits in (("train", ("train",)), ("val", ("validation", "valid", "val")), ("test", ("test",))):
        for split in splits:
            try:
                found[part] = create_dataset(spec, root=None if root is None else str(root), split=split)
                break
            except Exception as error:  # datasets raises its own kinds, and those of every backend
                reason = reason or " ".join(str(error).split())
    if "train" not in found or len(found) < 2:
        raise DataError(f"{spec}: needs the splits train and validation or test ({reason})", "check the set's page")
    labels = {part: _hub_labels(spec, part, dataset.reader) for part, dataset in found.items()}
    classes = list(found["train"].reader.class_to_idx) or [str(c) for c in sorted(set(labels["train"]))]
    images = {part: HubImages(dataset) for part, dataset in found.items()}
    return from_file_sets(images, labels, classes, reading, root)


def _hub_labels(spec: str, part: str, reader: Any) -> list[int]:
    """The labels of a split.

    Raises:
        DataError: its label column is missing, or does not hold whole numbers.
    """
    column = reader.label_key
    hint = "unpack it into class folders for folder:DIR"
    try:
        labels = list(reader.iter_targets())
    except (KeyError, TypeError) as error:  # timm's at a name that is not there
        raise DataError(f"{spec}: {part} has no column {column!r}, which would hold the classes", hint) from error
    for row, label in enumerate(labels):
        if not isinstance(label, int):
            said = f"{repr(label)[:60]} in row {row}"
            raise DataError(f"{spec}: the column {column!r} of {part} holds {said}, not the number of a class", hint)
    return labels


def refuse_stream(spec: str) -> None:
    """Raises the DataError for hfids/ and tfds/, which can only be read as streams."""
    package = {"hfids": "datasets", "tfds": "tensorflow_datasets"}[spec.partition("/")[0].lower()]
    if importlib.util.find_spec(package) is None:
        extra = "tensorflow-datasets" if package == "tensorflow_datasets" else '"pgnas[data]"'
        raise DataError(f"{spec} needs the package {package}", f"pip install {extra}; or unpack it for folder:DIR")
    raise DataError(
        f"{spec} is a stream without image numbers: a selection split cannot be cut from it",
        f"unpack it into folders and use --data folder:DIR, with {LAYOUT}",
    )


def open_torch_folders(name: str, root: Path, create: Callable[[str], Any], reading: Reading) -> Source:
    """torch/imagenet and torch/image_folder; `create` makes torchvision's set of root/train or root/val.

    Raises:
        DataError: a folder is missing, or the splits differ in their classes.
    """
    if not all((root / part).is_dir() for part in ("train", "val")):
        raise DataError(
            f"torch/{name}: {root.absolute()} does not hold train and val", f"name --data-dir DIR, with {LAYOUT}"
        )
    datasets = {part: create(part) for part in ("train", "val")}
    names = {p: [c if isinstance(c, str) else ", ".join(c) for c in d.classes] for p, d in datasets.items()}
    _check_same_classes(root, "val", names["train"], names["val"])
    labels = {part: dataset.targets for part, dataset in datasets.items()}
    images: dict[str, Images] = {part: TorchImages(dataset) for part, dataset in datasets.items()}
    return from_file_sets(images, labels, names["train"], reading, root)


def _check_class_folders(folder: Path, images: list[Path]) -> None:
    """Raises unless every image lies below a class folder, and every class folder holds an image."""
    filled = {path.relative_to(folder).parts[0] for path in images if path.parent != folder}
    loose = next((path for path in images if path.parent == folder), None)
    if loose is not None:
        raise DataError(f"{loose} lies outside a class folder", f"it needs {LAYOUT}")
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in filled:
            raise DataError(f"the class folder {path} holds no images", "fill it or remove it")


def _check_same_classes(root: Path, part: str, train: list[str], other: list[str]) -> None:
    if train == other:
        return
    extra, lacking = sorted(set(other) - set(train)), sorted(set(train) - set(other))
    say = [f"{part} has {extra[0]!r}, which train lacks"] if extra else []
    say += [f"{part} lacks {lacking[0]!r}"] if lacking else []
    raise DataError(
        f"{root}: train has {len(train)} classes and {part} has {len(other)}: {'; '.join(say) or 'other order'}",
        "every split needs the same class folders",
    )
