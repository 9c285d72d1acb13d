"""A widened network computes what its plain network computes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pgnas_zoo.resnet_net import ParallelConv2d
from pgnas_zoo.shakeshake_net import ShakeShakeNet
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from widen_nets import IMAGE, NETWORKS, OPERATIONS, Drawn, Head, Residual, conv, randomise

from pgnas_cli import inflate
from pgnas_cli.errors import UsageError
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d
from pgnas_cli.supernet.widen import NoRoom, logit_difference, plan, shares, transfer

NOISE = 0.1


def widen(target: nn.Module, plain: nn.Module, size: tuple[int, int, int] = IMAGE, noise: float = NOISE, **names: str):
    """Transfer with seeded noise; `names` with __ for the dots."""
    renamed = {new.replace("__", "."): old.replace("__", ".") for new, old in names.items()}
    generator = torch.Generator().manual_seed(0)
    transfer(target, plain, size, renamed=renamed, symmetry_noise=noise, generator=generator)
    return target


def assert_same(target: nn.Module, plain: nn.Module, size: tuple[int, int, int] = IMAGE, tolerance=1e-5) -> None:
    assert logit_difference(target, plain, size, seed=1) < tolerance
    moved = copy.deepcopy(plain)
    with torch.no_grad():
        next(p for p in moved.parameters() if p.ndim == 4).mul_(1.1)
    assert logit_difference(target, moved, size, seed=1) > 1e-3  # the comparison can fail


# ---- the same logits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("name", "width"),
    [(name, width) for name in NETWORKS for width in ((4, 6, 8) if name == "Grouped" else (4, 5, 6, 7, 8, 11))],
)
def test_a_wider_network_computes_the_same(name: str, width: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain, target = randomise(NETWORKS[name](4)).to(dtype), NETWORKS[name](width).to(dtype)
    assert_same(widen(target, plain), plain, tolerance=tolerance)


@pytest.mark.parametrize(("old", "new"), [(4, 4), (4, 5), (4, 6), (4, 7), (5, 8), (5, 13)])
def test_shake_shake_keeps_odd_halves_apart(old: int, new: int) -> None:
    torch.manual_seed(0)
    plain = randomise(ShakeShakeNet(old, 10, 3, blocks=1)).double()
    target = ShakeShakeNet(new, 10, 3, blocks=1).double()
    assert_same(widen(target, plain, (3, 16, 16)), plain, (3, 16, 16), 1e-12)


def test_a_gated_resnet_computes_what_timms_computes() -> None:
    plain = randomise(timm.create_model("resnet26", num_classes=10))
    target = inflate("resnet26", width=1.3, num_classes=10, img_size=64, stem="backbone").backbone
    widen(target, plain, (3, 64, 64))
    assert_same(target, plain, (3, 64, 64))


@pytest.mark.slow
def test_a_densenet_grows() -> None:
    plain = randomise(timm.create_model("densenet121", num_classes=10))
    target = timm.create_model("densenet121", num_classes=10, growth_rate=42)
    assert_same(widen(target, plain, (3, 64, 64)), plain, (3, 64, 64))


@settings(max_examples=40, deadline=None)
@given(
    operations=st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=5),
    old=st.lists(st.integers(2, 5), min_size=1, max_size=3),
    more=st.integers(0, 4),
)
def test_random_networks(operations: list[str], old: list[int], more: int) -> None:
    torch.manual_seed(0)
    plain = randomise(Drawn(operations, old)).double()
    target = Drawn(operations, [n + more for n in old]).double()
    try:
        widen(target, plain)
    except UsageError:  # halves of a concatenation need not nest in its parts; hypothesis fails if that is usual
        assume(False)
    assert logit_difference(target, plain, IMAGE) < 1e-11


def test_training_mode_computes_the_same() -> None:
    torch.manual_seed(0)
    plain, target = randomise(Residual(4)).double(), Residual(7).double()
    widen(target, plain)
    images = torch.randn(6, *IMAGE, dtype=torch.float64)
    assert torch.allclose(target.train()(images), plain.train()(images), atol=1e-11)


def test_counters_and_names_are_taken_over() -> None:
    plain = randomise(Residual(4))
    target = widen(Residual(6), plain)
    assert int(target.stem[1].num_batches_tracked) == 7
    assert torch.equal(target.stem[0].weight[:4], plain.stem[0].weight)
    assert torch.equal(target.stem[0].weight[4:], plain.stem[0].weight[:2])


# ---- the noise ----------------------------------------------------------------------------------------------


def test_shares_sum_to_one_and_have_the_asked_deviation() -> None:
    columns = torch.tensor([[0, 1, 2, 0, 0, 1, -1]]).expand(20_000, -1)
    found = shares(columns, 3, 0.1, torch.Generator().manual_seed(0))
    for old, places in ((0, [0, 3, 4]), (1, [1, 5]), (2, [2])):
        assert torch.allclose(found[:, places].sum(1), torch.ones(len(found), dtype=torch.float64), atol=1e-14)
        relative = found[:, places] * len(places) - 1
        assert relative.std() == pytest.approx(0.1 if old < 2 else 0.0, rel=0.03)
    assert (found[:, 6] == 0).all()
    assert (found[:, 2] == 1).all()


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_noise_is_what_makes_copies_learn_apart(noise: float) -> None:
    torch.manual_seed(0)
    plain, target = randomise(Residual(4)).double(), Residual(8).double()
    widen(target, plain, noise=noise)
    layer, reader = target.a[0], target.b[0]
    target.train()(torch.randn(4, *IMAGE, dtype=torch.float64)).square().sum().backward()
    apart = not torch.allclose(layer.weight.grad[:8], layer.weight.grad[8:], rtol=1e-9)
    assert apart == (noise > 0)
    assert torch.allclose(reader.weight[:, :8], reader.weight[:, 8:]) == (noise == 0)
    assert torch.allclose(reader.weight[:4, :8] + reader.weight[:4, 8:], plain.b[0].weight, atol=1e-14)


def test_the_noise_follows_the_generator() -> None:
    plain = randomise(Residual(4))
    same = [widen(Residual(7), plain).b[0].weight for _ in range(2)]
    assert torch.equal(*same)


# ---- new channels -------------------------------------------------------------------------------------------


class Parallel(nn.Module):
    """A 3x3 convolution, or parallel ones in its place, with squeeze-excite behind if asked for."""

    def __init__(self, n: int, kernels: tuple[int, ...] = (), excite: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.read, self.head = conv(3, n), nn.BatchNorm2d(n), conv(n, 4), Head(4)
        self.spatial = ParallelConv2d(n, n, kernels, 1) if kernels else nn.Conv2d(n, n, 3, padding=1, bias=False)
        self.gate = nn.Conv2d(n, n, 1) if excite else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.spatial(self.stem(x))))
        if self.gate is not None:
            x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(self.read(x))


@pytest.mark.parametrize("excite", [False, True])
def test_parallel_kernels_start_unread(excite: bool) -> None:
    torch.manual_seed(0)
    plain, target = randomise(Parallel(4, (), excite)).double(), Parallel(13, (1, 3, 5), excite).double()
    fresh = copy.deepcopy(target.spatial.branches[0].weight)
    widen(target, plain, spatial__branches__1="spatial")
    assert_same(target, plain, tolerance=1e-12)
    assert torch.equal(target.spatial.branches[0].weight, fresh)
    assert torch.equal(target.norm.running_var[:5], torch.ones(5).double())
    new = np.r_[0:5, 9:13]
    weight = target.read[0].weight
    assert (weight[:, new] == 0).all()
    assert (weight[:, 5:9].abs().amax((0, 2, 3)) > 0).all()
    target.train()(torch.randn(4, *IMAGE, dtype=torch.float64)).square().sum().backward()
    assert (weight.grad[:, new].abs().amax((0, 2, 3)) > 0).all()


def test_a_branch_without_room_says_how_much_is_missing() -> None:
    plain, target = Parallel(4), Parallel(5, (1, 3, 5))
    with pytest.raises(NoRoom, match=r"spatial\.branches\.1 has 2 channels for the 4 that were learned") as caught:
        plan(target, plain, IMAGE, renamed={"spatial.branches.1": "spatial"})
    assert (caught.value.layer, caught.value.have, caught.value.need) == ("spatial.branches.1", 2, 4)
    assert vars(pickle.loads(pickle.dumps(caught.value))) == vars(caught.value)


class Added(nn.Module):
    """A learned convolution, and a new branch that is added to it; what lies between is chosen."""

    def __init__(self, n: int, branch: str = "") -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv(3, n), conv(n, n), Head(n)
        parts: dict[str, list[nn.Module]] = {
            "": [],
            "norm": [nn.Conv2d(n, n, 1), nn.BatchNorm2d(n), nn.Dropout(0.0)],
            "conv": [nn.Conv2d(n, n, 1)],
            "relu": [nn.Conv2d(n, n, 1), nn.BatchNorm2d(n), nn.ReLU()],
            "norm with relu": [nn.Conv2d(n, n, 1), BatchNormAct2d(n)],
            "sigmoid": [nn.Conv2d(n, n, 1), nn.Sigmoid()],
        }
        self.branch = nn.Sequential(*parts[branch])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.conv(x) + self.branch(x)) if len(self.branch) else self.head(self.conv(x))


@pytest.mark.parametrize("branch", ["norm", "conv"])
def test_a_new_branch_that_is_added_starts_as_zero(branch: str) -> None:
    torch.manual_seed(0)
    plain, target = randomise(Added(4)).double(), Added(6, branch).double()
    assert_same(widen(target, plain), plain, tolerance=1e-12)
    target.train()(torch.randn(4, *IMAGE, dtype=torch.float64)).square().sum().backward()
    assert target.branch[1 if branch == "norm" else 0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("branch", ["relu", "norm with relu", "sigmoid"])
def test_a_branch_that_cannot_start_as_zero_is_refused(branch: str) -> None:
    with pytest.raises(UsageError, match="cannot start as zero and learn"):
        plan(Added(6, branch), Added(4), IMAGE)


class Cell(nn.Module):
    """An identity branch, or something else in its place."""

    def __init__(self, n: int, keep: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv(3, n), conv(n, n), Head(n)
        self.keep = keep or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.conv(x) + self.keep(x))


@pytest.mark.parametrize("gated", [False, True])
def test_surrogates_stay_the_identity(gated: bool) -> None:
    torch.manual_seed(0)
    plain, target = randomise(Cell(4)).double(), Cell(7, SurrogateConv2d(7)).double()
    if gated:
        target = Supernet(target, {"keep": [7], "conv.0": [7]}, input_size=IMAGE).double().backbone
    assert_same(widen(target, plain), plain, tolerance=1e-12)
    assert target.keep.is_identity()
    with torch.device("meta"):
        plan(Cell(7, SurrogateConv2d(7)), Cell(4), IMAGE)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (nn.BatchNorm2d(7), "keep is new and would change channels that were learned"),
        (nn.Conv2d(7, 7, 1), "no channels for what"),
    ],
    ids=["norm", "convolution"],
)
def test_what_stands_new_in_a_learned_path_is_refused(keep: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(Cell(7, keep), Cell(4), IMAGE)


# ---- what is refused ----------------------------------------------------------------------------------------


class Normed(nn.Module):
    """A group normalisation in the middle: a barrier."""

    def __init__(self, n: int, inner: int) -> None:
        super().__init__()
        self.stem, self.norm, self.a, self.b, self.head = (
            *(conv(3, n), nn.GroupNorm(2, n), conv(n, inner), conv(inner, n), Head(n)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        return self.head(x + self.b(self.a(x)))


def test_nothing_is_widened_through_a_barrier() -> None:
    plain = randomise(Normed(4, 4)).double()
    with pytest.raises(UsageError, match="cannot be kept through norm"):
        plan(Normed(6, 6), plain, IMAGE)
    target = Normed(4, 7).double()  # beside it, something is
    assert_same(widen(target, plain), plain, tolerance=1e-12)


class Shuffled(nn.Module):
    """Channels change places between two convolutions."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.stem, self.head = conv(3, n), Head(n)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(x)


def test_nothing_is_widened_through_a_shuffle() -> None:
    with pytest.raises(UsageError, match=r"cannot be kept through \w+: it cannot be widened"):
        plan(Shuffled(6), Shuffled(4), IMAGE)
    plain = randomise(Shuffled(4))
    assert_same(widen(Shuffled(4), plain), plain)


@pytest.mark.parametrize(
    ("target", "plain", "message"),
    [
        (Residual(3), Residual(4), "has .* channels for the .* that were learned"),
        (Residual(4), Added(4), "no layer for what branch|no layer for what conv"),
        (Added(4, "conv"), Residual(4), "no layer for what a"),
        (Parallel(8, (1, 3)), Parallel(4), "no layer for what spatial"),
    ],
    ids=["narrower", "other layers", "yet others", "a name is missing"],
)
def test_networks_that_do_not_correspond(target: nn.Module, plain: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(target, plain, IMAGE)


def test_another_number_of_classes_is_refused() -> None:
    plain = Residual(4)
    plain.head = Head(4)
    plain.head[2] = nn.Linear(4, 6)
    with pytest.raises(UsageError, match="output"):
        plan(Residual(6), plain, IMAGE)


def test_another_kernel_is_refused() -> None:
    target = Residual(6)
    target.a = conv(6, 12, 5)
    with pytest.raises(UsageError, match=r"a\.0\.weight has shape \[12, 6, 5, 5\]"):
        plan(target, Residual(4), IMAGE)


class Extra(Residual):
    """Holds a layer that the evaluation graph does not call."""

    def __init__(self, n: int, **extra: nn.Module) -> None:
        super().__init__(n)
        for name, module in extra.items():
            setattr(self, name, module)


def test_tensors_without_a_place_are_named() -> None:
    with pytest.raises(UsageError, match=r"no place for extra\.(bias|weight)"):
        plan(Residual(6), Extra(4, extra=nn.Linear(2, 2)), IMAGE)
    with pytest.raises(UsageError, match=r"extra\.weight of the inflated network is new"):
        plan(Extra(6, extra=nn.Linear(2, 2)), Residual(4), IMAGE)


def test_heads_for_training_only_keep_their_own_weights() -> None:
    plain, target = Extra(4, auxiliary=nn.Linear(4, 2)), Extra(6, auxiliary=nn.Linear(6, 2))
    plain.training_only = target.training_only = ("auxiliary",)
    before = target.auxiliary.weight.clone()
    assert_same(widen(target, randomise(plain)), plain)
    assert torch.equal(target.auxiliary.weight, before)


def test_a_refusal_writes_nothing() -> None:
    target = Residual(3)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(NoRoom):
        widen(target, Residual(4))
    assert all(torch.equal(before[name], tensor) for name, tensor in target.state_dict().items())


def test_planning_needs_no_weights() -> None:
    with torch.device("meta"):
        wide, plain, narrow = Residual(7), Residual(4), Residual(3)
    assert plan(wide, plain, IMAGE).sources["a.0.weight"] == "a.0.weight"
    with pytest.raises(NoRoom):
        plan(narrow, plain, IMAGE)


# ---- the measure --------------------------------------------------------------------------------------------


def test_the_difference_is_relative_to_large_logits_and_restores_flags() -> None:
    a, b = Residual(4).train(), Residual(4)
    b.load_state_dict(a.state_dict())
    assert logit_difference(a, b, IMAGE) == 0
    assert a.training
    for scale, expected in ((1.0, 0.5), (100.0, 0.005)):
        with torch.no_grad():
            for model, shift in ((a, 0.5), (b, 0.0)):
                model.head[2].weight.zero_()
                model.head[2].bias.fill_(scale + shift)
        assert logit_difference(a, b, IMAGE) == pytest.approx(expected, rel=1e-3)
    with torch.no_grad():
        a.head[2].bias.fill_(torch.nan)
    assert logit_difference(a, b, IMAGE) == float("inf")
