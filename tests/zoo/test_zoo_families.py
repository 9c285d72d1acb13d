"""Masked = compact over every family of the zoo and more than thirty of timm's, at small images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pgnas_zoo import timm_cnn

from pgnas_cli import inflate
from pgnas_cli.supernet.proof import prove

FEW = {"stem": "backbone"}  # few pixels inside
# beginning of a name -> what makes the network narrower, its layers being the same
NARROW = {"vgg": {"mlp_ratio": 0.02}, "nasnetalarge": {"num_features": 24 * 16, "stem_size": 16}}
# architecture, image size, least number of gated layers, options
ZOO = [
    ("resnet18", 32, 19, {}),
    ("shakeshake26_2x4d", 32, 54, {}),
    ("densenet121", 32, 119, {"growth": 8}),
    ("resnext50_32x4d", 64, 52, FEW),
    ("res2net50_26w_4s", 64, 84, FEW),
    ("resnest14d", 32, 18, {}),
    ("skresnet18", 32, 27, {}),
    ("seresnet18", 32, 19, {}),
    ("seresnext26d_32x4d", 64, 30, FEW),
]
# architecture, image size, least number of gated layers
TIMM = [
    ("efficientnet_b0", 64, 32),
    ("tf_efficientnet_lite0", 64, 32),
    ("tf_efficientnetv2_b0", 64, 42),
    ("mobilenetv1_100", 64, 13),
    ("mobilenetv2_035", 64, 34),
    ("mobilenetv3_small_050", 64, 23),
    ("mobilenetv4_conv_small_035", 64, 30),
    ("mnasnet_050", 64, 34),
    ("spnasnet_100", 64, 42),
    ("fbnetc_100", 64, 43),
    ("mixnet_s", 64, 53),
    ("tinynet_e", 64, 20),
    ("lcnet_035", 64, 14),
    ("hardcorenas_a", 64, 23),
    ("rexnet_100", 64, 32),
    ("ghostnet_050", 64, 39),
    ("repghostnet_050", 64, 39),
    ("repvgg_a0", 64, 42),
    ("repvit_m0_9", 64, 56),
    ("starnet_s050", 64, 22),
    ("fasternet_t0", 64, 43),
    ("regnetx_002", 64, 43),
    ("regnety_002", 64, 43),
    ("regnetz_005", 64, 64),
    ("gernet_s", 64, 41),
    ("resnet10t", 64, 13),
    ("resnext26ts", 64, 30),
    ("legacy_seresnet18", 64, 19),
    ("cs3darknet_s", 64, 31),
    ("dla46_c", 64, 47),
    ("dpn48b", 64, 68),
    ("hrnet_w18_small", 64, 90),
    ("ese_vovnet19b_dw", 64, 22),
    ("hgnetv2_b0", 64, 30),
    ("convnext_atto", 64, 27),
    ("convnextv2_atto", 64, 27),
    ("inception_next_atto", 64, 27),
    ("fastvit_t8", 64, 24),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ("vgg11_bn", 32, 7),
            ("mobileone_s0", 64, 84),
            ("ghostnetv2_100", 64, 53),
            ("fbnetv3_b", 64, 58),
            ("inception_v3", 75, 93),
            ("inception_resnet_v2", 75, 243),
            ("resnetv2_50", 64, 52),
            ("xception41", 64, 44),
            ("selecsls42b", 64, 40),
            ("convmixer_768_32", 64, 32),
            ("tresnet_m", 64, 59),
            ("nasnetalarge", 96, 267),
        )
    ),
]


@pytest.mark.parametrize(("arch", "img_size", "gated", "options"), ZOO)
def test_families_of_the_zoo(arch: str, img_size: int, gated: int, options: dict) -> None:
    check(arch, img_size, gated, options)


@pytest.mark.parametrize(("arch", "img_size", "gated"), TIMM)
def test_families_of_timm(arch: str, img_size: int, gated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_cnn, "OPTIONS", timm_cnn.OPTIONS | NARROW)
    check(arch, img_size, gated, {})


def check(arch: str, img_size: int, gated: int, options: dict) -> None:
    net = inflate(arch, num_classes=10, img_size=img_size, **options)
    assert len(net.gates) >= gated
    proof = prove(net, candidates=2, max_emptied=3)
    assert proof.passed, proof.comparisons
    assert [comparison.n for comparison in proof.comparisons] == [4, 1, 1, 1, 3]
    rng = np.random.default_rng(0)
    candidate = net.candidate({name: rng.random(gate.channels) < 0.9 for name, gate in net.gates.items()})
    small = net.compact(candidate)
    assert candidate.params == sum(p.numel() for p in small.parameters())
    assert candidate.params < net.cost().params
    assert small(torch.zeros(1, *net.input_size)).shape == (1, 10)
