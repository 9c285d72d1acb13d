"""The structure of a run's network: stages, blocks and operations, with what a candidate keeps of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgnas_cli.errors import RunError
from pgnas_cli.run import RunDirectory, expect, read_json, read_jsonl

if TYPE_CHECKING:
    from pgnas_cli.posterior.candidate import Candidate
    from pgnas_cli.posterior.posterior import Masks
    from pgnas_cli.supernet.supernet import Supernet


@dataclass(frozen=True)
class Operation:
    """A convolution, linear layer or pooling, or what cannot be thinned.

    Args:
        index: of its node in the channel graph.
        name: module path.
        label: what it is, such as "3x3", "5x5 dw" (depthwise), "3x3 /2" (stride), "max 3x3", "linear".
        inputs, kept_inputs: channels that it reads in the supernet, and in the candidate.
        outputs, kept_outputs: channels that it writes.
        params, kept_params: of it alone, without the normalisation behind it.
        gated: whether its inputs have drop probabilities.
        dropped: the candidate lacks it.
    """

    index: int
    name: str
    label: str
    inputs: int
    kept_inputs: int
    outputs: int
    kept_outputs: int
    params: int
    kept_params: int
    gated: bool
    dropped: bool

    @property
    def share(self) -> float:
        """Share of its inputs that is kept; 0 if it is dropped."""
        return 0.0 if self.dropped else self.kept_inputs / self.inputs


@dataclass(frozen=True)
class Join:
    """Where values meet: label is "+", "x" or "concat"; share is that of its channels that the candidate has."""

    index: int
    label: str
    share: float


@dataclass(frozen=True)
class Port:
    """A value from outside that a block reads: the path of the block that made it, or "image"."""

    index: int
    origin: str


@dataclass(frozen=True)
class Edge:
    """source and target are indices of operations, joins or ports; alive: whether the candidate has it."""

    source: int
    target: int
    alive: bool


class Counted(ABC):
    """What holds operations, and what they come to."""

    @property
    @abstractmethod
    def operations(self) -> Sequence[Operation]:
        """In the order of execution."""

    @property
    def params(self) -> int:
        return sum(operation.params for operation in self.operations)

    @property
    def kept_params(self) -> int:
        return sum(operation.kept_params for operation in self.operations)

    @property
    def dropped(self) -> bool:
        """Whether none of the operations is left."""
        return all(operation.dropped for operation in self.operations)


@dataclass(frozen=True)
class Block(Counted):
    """Operations that belong together.

    Args:
        name: the last part of its path.
        path: of its module.
        nodes: in the order of execution.
        edges: between them, and from ports.
        ports: what it reads from outside, in the order of first use.
        outputs: indices of the nodes that others read.
        channels, kept_channels: of what it hands on; size: height and width of that, None for vectors.
    """

    name: str
    path: str
    nodes: tuple[Operation | Join, ...]
    edges: tuple[Edge, ...]
    ports: tuple[Port, ...]
    outputs: tuple[int, ...]
    channels: int
    kept_channels: int
    size: tuple[int, int] | None

    @property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(node for node in self.nodes if isinstance(node, Operation))


@dataclass(frozen=True)
class Stage:
    """Blocks one after another; a stage of one block has its path."""

    name: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Architecture:
    """A candidate's structure inside its supernet.

    Args:
        title: of the supernet.
        source: whose: "winner", "candidate", "most probable" or "supernet" (everything kept).
        candidate: its id.
        stages: in the order of execution.
        params, kept_params: of the supernet and of the candidate, with everything: also normalisations.
        macs, kept_macs: multiply-adds for one image.
    """

    title: str
    source: str
    candidate: str
    stages: tuple[Stage, ...]
    params: int
    kept_params: int
    macs: int
    kept_macs: int

    @property
    def blocks(self) -> Iterator[Block]:
        for stage in self.stages:
            yield from stage.blocks

    @property
    def operations(self) -> Iterator[Operation]:
        for block in self.blocks:
            yield from block.operations


def of_run(run: RunDirectory, candidate_id: str | None = None) -> Architecture:
    """The winner of a run that is ranked, else its most probable candidate, else the whole supernet.

    Nothing large is read or built: the network lies on torch's meta device, p comes from the log of the posterior.

    Args:
        run: inflated at least; a training may be going on.
        candidate_id: the whole id of another candidate of the run.

    Raises:
        RunError: a file is missing or damaged; the run has no such candidate.
    """
    net = network_of(run)
    source, masks, candidate = _chosen(run, net, candidate_id)
    return of_masks(net, masks, source, candidate)


def of_masks(net: Supernet, masks: Masks, source: str, candidate: str = "") -> Architecture:
    """The structure of one candidate of a supernet; surrogates that it leaves out count as kept whole."""
    from pgnas_cli.report.reader import stages

    assert net.spec is not None
    whole, cost = net.kept_cost(), net.assess(masks)
    return Architecture(
        title=net.spec.arch,
        source=source,
        candidate=candidate,
        stages=stages(net.graph.folded(net.untouched(masks)), net.backbone, masks),
        params=int(whole.params),
        kept_params=cost.params,
        macs=int(whole.macs),
        kept_macs=cost.macs,
    )


def network_of(run: RunDirectory) -> Supernet:
    """A run's supernet on torch's meta device, with its surrogates' weights, by which they are left out or not."""
    import torch

    from pgnas_cli import registry, restore

    spec = restore.run_spec(run)
    if not (run.train_path / "recipe.toml").is_file():
        return registry.build_on_meta(spec)
    recipe = restore.run_recipe(run)
    net = registry.build_on_meta(restore.adapted_spec(spec, recipe))
    with torch.device("meta"):
        restore.apply_recipe(net, recipe)
    trained = run.stage("train")
    if trained is not None:
        restore.load_surrogates(net, run.path / expect(trained, "checkpoint", str, run.manifest_path))
    return net


def _chosen(run: RunDirectory, net: Supernet, candidate_id: str | None) -> tuple[str, Masks, str]:
    """(source, masks, id)."""
    import numpy as np

    if candidate_id is None and run.stage("rank") is not None:
        path, hint = run.rank_path / "ranking.json", f"pgnas rank --force --run {run.path}"
        winner = _find(run, expect(read_json(path, hint=hint), "winner", str, path, hint=hint))
        return "winner", winner.masks, winner.id
    if candidate_id is not None:
        found = _find(run, candidate_id)
        return "candidate", found.masks, found.id
    p = drop_probabilities(run)
    gates = net.gates
    if not p or any(len(p.get(name, ())) != len(gate.sizes) for name, gate in gates.items()):
        return "supernet", {}, ""
    masks = {name: np.repeat(np.asarray(p[name]) < 0.5, gate.sizes) for name, gate in gates.items()}
    if not net.assess(masks).usable:  # a constant rate of a half or more
        return "supernet", {}, ""
    return "most probable", masks, ""


def drop_probabilities(run: RunDirectory) -> dict[str, Any]:
    """Layer -> p of its groups after the last epoch that the log knows; empty before the first."""
    path = run.train_path / "posterior.jsonl"
    if not path.is_file():
        return {}
    hint = f"pgnas train --force --run {run.path} trains again"
    rows = read_jsonl(path, hint=hint, whole_lines=True)
    return expect(rows[-1], "p", dict, path, hint=hint) if rows else {}


def _find(run: RunDirectory, candidate_id: str) -> Candidate:
    from pgnas_cli.ranking.candidates import ranked_candidates

    for candidate in ranked_candidates(run):
        if candidate.id == candidate_id:
            return candidate
    raise RunError(f"{run.path} has no candidate {candidate_id}", f"pgnas rank --force --run {run.path}")
