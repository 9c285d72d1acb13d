"""The images of a recipe, and how they are augmented."""

from __future__ import annotations

from dataclasses import dataclass

from pgnas_cli.recipe.check import check


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images besides the crop and the flip, which every set gets as it suits it.

    All draws depend on (seed, epoch, place in the epoch) only. Sets in memory are augmented in this order before they
    are cropped and flipped, image files after it; cutout and random erasing come last in both. AutoAugment and colour
    jitter keep grey images grey: what changes their saturation leaves them as they are.

    Args:
        cutout: side of a square that is blanked in each training image, in pixels; 0 for none (DeVries and Taylor,
            2017).
        auto_augment: AutoAugment's policies found on "cifar10", "imagenet" or "svhn", one of them on every image
            (Cubuk et al., CVPR 2019, as in torchvision); empty for none.
        color_jitter: s: brightness, contrast and saturation, in an order drawn for each image, are multiplied by
            factors drawn from [max(0, 1 - s), 1 + s]; 0 for none. None means 0.4 for image files above 64 pixels and
            none for all others.
        rand_augment: RandAugment in timm's notation, such as "rand-m9-mstd0.5" (Cubuk et al., CVPR Workshops 2020);
            empty for none. It and auto_augment exclude each other.
        random_erasing: probability that a random rectangle of a training image is replaced by noise (Zhong et al.,
            AAAI 2020; timm's --reprob).
        mixup: alpha of Beta(alpha, alpha), the shares in which pairs of images are blended (Zhang et al., ICLR 2018); 0
            for none.
        cutmix: alpha of the share of an image that is replaced by a piece of another (Yun et al., ICCV 2019); 0 for
            none.
        mixup_prob: probability that a batch is mixed at all.
        mixup_switch_prob: probability of cutmix in a batch that is mixed, where both are on.
        mixup_off_epoch: epoch from which images are no longer mixed; 0 for never.
        rotation: degrees: each image is turned by an angle drawn from [-rotation, rotation], bilinear, with black
            corners; 0 for none.
    """

    cutout: int = 0
    auto_augment: str = ""
    color_jitter: float | None = None
    rotation: float = 0.0
    rand_augment: str = ""
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_off_epoch: int = 0

    def __post_init__(self) -> None:
        check(self.cutout >= 0, f"data.cutout is {self.cutout}, it should be at least 0", "--set data.cutout=0")
        check(
            self.auto_augment in ("", "cifar10", "imagenet", "svhn"),
            f"data.auto_augment is {self.auto_augment!r}, it should be cifar10, imagenet, svhn or empty",
            "--set data.auto_augment=cifar10",
        )
        check(
            self.color_jitter is None or self.color_jitter >= 0,
            f"data.color_jitter is {self.color_jitter}, it should be at least 0",
            "--set data.color_jitter=0.4",
        )
        check(
            0 <= self.rotation <= 180,
            f"data.rotation is {self.rotation}, it should be at least 0 and at most 180 degrees",
            "--set data.rotation=10",
        )
        check(
            not (self.rand_augment and self.auto_augment),
            "data.rand_augment and data.auto_augment exclude each other",
            "--set data.auto_augment=",
        )
        check(
            not self.rand_augment or self.rand_augment.startswith("rand-"),
            f"data.rand_augment is {self.rand_augment!r}, it should read as timm's do",
            "--set data.rand_augment=rand-m9-mstd0.5",
        )
        for name in ("random_erasing", "mixup_prob", "mixup_switch_prob"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"data.{name} is {value}, it should lie in [0, 1]", f"--set data.{name}=0.25")
        for name in ("mixup", "cutmix", "mixup_off_epoch"):
            value = getattr(self, name)
            check(value >= 0, f"data.{name} is {value}, it should be at least 0", f"--set data.{name}=0")


@dataclass(frozen=True)
class Data(Augmentation):
    """The images, and how they are augmented (see Augmentation).

    Args:
        name: digits, folder:DIR, wds/DIR, torch/NAME, hfds/NAME; None takes what the command line or the environment
            says.
        dir: where torchvision sets lie; None means ./data.
        batch_size: images a step, over all processes together.
        selection: share of the training images kept for selection (above 1: their number).
        limit_train: use only so many training images, cut after the selection split.
    """

    name: str | None = None
    dir: str | None = None
    batch_size: int = 128
    selection: float = 0.1
    limit_train: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.batch_size >= 2, f"data.batch_size is {self.batch_size}, it should be at least 2", "--batch-size 128"
        )
        check(self.selection > 0, f"data.selection is {self.selection}, it should be above 0", "--selection 0.1")
        check(
            self.limit_train is None or self.limit_train >= 1,
            f"data.limit_train is {self.limit_train}, it should be at least 1",
            "--limit-train 10000",
        )
