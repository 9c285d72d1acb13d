"""Mixup and cutmix: each image of a batch blended with another, and its target with the other's.

Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018; Yun et al., CutMix, ICCV 2019; as in timm with one
draw for each batch (its mode "batch").

Shapes: B images of a batch, C channels (of images) or classes (of targets), H height, W width.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pgnas_cli.recipe import Augmentation
from pgnas_cli.training.seeds import seeded


class Mix:
    """Mixes batches as a recipe asks for.

    Args:
        augmentation: its fields mixup and cutmix (alpha of Beta(alpha, alpha), 0 for none), mixup_prob,
            mixup_switch_prob and mixup_off_epoch.
        num_classes: C of the targets.
    """

    def __init__(self, augmentation: Augmentation, num_classes: int) -> None:
        self.options = augmentation
        self.num_classes = num_classes

    def active(self, epoch: int) -> bool:
        """Whether the batches of an epoch (from 0) are mixed at all."""
        off = self.options.mixup_off_epoch
        return (self.options.mixup > 0 or self.options.cutmix > 0) and not (off and epoch >= off)

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, *, key: str) -> tuple[Tensor, Tensor]:
        """With one lambda, and in cutmix one box, for the batch:

            mixup:  x <- lambda x + (1 - lambda) x.flip(0)
            cutmix: x[box] <- x.flip(0)[box], lambda <- 1 - area(box) / (H W)
            target: lambda t + (1 - lambda) t.flip(0), t the one-hot label (smoothing is the loss's)

        lambda and the box depend on `key` and the size of the images only, so that every process draws the same. An
        image's partner stands in its process's batch (the batch in reverse order), so that one process and two do not
        see the same images. Give the whole batch of the process, before it is cut for gradient accumulation.

        Args:
            images_BCHW: normalised.
            labels_B: int64.
            key: such as "seed/epoch/step": what all draws are derived from.

        Returns:
            (images [B, C, H, W], targets float32 [B, classes]); the arguments are left as they are.
        """
        from timm.data.mixup import cutmix_bbox_and_lam, mixup_target

        with seeded(key):
            share, cut = self._draw()
            if cut:
                (top, bottom, left, right), share = cutmix_bbox_and_lam(images_BCHW.shape, share)
        images = images_BCHW
        if cut:
            images = images.clone()
            images[:, :, top:bottom, left:right] = images_BCHW.flip(0)[:, :, top:bottom, left:right]
        elif share < 1:
            images = share * images + (1 - share) * images.flip(0)
        return images, mixup_target(labels_B, self.num_classes, float(share))

    def _draw(self) -> tuple[float, bool]:
        """(lambda, whether it is cutmix) from numpy's generator."""
        options = self.options
        if np.random.rand() >= options.mixup_prob:
            return 1.0, False
        both = options.mixup > 0 and options.cutmix > 0
        cut = np.random.rand() < options.mixup_switch_prob if both else options.cutmix > 0
        alpha = options.cutmix if cut else options.mixup
        return float(np.random.beta(alpha, alpha)), bool(cut)
