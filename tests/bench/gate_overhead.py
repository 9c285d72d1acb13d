"""What the gates cost in training: time and peak memory of a step, supernet over the same network without gates.

    python tests/bench/gate_overhead.py [ARCH ...] [--layout nchw|channels_last|both] [--batch-size 16] [--pairs 15]
        [--stem backbone] [--noise batch] [--temperature 0.2] [--drop 0.1] [--default-malloc]
        [--device cuda] [--amp] [--compile]

A step is forward, cross-entropy, backward and SGD with momentum, without weight decay; the supernet's has the KL of all
gates and the penalty of the ungated convolutions as well. Its masks are drawn at one drop probability, that of the
first step unless another is named: `--temperature 0.05 --drop 0.9` is the end of a search. Both networks start from the
same weights. Their steps alternate in one process, and which goes first alternates too; a row gives the median of the
ratios of neighbours, and their quartiles.

On the CPU one thread is used, and time is the CPU time of the process, to which other processes add little. The C
library keeps freed memory, as it does in `pgnas train`; `--default-malloc` measures without that. Peak memory is
weights, gradients, the optimiser's state and everything else that torch's allocator held at once, from the profiler's
record of every allocation in one step (on CUDA, `max_memory_allocated`). Parts are timed alone, on tensors of the
network's shapes, in percent of the step without gates; the rest is the difference: what the interpreter and autograd
spend on the gates, and what the caches no longer hold.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pgnas_cli as pgnas
from pgnas_cli import Supernet
from pgnas_cli.supernet.conv import SearchConv2d, SearchLinear, TappedNorms
from pgnas_cli.supernet.gate import INITIAL_DROP, TEMPERATURE, logit
from pgnas_cli.supernet.noise import Noise
from pgnas_cli.training.allocator import keep_freed_memory

TARGETS = {"cpu": (1.12, 1.15), "cuda": (1.03, 1.15)}


def without_gates(net: Supernet) -> nn.Module:
    """A copy of the backbone with every gated layer as it was before."""
    plain = copy.deepcopy(net.backbone)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, SearchConv2d | SearchLinear):
            bare = layer.plain_class.__new__(layer.plain_class)
            bare.__dict__.update(layer.__dict__)
            bare._modules = {}
            owner, _, child = name.rpartition(".")
            setattr(plain.get_submodule(owner), child, bare)
    return plain


class Step:
    """A training step of a supernet, or of a plain network."""

    def __init__(self, model: nn.Module, images: Tensor, options: argparse.Namespace) -> None:
        self.model, self.images, self.options = model.train(), images, options
        self.labels = torch.arange(len(images), device=images.device) % 10
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
        self.with_kl = isinstance(model, Supernet)
        if options.compile and isinstance(model, Supernet):
            model.backbone.compile()
        elif options.compile:
            model.compile()

    def loss(self) -> Tensor:
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.options.amp):
            logits = self.model(self.images)
        loss = F.cross_entropy(logits.float(), self.labels)
        if self.with_kl:
            loss = loss + self.model.kl(l2=80.0, num_examples=1e6) + 8e-5 * self.model.ungated_penalty()
        return loss

    def __call__(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def resident(self) -> int:
        """Bytes of parameters, buffers and the optimiser's state."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = [*self.model.parameters(), *self.model.buffers(), *filter(torch.is_tensor, state)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def seconds(function: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(step: Step, device: str) -> int:
    """The most that was allocated at once during a step."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return step.resident() + torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return step.resident() + peak


def ratios(gated: Step, plain: Step, pairs: int, device: str) -> tuple[list[float], float]:
    """Time of the gated over the plain step, pair by pair, and the median seconds of the plain one."""
    found, plain_seconds = [], []
    for index in range(pairs + 2):
        times = {}
        for step in (gated, plain) if index % 2 else (plain, gated):
            times[step] = seconds(step, device)
        if index > 1:  # the first two warm up
            found.append(times[gated] / times[plain])
            plain_seconds.append(times[plain])
    return found, statistics.median(plain_seconds)


@contextmanager
def recorded_inputs(net: Supernet) -> Iterator[list[tuple[SearchConv2d, Tensor]]]:
    """Inside, the list collects every gated convolution that is called, and what it reads."""
    inputs: list[tuple[SearchConv2d, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda called, args: inputs.append((called, args[0].detach())))
        for layer in net.search_layers.values()
        if isinstance(layer, SearchConv2d)
    ]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def added_by_mask(layer: SearchConv2d, x: Tensor, options: argparse.Namespace, repeats: int) -> float:
    """Seconds of the layer's forward and backward pass with masks less those without, in turns."""
    x = x.clone().requires_grad_(x.shape[1] > 3)  # the image has no gradient
    rows = 1 if options.noise == "batch" else len(x)
    masks = torch.rand(rows, x.shape[1], device=x.device, requires_grad=True)

    def both(keep: Tensor | None) -> None:
        asked = [tensor for tensor in (x, layer.weight, keep) if tensor is not None and tensor.requires_grad]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=options.amp):
            y = layer._compute(x, keep, layer.weight)
        torch.autograd.grad(y, asked, torch.ones_like(y))

    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats + 1):
        for masked in times:
            keep = masks if masked else None
            times[masked].append(seconds(lambda keep=keep: both(keep), options.device))  # type: ignore[misc]
    return statistics.median(times[True][1:]) - statistics.median(times[False][1:])


def parts(gated: Step, device: str, repeats: int = 5) -> dict[str, float]:
    """Seconds of what the gates add, each timed alone."""
    net = gated.model
    assert isinstance(net, Supernet)
    with recorded_inputs(net) as inputs, torch.no_grad():
        net.backbone(gated.images)
    layers = list(net.search_layers.values())
    weights = [layer.weight.detach() for layer in layers]
    gradients = [torch.zeros_like(weight) for weight in weights]
    factors = [weight.new_zeros(1, 1, 1, 1) for weight in weights]
    logits = torch.optim.SGD(net.gate_parameters(), lr=1e-4, momentum=0.9, nesterov=True)

    def draw() -> None:
        shared = gated.options.noise == "batch"
        torch.cat(net.bank.draw(len(gated.images), Noise(), shared=shared), 1).sum().backward()

    def norms() -> None:
        try:
            net.bank.kl(TappedNorms(layers).norms_G, 1.0, 0.5)
        finally:
            for layer in layers:
                layer.tapped_weight = None

    def penalty_gradient() -> None:
        for gradient, weight, factor in zip(gradients, weights, factors, strict=True):
            gradient.addcmul_(weight, factor.view([1] * weight.ndim))

    timed: dict[str, Callable[[], object]] = {
        "noise and masks, with their backward pass": draw,
        "KL forward (norms of all weights)": norms,
        "gradient of the weight prior": penalty_gradient,
        "optimiser of the logits": logits.step,
    }
    found = {"1x1 convolutions, masked less plain": 0.0, "other convolutions, masked less plain": 0.0}
    for layer, x in inputs:
        kind = "1x1" if layer.kernel_size == (1, 1) else "other"
        found[f"{kind} convolutions, masked less plain"] += added_by_mask(layer, x, gated.options, repeats)
    for name, function in timed.items():
        function()
        found[name] = statistics.median(seconds(function, device) for _ in range(repeats))
        net.zero_grad()
    return found


def measure(arch: str, layout: str, options: argparse.Namespace) -> bool:
    """One row, and where the time goes; whether it meets the targets."""
    torch.manual_seed(0)
    net = pgnas.inflate(arch, img_size=options.image_size, num_classes=10, stem=options.stem).to(options.device)
    net.set_gates(noise=options.noise, temperature=options.temperature)
    with torch.no_grad():
        for drop_logit in net.gate_parameters():
            drop_logit.fill_(logit(options.drop))
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    images = torch.randn(options.batch_size, 3, options.image_size, options.image_size, device=options.device)
    images = images.to(memory_format=memory_format)
    steps = [
        Step(model.to(memory_format=memory_format), images, options)  # type: ignore[call-overload]
        for model in (net, without_gates(net))
    ]
    gated, plain = steps
    found, plain_seconds = ratios(gated, plain, options.pairs, options.device)
    memory = peak_bytes(gated, options.device) / peak_bytes(plain, options.device)
    low, middle, high = statistics.quantiles(found, n=4)
    most_time, most_memory = TARGETS[options.device]
    good = middle <= most_time and memory <= most_memory
    print(
        f"| {arch} | {layout} | {middle:.3f} ({low:.3f} to {high:.3f}) | {memory:.3f} | {plain_seconds:.3f} s "
        f"| {'' if good else 'above the target'} |",
        flush=True,
    )
    if not options.compile:
        shares = {name: 100 * value / plain_seconds for name, value in parts(gated, options.device).items()}
        shares["rest"] = 100 * (middle - 1) - sum(shares.values())
        print("\n".join(f"    {name:50s} {share:6.2f} %" for name, share in shares.items()), flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="ARCH", default=["resnet50", "shakeshake26_2x32d"])
    parser.add_argument("--layout", choices=["nchw", "channels_last", "both"], default="both")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--stem", default="auto")
    parser.add_argument("--noise", choices=["example", "batch"], default="example")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--drop", type=float, default=INITIAL_DROP)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--default-malloc", action="store_true")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, one thread"
    kept = options.device == "cpu" and not options.default_malloc and keep_freed_memory()
    print(f"torch {torch.__version__}, {hardware}, {'' if kept else 'not '}keeping freed memory, {options}\n")
    print("| network | layout | time | peak memory | step without gates | |")
    print("|---|---|---|---:|---:|---|")
    layouts = ["nchw", "channels_last"] if options.layout == "both" else [options.layout]
    passed = [measure(arch, layout, options) for arch in options.networks for layout in layouts]
    return int(not all(passed))


if __name__ == "__main__":
    raise SystemExit(main())
