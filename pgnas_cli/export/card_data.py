"""The front matter of a model card: what the Hub reads of it, written by huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pgnas_cli.export.markdown import plain
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.report import numbers

UNKNOWN = "unknown"
"""The Hub's word for a licence that nobody has named."""
TASK = "image-classification"
TAGS = (TASK, "timm", "pgnas", "neural-architecture-search", "pytorch")
DATASETS = {
    "torch/cifar10": "uoft-cs/cifar10",
    "torch/cifar100": "uoft-cs/cifar100",
    "torch/fashion_mnist": "zalando-datasets/fashion_mnist",
    "torch/imagenet": "ILSVRC/imagenet-1k",
    "torch/mnist": "ylecun/mnist",
}
"""Where torchvision's data sets are on the Hub."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


def card_data(
    spec: BuildSpec, section: Mapping[str, Any], *, repo_id: str | None = None, license: str | None = None
) -> ModelCardData:
    """The front matter of a network's card.

    Args:
        spec: how the backbone is built.
        section: the "pgnas" section of config.json.
        repo_id: the repository of the Hub, "user/repo" or "user/repo@revision".
        license: of the weights; the Hub's identifier.
    """
    dataset, base = hub_dataset(str(section["data"]["spec"])), section.get("start", {}).get("base_model")
    name = repo_id.partition("@")[0].rpartition("/")[2] if repo_id is not None else spec.arch
    result = test_result(section, dataset)
    return ModelCardData(
        license=plain(license).lower() if license else UNKNOWN,
        library_name="timm",
        pipeline_tag=TASK,
        tags=list(TAGS),
        datasets=[dataset] if dataset is not None else None,
        metrics=["accuracy"],
        base_model=base if base is not None and _HUB_NAME.fullmatch(base) else None,
        model_name=plain(name) if result is not None else None,
        eval_results=[result] if result is not None else None,
    )


def hub_dataset(spec: str) -> str | None:
    """The Hub's name of a data set, "hfds/NAME" or one of torchvision's; None where it has none, or none is known."""
    if spec.startswith("hfds/"):
        name = spec.removeprefix("hfds/")
        return name if _HUB_NAME.fullmatch(name) else None
    return DATASETS.get(spec)


def test_result(section: Mapping[str, Any], dataset: str | None) -> EvalResult | None:
    """The accuracy on the test split, a share, with its interval in the metric's name and arguments.

    A second metric for the ends of the interval would be read as a second accuracy.
    """
    found = section["test_accuracy"]
    if found is None:
        return None
    spec, confidence = plain(section["data"]["spec"]), section["confidence"]
    shown = numbers.proportion(found).text
    return EvalResult(
        task_type=TASK,
        task_name="Image Classification",
        dataset_type=dataset or spec,
        dataset_name=spec,
        dataset_split="test",
        metric_type="accuracy",
        metric_value=found["value"],
        metric_name=f"Accuracy: {shown}, {100 * confidence:g} % Wilson interval",
        metric_args={
            "interval": "Wilson",
            "confidence": confidence,
            **{key: found[key] for key in ("low", "high", "n")},
        },
    )
