"""Folding: surrogates that are still the identity are left out of the compact network, exactly, and only those."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from compact_nets import parameters, randomise
from few_cells import few_cells
from torch import Tensor, nn

from pgnas_cli import compact as compaction
from pgnas_cli import registry, restore
from pgnas_cli.errors import RunError, UsageError
from pgnas_cli.export.export import export
from pgnas_cli.export.loading import load
from pgnas_cli.export.reading import read_artifact
from pgnas_cli.export.verify import verify
from pgnas_cli.ranking.candidates import read_candidates, sample
from pgnas_cli.ranking.rank import rank
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, save_tensors
from pgnas_cli.supernet.conv import search_layer
from pgnas_cli.supernet.supernet import Supernet
from pgnas_cli.supernet.surrogate import SurrogateConv2d
from pgnas_cli.training.loop import train

Masks = dict[str, np.ndarray]
NAMES = ("left", "right")


class Cell(nn.Module):
    """A pooling and an identity branch with surrogates, added; then a BatchNorm in front of any convolution."""

    def __init__(self, surrogates: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 3, 1, 1, bias=False)
        self.rest = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.second = nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.left = SurrogateConv2d(6) if surrogates else nn.Identity()
        self.right = SurrogateConv2d(6) if surrogates else nn.Identity()
        self.bn, self.act = nn.BatchNorm2d(12), nn.Sigmoid()
        self.last = nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.cat([self.first(x), self.rest(x)], 1), self.second(x)
        x = torch.cat([self.left(self.pool(a)) + b, self.right(a)], 1)
        return self.fc(self.last(self.act(self.bn(x))).mean((2, 3)))


def supernet(surrogates: bool = True) -> Supernet:
    torch.manual_seed(0)
    gates = {"first": [3], "rest": [3], "second": [3], "last": [12]} | (
        {"left": [6], "right": [6]} if surrogates else {}
    )
    net = Supernet(Cell(surrogates), gates, input_size=(3, 8, 8))
    randomise(net.backbone)
    return net.eval()


def kept(net: Supernet, **dropped: list[int]) -> Masks:
    """Everything kept, except these channels of these layers."""
    masks = {name: np.ones(gate.channels, bool) for name, gate in net.gates.items()}
    for name, channels in dropped.items():
        masks[name][channels] = False
    return masks


def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_equal(net: Supernet, masks: Masks) -> compaction.CompactNetwork:
    """Masked = compact in both layouts, counted = built; returns the gathered network."""
    candidate = net.candidate(masks)
    with torch.no_grad():
        with net.masked(candidate):
            masked = net(images())
        for layout in ("dense", "gather"):
            small = net.compact(candidate, layout=layout)
            assert (small(images()) - masked).abs().max() <= 1e-5 * masked.abs().max().clamp_min(1)
    assert candidate.params == parameters(small)
    assert candidate.macs == macs(small)
    return small


def macs(model: nn.Module) -> int:
    """Every convolution of these networks has 64 positions."""
    convs = sum(m.weight.numel() * 64 for m in model.modules() if isinstance(m, nn.Conv2d))
    return convs + sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))


# ---- the layer ----


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_a_surrogate_starts_as_the_identity_without_drawing(channels: int) -> None:
    before = torch.get_rng_state()
    layer = SurrogateConv2d(channels)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.bias is None
    x = torch.randn(2, channels, 5, 4)
    assert torch.equal(layer(x), x)
    assert layer.is_identity()


@pytest.mark.parametrize("index", [(0, 0), (1, 1), (0, 1), (2, 0)])
@pytest.mark.parametrize("change", [1e-7, -1.0])
def test_the_least_change_is_noticed(index: tuple[int, int], change: float) -> None:
    layer = SurrogateConv2d(3)
    with torch.no_grad():
        layer.weight[index] += change
    assert not layer.is_identity()
    layer.reset_parameters()
    assert layer.is_identity()


def test_a_surrogate_without_weights_is_not_known_to_be_the_identity() -> None:
    assert not SurrogateConv2d(3).to("meta").is_identity()


def test_a_gated_surrogate_remains_one_and_the_compact_network_holds_a_convolution() -> None:
    layer = search_layer(SurrogateConv2d(4), [4])
    assert isinstance(layer, SurrogateConv2d)
    assert layer.is_identity()
    net = supernet()
    small = net.compact(kept(net, left=[0], right=[1]))
    assert type(small.left) is type(small.right) is nn.Conv2d


# ---- what is folded ----


def test_untouched_surrogates_leave_no_trace() -> None:
    net, plain = supernet(), supernet(surrogates=False)
    assert net.untouched(kept(net)) == NAMES
    small, wanted = assert_equal(net, kept(net)), plain.compact({})
    assert small.state_dict().keys() == wanted.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(small(images()), wanted(images()))
    assert net.assess(kept(net)) == plain.assess(kept(plain))
    assert parameters(net.compact({})) == parameters(wanted)


@pytest.mark.parametrize("channels", [[0], [1, 4], [0, 1, 2, 3, 4]])
def test_a_partly_kept_surrogate_is_not_folded(channels: list[int]) -> None:
    net = supernet()
    masks = kept(net, left=channels)
    assert net.untouched(masks) == ("right",)
    small = assert_equal(net, masks)
    assert small.left.weight.shape == (6, 6 - len(channels), 1, 1)
    assert not hasattr(small, "right")


def test_a_touched_surrogate_is_not_folded() -> None:
    net = supernet()
    with torch.no_grad():
        net.backbone.right.weight[2, 3] = 1e-3
    small = assert_equal(net, kept(net))
    assert small.right.weight.shape == (6, 6, 1, 1)
    assert not hasattr(small, "left")


def test_folding_follows_the_weights_while_they_train() -> None:
    net = supernet()
    before = net.assess(kept(net)).params
    optimiser = torch.optim.SGD([net.backbone.left.weight], lr=0.1)
    net(images()).square().sum().backward()
    optimiser.step()
    assert net.untouched(kept(net)) == ("right",)
    assert net.assess(kept(net)).params == before + 36
    net.backbone.left.reset_parameters()
    assert net.assess(kept(net)).params == before


def test_a_branch_whose_surrogate_drops_everything_is_gone() -> None:
    net = supernet()
    masks = kept(net, right=list(range(6)))
    small = assert_equal(net, masks)
    assert not hasattr(small, "right")
    assert small.bn.num_features == 6
    masks["left"][:] = False
    masks["second"][:] = False
    assert not net.assess(masks).usable
    assert_equal(net, masks)


def test_dead_channels_stay_dead_behind_a_folded_surrogate() -> None:
    """A dropped convolution in front: the identity passes its zeros on, and the BatchNorm behind must not shift them.
    As a convolution the surrogate would be alive in all channels; masked and compact have to agree on which it is."""
    net = supernet()
    masks = kept(net, first=[0, 1, 2])
    small = assert_equal(net, masks)
    assert not hasattr(small, "first")
    assert small.bn.num_features == 10
    seen: list[Tensor] = []
    net.backbone.bn.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad(), net.masked(masks):
        net(images())
    assert (seen[0][:, 6:8] == 0).all()
    assert (seen[0][:, 8:] != 0).any()


@pytest.mark.parametrize("seed", range(12))
def test_any_masks_and_any_touched_surrogates(seed: int) -> None:
    net, rng = supernet(), np.random.default_rng(seed)
    for name in NAMES:
        if rng.random() < 0.5:
            with torch.no_grad():
                net.backbone.get_submodule(name).weight.normal_()
    keep = {name: rng.choice([0.0, 0.5, 1.0]) for name in net.gates}
    assert_equal(net, {name: rng.random(gate.channels) < keep[name] for name, gate in net.gates.items()})


def test_compact_inside_masked_is_the_same_network() -> None:
    net = supernet()
    candidate = net.candidate(kept(net, first=[0, 1, 2]))
    with net.masked(candidate):
        inside = net.compact(candidate)
    assert inside.state_dict().keys() == net.compact(candidate).state_dict().keys()
    assert parameters(inside) == candidate.params


# ---- the graph ----


def test_the_graph_itself_is_left_as_it_was() -> None:
    net = supernet()
    graph = net.graph
    folded = graph.folded(["right"])
    assert set(folded.identities) == {"right"}
    assert "right" not in folded.searchable
    assert "right" in graph.searchable
    assert graph.folded([]) is graph
    assert not graph.identities
    assert net.cost().params == net.kept_cost().params == parameters(net.compact({})) + 2 * 36


@pytest.mark.parametrize("name", ["first", "last", "fc", "bn", "pool", "nowhere"])
def test_only_what_can_be_the_identity_is_folded(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}.*1x1 convolution"):
        supernet().graph.folded([name])


class Strided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.strided, self.grouped = nn.Conv2d(4, 4, 1, 2, bias=False), nn.Conv2d(4, 4, 1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.grouped(self.strided(x)).mean((2, 3))


@pytest.mark.parametrize("name", ["strided", "grouped"])
def test_strides_and_groups_are_no_identity(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be folded"):
        compaction.trace(Strided(), (4, 8, 8)).folded([name])


def test_masks_of_folded_layers_keep_everything() -> None:
    graph = supernet().graph.folded(["left"])
    compaction.analyse(graph, {"left": np.ones(6, bool)})
    with pytest.raises(UsageError, match="folded away"):
        compaction.analyse(graph, {"left": np.arange(6) > 0})
    with pytest.raises(UsageError, match="7 entries; expected 6"):
        compaction.analyse(graph, {"left": np.ones(7, bool)})
    with pytest.raises(UsageError, match="folded away"):
        compaction.expected(graph, {"left": torch.full((6,), 0.5)})


# ---- artifacts ----


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    """A tiny ENAS supernet with surrogates, hardly trained and its surrogates put back; a folded winner is exported."""
    with few_cells():
        yield make_export(tmp_path_factory.mktemp("fold") / "run")


def make_export(path: Path) -> RunDirectory:
    spec = registry.make_spec("enas15_2f", registry.Inflation(surrogate_pools=True), in_chans=1, img_size=8)
    run = restore.create_run(registry.build(spec), path, options={"explicit": ["in_chans", "img_size"]})
    changes = {"data.name": "digits", "data.batch_size": 16, "data.limit_train": 32, "schedule.epochs": 1}
    train(run, override(load_recipe("posterior"), changes), device="cpu")
    weights = run.path / run.require("train")["checkpoint"]
    net = restore.load_trained(run, str(weights.relative_to(run.path)))
    for layer in net.search_layers.values():
        if isinstance(layer, SurrogateConv2d):
            layer.reset_parameters()
    save_tensors(weights, net.state_dict())
    sample(run, n=2, seed=1)
    rank(run, device="cpu")
    export(run)
    return run


def test_a_folded_candidate_comes_back_exactly(exported: RunDirectory) -> None:
    artifact = read_artifact(exported.export_path)
    assert artifact.folded
    assert all(artifact.masks[name].all() for name in artifact.folded)
    assert any(name.endswith("surrogate") for name in artifact.masks if name not in artifact.folded)
    network = load(exported.export_path)
    names = dict(network.named_modules())
    assert not set(artifact.folded) & set(names)
    assert parameters(network) == artifact.config["pgnas"]["candidate"]["params"]
    with torch.no_grad():
        assert torch.equal(network(artifact.images), artifact.logits)
    found = verify(exported.export_path)
    assert [check.name for check in found.checks if not check.passed] == []
    assert {"masked = compact", "masked = reloaded"} <= {check.name for check in found.checks}


def test_a_folded_candidate_exports_in_the_dense_layout(exported: RunDirectory, tmp_path: Path) -> None:
    export(exported, layout="dense", output=tmp_path / "dense")
    assert verify(tmp_path / "dense", exported).passed
    assert read_artifact(tmp_path / "dense").folded == read_artifact(exported.export_path).folded


def test_candidates_count_what_export_builds(exported: RunDirectory) -> None:
    net = restore.load_trained(exported, exported.require("train")["checkpoint"])
    for candidate in read_candidates(exported):
        assert parameters(net.compact(candidate)) == candidate.params
        assert net.untouched(candidate.masks)


def other_layer(section: dict) -> object:
    return section["folded"].append("cells.0.base.conv")


DAMAGE: dict[str, tuple[Callable[[dict], object], str]] = {
    "no list": (lambda section: section.update(folded="cells.0"), "list of different layers"),
    "an empty list": (lambda section: section.update(folded=[]), "list of different layers"),
    "numbers": (lambda section: section.update(folded=[1]), "list of different layers"),
    "twice the same": (lambda section: section["folded"].append(section["folded"][0]), "list of different layers"),
    "an unknown layer": (lambda section: section["folded"].append("nowhere"), "names 'nowhere'"),
    "an ordinary convolution": (other_layer, "is unknown to its network|drops inputs"),
    "a grouped or larger layer": (lambda s: s["folded"].append("stem"), "names 'stem'"),
    "one too few": (lambda section: section["folded"].pop(), "surrogate.weight is missing"),
    "none": (lambda section: section.pop("folded"), "surrogate.weight is missing"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_to_the_list_is_refused(
    exported: RunDirectory, tmp_path: Path, damage: Callable[[dict], object], message: str
) -> None:
    folder = Path(shutil.copytree(exported.export_path, tmp_path / "artifact"))
    config = json.loads((folder / "config.json").read_text())
    damage(config["pgnas"])
    damage(config["model_args"]["structure"])  # what timm is told agrees with it
    (folder / "config.json").write_text(json.dumps(config))
    for check in (load, verify):
        with pytest.raises(RunError, match=message) as error:
            check(folder)
        assert "export again" in error.value.hint


def test_a_layer_that_drops_inputs_cannot_be_named(exported: RunDirectory, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.export_path, tmp_path / "artifact"))
    config = json.loads((folder / "config.json").read_text())
    partly = next(name for name, mask in read_artifact(folder).masks.items() if not mask.all())
    config["pgnas"]["folded"].append(partly)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=f"'{partly}' is folded away, but its mask drops inputs"):
        load(folder)
