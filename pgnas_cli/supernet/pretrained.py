"""Pretrained weights: timm's own, and those of a local file. Only safetensors are read, never a pickle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, adapt_input_conv, get_pretrained_cfg
from torch import Tensor, nn

from pgnas_cli.errors import HubError, RunError, UsageError
from pgnas_cli.run import load_tensors

FILE_NAME = "model.safetensors"
HUB_TIMEOUT = 10.0
"""Seconds to wait for the Hub's first answer."""
LOCAL = "--weights FILE takes a local safetensors file"

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")


def timm_network(
    arch: str,
    *,
    num_classes: int,
    in_chans: int,
    pretrained: bool | Path = False,
    stem: Callable[[nn.Module], str] | None = None,
    **options: Any,
) -> nn.Module:
    """A network of timm, with its published weights, those of a file, or fresh ones.

    Weights go through timm's own loading: older layouts are converted, and a stem for another number of image channels
    is summed or repeated. A classifier of another size starts anew, every other tensor has to fit.

    Args:
        arch: timm's name, also with a tag, such as resnet50.a1_in1k.
        num_classes, in_chans: of the network that is wanted, whatever the weights were trained for.
        pretrained: True for timm's weights (from the Hub, or the cache of an earlier download), or a safetensors file.
        stem: changes the stem in place and returns the name of the weight that it made anew, "" if none. That keeps its
            initial values, unless the weights are those of a file that has the changed stem.
        options: more arguments of the network.

    Raises:
        UsageError: timm has no weights for `arch`, or the file is missing, of another kind or of another network.
        HubError: the Hub could not be reached or refused.
    """
    if stem is None:
        return _with_own_stem(arch, num_classes, in_chans, pretrained, options)
    if isinstance(pretrained, Path):
        network = _with_own_stem(arch, num_classes, in_chans, False, options)
        changed = stem(network)
        shape = stored_shape(pretrained, changed) if changed else None
        if shape is not None and shape[2:] == network.get_parameter(changed).shape[2:]:
            load_file(network, pretrained)
            return network
    network = _with_own_stem(arch, num_classes, in_chans, pretrained, options)
    changed = stem(network)
    if pretrained and changed:
        start_anew(network, [changed])
    return network


def _with_own_stem(
    arch: str, num_classes: int, in_chans: int, pretrained: bool | Path, options: dict[str, Any]
) -> nn.Module:
    config = _config(arch)
    network: nn.Module = timm.create_model(arch, num_classes=num_classes, in_chans=in_chans, **options)
    if not pretrained:
        return network
    path = _download(arch, config) if pretrained is True else Path(pretrained)
    tensors = _read(path)
    classes, channels = _classes(config, tensors), _image_channels(network, in_chans, config, tensors)
    overlay = {"state_dict": tensors, "num_classes": classes, "input_size": (channels, *config.input_size[1:])}
    reason = ""
    with _messages() as messages:
        try:
            source: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": overlay}
            loaded = timm.create_model(arch, num_classes=classes, in_chans=in_chans, **source, **options)
        except (RuntimeError, KeyError, ValueError) as error:  # what timm's converters and load_state_dict raise
            reason = str(error)
    reason = reason or next((message for message in messages if message.startswith("Missing keys")), "")
    if reason:
        plain = timm.create_model(arch, num_classes=classes, in_chans=channels, **options).state_dict()
        reason = _first_misfit(plain, tensors) or reason.strip().splitlines()[0]
        raise UsageError(f"{path} does not fit {arch}: {reason}", "name the weights of this network")
    fitted, anew = fit_tensors(network.state_dict(), loaded.state_dict())
    network.load_state_dict(fitted, strict=True)
    start_anew(network, anew)
    return network


def load_file(model: nn.Module, path: Path) -> list[str]:
    """Load a safetensors file into a network that timm does not have, in place.

    The tensors are named as in the network; the prefix `backbone.` and the gates of a run's supernet.safetensors are
    left out. A stem for another number of image channels is summed or repeated as timm does. A classifier of another
    size starts anew, and so does what does not fit of the heads that the network names in `training_only`.

    Returns:
        The names of the tensors that start anew.

    Raises:
        UsageError: the file is missing or of another kind, or a tensor is missing, unknown or of another shape.
    """
    own, tensors = model.state_dict(), _read(path)
    stem = next((f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")
    training_only = tuple(f"{prefix}." for prefix in getattr(model, "training_only", ()))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    classifier = next((name for name in reversed(linear) if not name.startswith(training_only)), "")
    for name in own | tensors:
        reason = _misfit(name, own, tensors)
        if not reason or name.startswith(training_only):
            continue
        if name not in own or name not in tensors:
            raise UsageError(f"{path} {reason}", "name the weights of this network")
        new, old = tuple(own[name].shape), tuple(tensors[name].shape)
        adapted = name == stem and new[:1] + new[2:] == old[:1] + old[2:]
        resized = name in (f"{classifier}.weight", f"{classifier}.bias") and new[1:] == old[1:]
        if not adapted and not resized:
            raise UsageError(f"{path}: {reason}", "name the weights of this network")
    channels = tensors[stem].shape[1] if stem in tensors and tensors[stem].ndim == 4 else 3
    fitted, anew = fit_tensors(own, tensors, image_channels=channels)
    model.load_state_dict(fitted, strict=True)
    start_anew(model, anew)
    return anew


def start_anew(model: nn.Module, names: Iterable[str]) -> None:
    """Note on a network which of its tensors did not come from the pretrained weights."""
    vars(model)["started_anew"] = [*started_anew(model), *names]


def started_anew(model: nn.Module) -> list[str]:
    """The tensors of a network with pretrained weights that did not come from there."""
    return list(vars(model).get("started_anew", ()))


def stored_shape(path: Path, name: str) -> tuple[int, ...] | None:
    """Shape of a tensor in a safetensors file; None if it is not there.

    Raises:
        UsageError: the file is missing or of another kind.
    """
    tensor = _read(path).get(name)
    return None if tensor is None else tuple(tensor.shape)


def fit_tensors(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], image_channels: int = 3
) -> tuple[dict[str, Tensor], list[str]]:
    """What a network with the tensors `own` takes over from `tensors`, by name.

    A tensor of the same shape is taken; the weight of a convolution that differs in its inputs alone, and reads
    `image_channels` of them, is adapted as timm does (summed for one channel, else repeated and scaled).

    Returns:
        A tensor for every name in `own`, and the names that keep their own.
    """
    fitted, anew = dict(own), []
    for name, fresh in own.items():
        old = tensors.get(name)
        if old is not None and old.shape == fresh.shape:
            fitted[name] = old
        elif old is not None and _other_inputs(old, fresh) and old.shape[1] == image_channels:
            fitted[name] = adapt_input_conv(fresh.shape[1], old, base_chans=image_channels)
        else:
            anew.append(name)
    return fitted, anew


def _other_inputs(old: Tensor, new: Tensor) -> bool:
    return old.ndim == new.ndim == 4 and old.shape[0] == new.shape[0] and old.shape[2:] == new.shape[2:]


def _first_misfit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    return next((reason for name in {**own, **tensors} if (reason := _misfit(name, own, tensors))), "")


def _misfit(name: str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with one tensor; empty if nothing is."""
    if name not in tensors:
        return f"lacks the tensor {name}"
    if name not in own:
        return f"has an unknown tensor {name}"
    if own[name].shape != tensors[name].shape:
        return f"the tensor {name} has shape {list(tensors[name].shape)}, expected {list(own[name].shape)}"
    return ""


# ---- where the weights come from ----------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; those of a supernet under the names of its backbone, without its gates."""
    if path.suffix in _PICKLES:
        raise UsageError(
            f"{path} is a pickle, which could run any program: expected a safetensors file",
            "convert it with safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a folder: expected a safetensors file", LOCAL)
    try:
        tensors, _ = load_tensors(path, hint="")
    except RunError as error:
        raise UsageError(str(error), LOCAL) from None
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(".gate.drop_logit")}
    if all(name.startswith("backbone.") for name in tensors):
        tensors = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    return tensors


def _config(arch: str) -> PretrainedCfg:
    try:
        return get_pretrained_cfg(arch) or PretrainedCfg()
    except RuntimeError as error:
        raise UsageError(
            f"{arch}: {error}", f"timm.list_pretrained('{arch.partition('.')[0]}*') lists the tags"
        ) from None


def _download(arch: str, config: PretrainedCfg) -> Path:
    """timm's safetensors file on the Hub, from the cache if it is there. One request decides whether the Hub answers:
    huggingface_hub alone would try for most of a minute."""
    import huggingface_hub as hub
    from huggingface_hub.errors import EntryNotFoundError

    repository = config.hf_hub_id
    if not repository:
        raise UsageError(f"timm has no pretrained weights of {arch}", LOCAL)
    cached = hub.try_to_load_from_cache(repository, FILE_NAME)
    if isinstance(cached, str):
        return Path(cached)
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, FILE_NAME), timeout=HUB_TIMEOUT)
        return Path(hub.hf_hub_download(repository, FILE_NAME))
    except EntryNotFoundError as error:
        if isinstance(error, FileNotFoundError):  # not in the cache, and the Hub went away
            raise HubError(f"{repository} could not be had from the Hub: {error}", LOCAL) from None
        raise UsageError(f"{repository} has no {FILE_NAME}, and pickles are not read", LOCAL) from None
    except Exception as error:  # each version of huggingface_hub has its own network errors
        raise HubError(
            f"{repository} could not be had from the Hub: {type(error).__name__}: {error}".splitlines()[0], LOCAL
        ) from None


def _names(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _classes(config: PretrainedCfg, tensors: Mapping[str, Tensor]) -> int:
    """The number of classes that the weights were trained for."""
    found = (tensors.get(f"{name}.weight") for name in _names(config.classifier))
    return next((tensor.shape[0] for tensor in found if tensor is not None), config.num_classes)


def _image_channels(network: nn.Module, in_chans: int, config: PretrainedCfg, tensors: Mapping[str, Tensor]) -> int:
    """The number of image channels that the weights were trained for; a stem may read each several times."""
    for name in _names(config.first_conv):
        weight, stem = tensors.get(f"{name}.weight"), dict(network.named_modules()).get(name)
        if weight is not None and isinstance(stem, nn.Conv2d) and weight.ndim == 4:
            return weight.shape[1] * stem.groups * in_chans // stem.in_channels
    return config.input_size[0]


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Collects what timm's loader logs instead of printing it."""
    found: list[str] = []
    logger = logging.getLogger("timm.models._builder")
    level, propagate = logger.level, logger.propagate
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
