"""The commands that repeat a run, from what its files say."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgnas_cli import registry
from pgnas_cli.errors import PgnasError
from pgnas_cli.posterior.strategies.stratified import RANGE
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe.options import KEYS, flag
from pgnas_cli.recipe_file import load_recipe, override, parse_setting, recipe_names, to_document
from pgnas_cli.report.facts import Facts, Row, again, check

_RESOLVED = ("objective.l2", "objective.num_examples", "optimizer.gate_lr")
"""Keys that a training fills in where the recipe leaves them open."""
_CONFIDENCE = 0.95


def commands(facts: Facts, where: str) -> tuple[str, ...]:
    """The lines that do the finished stages of a run again, in a new run at `where`."""
    parts: list[list[str]] = []
    for name, make in (
        ("inflate", _inflate),
        ("train", _train),
        ("sample", _sample),
        ("rank", _rank),
        ("export", _export),
    ):
        record = facts.stage(name)
        if record is None:
            break
        parts.append(["pgnas", name, *make(facts, record), "--run", where])
    return tuple(shlex.join(part) for part in parts)


def uniform_commands(facts: Facts, where: Path) -> tuple[str, ...]:
    """The lines that rank as many uniform candidates of the same supernet, trained at one rate for their mean size."""
    inflate, train, sample = (facts.manifest["stages"][name] for name in ("inflate", "train", "sample"))
    parts = (
        ["inflate", *_inflate(facts, inflate)],
        ["train", *_train(facts, train, rate=f"{sample['params']['mean']:.0f}")],
        ["sample", "-n", str(sample["asked"]), "--strategy", "uniform", "--seed", str(sample["seed"])],
        ["rank", *_comparison(facts)],
    )
    return tuple(shlex.join(["pgnas", *part, "--run", str(where)]) for part in parts)


# ---- recipes ------------------------------------------------------------------------------------------------


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value, without the keys that are None and without what was adapted to the data."""
    found: dict[str, Any] = {}
    for name, value in to_document(recipe).items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items() if name != "adapted"}
        else:
            found[name] = value
    return found


def nearest_recipe(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The recipe that comes with pgnas from which a resolved one differs in the fewest keys, and these keys.

    What a training fills in from the data counts as different only where it would be filled in otherwise.
    """
    found = []
    for name in recipe_names():
        base = load_recipe(name)
        changes = _changes(recipe, base)
        if changes is not None:
            found.append((len(changes), name != "default", name, changes))
    _, _, name, changes = min(found, key=lambda item: item[:3])
    return name, changes


def _changes(recipe: Recipe, base: Recipe) -> dict[str, Any] | None:
    """What to set in `base`; None where that takes a value away, for which there is no option."""
    wanted, known = flat(recipe), flat(base)
    if known.keys() - wanted.keys():
        return None
    changes = {k: v for k, v in wanted.items() if known.get(k) != v and k not in _RESOLVED}
    made = flat(resolved(override(base, changes), recipe))
    return changes | {key: wanted[key] for key in _RESOLVED if key in wanted and made[key] != wanted[key]}


def resolved(made: Recipe, recipe: Recipe) -> Recipe:
    """`made` as a training on the images of `recipe` would keep it."""
    known, factor = recipe.objective.num_examples, recipe.objective.augmentation_factor
    num_train = max(1, round(known / factor)) if known is not None else 1
    objective = dataclasses.replace(
        made.objective, l2=made.resolved_l2(num_train), num_examples=made.resolved_num_examples(num_train)
    )
    optimizer = dataclasses.replace(made.optimizer, gate_lr=made.optimizer.resolved_gate_lr())
    return dataclasses.replace(made, objective=objective, optimizer=optimizer)


def typed_setting(key: str, value: Any) -> list[str]:
    """The option of `pgnas train` that sets a key of the recipe."""
    if key == "data.dir":
        return ["--data-dir", str(value)]
    if key == "objective.fixed_drop":
        return ["--fixed-drop", repr(value)]
    if key in KEYS.values():
        option = flag(key)
        if isinstance(value, bool):
            return [option if value else option.replace("--", "--no-", 1)]
        return [option, str(value)]
    text = value if isinstance(value, str) else json.dumps(value)
    if parse_setting(f"{key}={text}")[1] != value:  # a string that reads as a number
        text = json.dumps(value)
    return ["--set", f"{key}={text}"]


# ---- stages -------------------------------------------------------------------------------------------------


def _inflate(facts: Facts, record: Row) -> Iterator[str]:
    spec, inflation = facts.spec, facts.spec.inflation
    yield spec.arch if _found_as(spec.arch) == spec.plugin else f"{spec.plugin}:{spec.arch}"
    if inflation.width != 1:
        yield from ("--width", repr(inflation.width))
    if inflation.kernels:
        yield from ("--kernels", ",".join(map(str, inflation.kernels)))
    if inflation.growth is not None:
        yield from ("--growth", str(inflation.growth))
    if inflation.surrogate_pools:
        yield "--surrogate-pools"
    if inflation.stem != "auto":
        yield from ("--stem", inflation.stem)
    for name, option in (("num_classes", "--classes"), ("in_chans", "--in-chans"), ("img_size", "--img-size")):
        if name in record.get("explicit", ()):
            yield from (option, str(getattr(spec, name)))
    if record.get("weights") is not None:
        yield from ("--weights", record["weights"])
    elif record.get("pretrained"):
        yield "--pretrained"
    if "symmetry_noise" in record:
        yield from ("--symmetry-noise", repr(record["symmetry_noise"]))
    yield from ("--seed", str(spec.seed))


def _found_as(arch: str) -> str | None:
    """The name of the plugin that an architecture without a prefix means here; None where that is not clear."""
    try:
        return registry.find(arch)[1].name
    except PgnasError:
        return None


def _train(facts: Facts, record: Row, rate: str | None = None) -> Iterator[str]:
    """`rate` takes the place of the budget: the size that a constant drop rate is to give."""
    assert facts.recipe is not None
    name, changes = nearest_recipe(facts.recipe)
    if name != "default":
        yield from ("--recipe", name)
    if rate is not None:
        changes = {key: value for key, value in changes.items() if not key.startswith("budget.")}
        yield from ("--fixed-drop", rate)
    for key, value in {**changes, "seed": facts.recipe.seed}.items():
        yield from typed_setting(key, value)
    yield from _devices(record)


def _devices(record: Row) -> Iterator[str]:
    kind, processes = record["device"].partition(":")[0], record["processes"]
    if kind == "cuda" and processes > 1:
        yield from ("--gpus", ",".join(map(str, range(processes))))
        return
    yield from ("--device", kind)
    if processes > 1:
        yield from ("--procs", str(processes))


def _sample(facts: Facts, record: Row) -> Iterator[str]:
    yield from ("-n", str(record["asked"]))
    if record["strategy"] != "posterior":
        yield from ("--strategy", record["strategy"])
    if record["source"] != "final":
        yield from ("--from", record["source"])
    if record["drop_prob"] is not None:
        yield from ("--drop-prob", repr(record["drop_prob"]))
    yield from _sizes(facts, record)
    for unit in ("params", "macs"):
        if record[f"max_{unit}"] is not None:
            yield from (f"--max-{unit}", f"{record[f'max_{unit}']:.0f}")
    yield from ("--seed", str(record["seed"]))


def _sizes(facts: Facts, record: Row) -> Iterator[str]:
    """The size that candidates were tilted to, or the range over which they were spread, unless it is the usual one."""
    found, path = record["strategy_facts"], facts.run.manifest_path
    tilts = found.get("strata") or ([found] if "lambda" in found else [])
    if not tilts:
        return
    for tilt in (tilts[0], tilts[-1]):
        check(tilt, {"unit": str, "target": float}, path, again(facts.run, "sample"), "stages.sample.strategy_facts.")
    unit, ends = tilts[0]["unit"], [tilts[0]["target"], tilts[-1]["target"]]
    if "strata" not in found:
        yield from (f"--{unit}", f"{ends[0]:.0f}")
        return
    whole = facts.manifest["stages"]["train"]["params"]
    usual = unit == "params" and all(math.isclose(end, s * whole) for end, s in zip(ends, RANGE, strict=True))
    if not usual:
        yield from (f"--{unit}", f"{ends[0]:.0f}..{ends[1]:.0f}")


def _rank(facts: Facts, _: Row) -> Iterator[str]:
    ranking = facts.ranking
    assert ranking is not None
    yield from _comparison(facts)
    if "front" in ranking:
        yield "--front"
    if "certify" in ranking:
        yield from ("--certify", str(ranking["certify"]["k"]))
        if facts.recipe is not None and ranking["certify"]["epochs"] != facts.recipe.schedule.epochs:
            yield from ("--certify-epochs", str(ranking["certify"]["epochs"]))
    if "finetune" in ranking:
        yield from ("--finetune", str(ranking["finetune"]["epochs"]))


def _comparison(facts: Facts) -> Iterator[str]:
    """How the candidates were compared, and on which devices."""
    assert facts.ranking is not None
    yield from _compared(facts.ranking["asked"])
    yield from _devices(facts.ranking)


def _compared(asked: Mapping[str, Any]) -> Iterator[str]:
    """The options of the comparison that are not the usual ones."""
    if asked["name"] != "auto":
        yield from ("--method", asked["name"])
    if asked["confidence"] != _CONFIDENCE:
        yield from ("--confidence", repr(asked["confidence"]))
    if asked["margin"] is not None:
        yield from ("--margin", f"{100 * asked['margin']:.12g}")
    if asked["budget"] is not None:
        yield from ("--budget", repr(asked["budget"]))
    for name in ("recalibrate", "evolve"):
        if asked[name]:
            yield from (f"--{name}", str(asked[name]))
    yield from ("--seed", str(asked["seed"]))


def _export(_: Facts, record: Row) -> Iterator[str]:
    if record["chosen_by"] == "candidate":
        yield from ("--candidate", record["candidate"])
    if record["chosen_by"] == "at":
        yield from ("--at", f"{record['max_params']:.0f}")
    if record["layout"] != "gather":
        yield from ("--layout", record["layout"])
