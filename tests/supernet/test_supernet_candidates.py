"""Drawing candidates, computing with their masks, and the compact network that must agree."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from supernet_nets import (
    DEGENERATE,
    RESNET18,
    TINY,
    Masks,
    all_kept,
    grouped_net,
    images,
    nothing_kept,
    spread_rates,
    supernet,
)
from torch import Tensor, nn

from pgnas_cli import Supernet
from pgnas_cli.errors import UsageError

NETS = {"resnet18": lambda: supernet(**RESNET18), "shakeshake": lambda: supernet(**TINY), "plain": grouped_net}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked_logits(net: Supernet, masks: Masks, x: Tensor) -> Tensor:
    with net.masked(masks), torch.no_grad():
        return net(x)


def random_masks(net: Supernet, keep: float, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    masks = {name: rng.random(gate.channels) < keep for name, gate in net.gates.items()}
    for mask in masks.values():
        mask[0] = True  # no layer is emptied
    return masks


# ---- masked and compact ----


@every_net
def test_masked_multiplies_the_inputs_of_every_layer(make) -> None:
    """Where no layer is emptied, the candidate is x * mask in front of every gated layer, by hooks here."""
    net = make().double()
    masks, x = random_masks(net, 0.7), images(net).double()
    kept = net(x).detach()
    found = masked_logits(net, masks, x)
    handles = []
    for name, layer in net.search_layers.items():
        mask = torch.from_numpy(masks[name]).double()
        handles.append(
            layer.register_forward_pre_hook(lambda _m, i, mask=mask: (i[0] * mask.view(-1, *[1] * (i[0].ndim - 2)),))
        )
    wanted = net(x).detach()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert (found - kept).abs().max() > 1e-3


@every_net
@pytest.mark.parametrize("name", [*DEGENERATE, "drawn"])
def test_the_compact_network_computes_what_masked_computes(make, name: str) -> None:
    net = make().double()
    spread_rates(net, 0.1, 0.6)
    masks = net.sample(generator=generator(0)).masks if name == "drawn" else DEGENERATE[name](net)
    x = images(net, 3).double()
    wanted = masked_logits(net, masks, x)
    small = net.compact(net.candidate(masks))
    with torch.no_grad():
        torch.testing.assert_close(small(x), wanted, rtol=1e-9, atol=1e-9)
    assert not any("gate" in key for key in small.state_dict())
    if name == "all kept":
        assert torch.equal(wanted, net(x))


@every_net
@pytest.mark.parametrize("name", [*DEGENERATE, "drawn"])
def test_the_size_of_a_candidate_is_that_of_its_compact_network(make, name: str) -> None:
    net = make()
    masks = random_masks(net, 0.5) if name == "drawn" else DEGENERATE[name](net)
    candidate = net.candidate(masks)
    assert candidate.params == sum(parameter.numel() for parameter in net.compact(candidate).parameters())
    if name in ("all kept", "nothing kept"):
        assert net.assess(masks).usable is (name == "all kept")


def test_an_emptied_operation_is_exactly_zero() -> None:
    """Not the shift of its normalisation: emptying one branch leaves its rival at one half."""
    net = supernet(**TINY)
    masks, x = all_kept(net), images(net)
    for name in masks:
        if name.startswith("stage1.1.branch1."):
            masks[name] = np.zeros_like(masks[name])
    seen: list[Tensor] = []
    with net.masked(masks):
        handle = net.backbone.get_submodule("stage1.1.branch1").register_forward_hook(lambda _m, _i, y: seen.append(y))
        net(x)
    handle.remove()
    assert (seen[0] == 0).all()


@every_net
@pytest.mark.parametrize("fails", [False, True])
def test_masked_restores_weights_and_flags(make, fails: bool) -> None:
    net = make().train()
    next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    state, parameters = copy.deepcopy(net.state_dict()), list(net.parameters())
    flags = [module.training for module in net.modules()]
    with pytest.raises(ZeroDivisionError) if fails else torch.no_grad(), net.masked(random_masks(net, 0.3)):
        assert not any(module.training for module in net.modules())
        changed = net.state_dict()
        assert not all(torch.equal(changed[name], state[name]) for name in state)
        net(images(net))
        if fails:
            raise ZeroDivisionError
    assert [module.training for module in net.modules()] == flags
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_masked_restores_the_flags_when_the_masks_do_not_fit() -> None:
    net = supernet(**TINY).train()
    with pytest.raises(UsageError), net.masked({"stem": np.ones(99, dtype=bool)}):
        pass
    assert all(module.training for module in net.modules())


def test_a_compact_network_has_its_own_weights() -> None:
    net = grouped_net()
    small = net.compact(all_kept(net))
    before = small(images(net)).detach()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(small(images(net)), before)


# ---- sampling ----


@every_net
def test_the_same_seed_draws_the_same_candidate(make) -> None:
    net = make()
    spread_rates(net, 0.2, 0.5)
    ids = [net.sample(generator=generator(seed)).id for seed in (0, 0, 1, 2)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_sampling_leaves_the_networks_weights_and_torchs_generator_alone() -> None:
    net = grouped_net()
    state, before = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    net.sample(generator=generator(0))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    torch.manual_seed(4)
    first = net.sample()
    torch.manual_seed(4)
    assert net.sample() == first


def test_a_sample_follows_the_learned_rates() -> None:
    net = grouped_net()
    rates = {"3": (0.1, 0.7), "5": (0.4, 0.2), "9": (0.6, 0.3)}
    with torch.no_grad():
        for name, gate in net.gates.items():
            gate.drop_logit.copy_(torch.logit(torch.tensor(rates[name])))
    source, n = generator(0), 600
    dropped = {name: np.zeros(gate.channels) for name, gate in net.gates.items()}
    drawn = 0
    for _ in range(n):
        try:
            candidate = net.sample(generator=source)
        except UsageError:  # a draw of which nothing reaches the logits
            continue
        drawn += 1
        for name, mask in candidate.masks.items():
            dropped[name] += ~mask
    assert drawn > 0.85 * n
    for name, gate in net.gates.items():
        wanted = np.repeat(rates[name], gate.sizes)
        assert np.abs(dropped[name] / drawn - wanted).max() < 0.12


def test_the_uniform_strategy_draws_at_the_given_rate() -> None:
    net = supernet(**RESNET18)
    candidate = net.sample(generator=generator(0), strategy="uniform", drop_prob=0.4)
    assert candidate.strategy == "uniform"
    assert candidate.kept_share() == pytest.approx(0.6, abs=0.05)
    channels = sum(gate.channels for gate in net.gates.values())
    kept = candidate.kept_share() * channels
    assert candidate.log_prob == pytest.approx(kept * np.log(0.6) + (channels - kept) * np.log(0.4), rel=1e-9)


def test_the_identity_depends_on_the_masks_alone() -> None:
    net = grouped_net()
    masks = random_masks(net, 0.5)
    first = net.candidate(masks, "posterior", -3.0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1.0)
    again = net.candidate(dict(reversed(masks.items())))  # the order of the mapping does not matter either
    assert first.id == again.id == net.candidate({name: mask.astype(int) for name, mask in masks.items()}).id
    assert first == again
    assert len({first, again}) == 1
    masks["9"] = ~masks["9"]
    assert net.candidate(masks).id != first.id


def test_the_mode_keeps_what_is_dropped_with_less_than_one_half() -> None:
    net = grouped_net()
    with torch.no_grad():
        net.gates["3"].drop_logit.copy_(torch.tensor([-1.0, 1.0]))
    mode = net.mode()
    assert mode.masks["3"].tolist() == [True] * 2 + [False] * 6
    assert mode.masks["9"].all()
    assert mode.log_prob == pytest.approx(net.posterior().log_prob(mode.masks))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda masks: masks.pop("9"), "2 layers, the supernet has 3"),
        (lambda masks: masks.update(other=masks["9"]), "4 layers, the supernet has 3"),
        (lambda masks: masks.update({"9": masks["9"][:-1]}), "the mask of 9 has shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(spoil, message: str) -> None:
    net = grouped_net()
    masks = all_kept(net)
    spoil(masks)
    with pytest.raises(UsageError, match=message):
        net.candidate(masks)


def test_a_draw_that_leaves_nothing_is_refused() -> None:
    net = grouped_net()
    for logits in net.gate_parameters():
        nn.init.constant_(logits, 40.0)
    with pytest.raises(UsageError, match="dropped every path"):
        net.sample(generator=generator(0))
    assert net.candidate(nothing_kept(net)).kept_share() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "best"}, "unknown strategy"),
        ({"strategy": "uniform"}, "needs the rate"),
        ({"drop_prob": 0.4}, "belongs to --strategy uniform"),
        ({"strategy": "uniform", "drop_prob": 1.0}, "below 1"),
        ({"strategy": "uniform", "drop_prob": -0.1}, "at least 0"),
    ],
)
def test_strategies_that_make_no_sense_are_refused(given: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grouped_net().sample(generator=generator(0), **given)
