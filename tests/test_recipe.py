"""Recipes: strict reading, overriding, and writing what is read back as it was."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgnas_cli.errors import UsageError
from pgnas_cli.recipe import (
    Adapted,
    Annealing,
    Budget,
    Commit,
    Compute,
    Data,
    Objective,
    Optimizer,
    Recipe,
    Sampling,
    Schedule,
)
from pgnas_cli.recipe_file import (
    all_keys,
    load_recipe,
    override,
    parse_recipe,
    parse_setting,
    recipe_names,
    to_document,
    to_toml,
)

positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
inside = st.floats(0, 1, exclude_min=True, exclude_max=True)
below_one = st.floats(0, 1, exclude_max=True)
whole = st.integers(1, 2**62)
# anything that a file can hold: no lone surrogates
text = st.text(st.characters(exclude_categories=("Cs",)))
shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)

recipes = st.builds(
    Recipe,
    objective=st.builds(
        Objective,
        l2=st.none() | positive,
        num_examples=st.none() | positive,
        augmentation_factor=positive,
        prior_drop=inside,
        temperature=positive,
        initial_drop=inside,
        granularity=st.sampled_from(["group", "channel"]),
        noise=st.sampled_from(["example", "batch"]),
        ungated_l2=st.booleans(),
        branch_noise=st.booleans(),
        label_smoothing=below_one,
        gate_stem=st.booleans(),
        gate_classifier=st.booleans(),
        auxiliary_weight=positive,
        drop_path=below_one,
    ),
    optimizer=st.builds(
        Optimizer,
        lr=st.floats(1e-3, 1e3),
        momentum=inside,
        nesterov=st.booleans(),
        clip=st.just(0.0) | positive,
        ema=below_one,
        gate_optimizer=st.sampled_from(["adam", "sgd"]),
        gate_lr=st.none() | positive,
        gate_schedule=st.sampled_from(["weights", "constant"]),
    ),
    schedule=st.builds(
        Schedule,
        name=st.sampled_from(["cosine", "step", "restarts"]),
        epochs=whole,
        warmup_epochs=st.floats(0, 1e9),
        milestones=st.sets(whole, max_size=4).map(lambda found: tuple(sorted(found))),
        gamma=inside,
        restart_epochs=whole,
        restart_factor=whole,
        lr_min=st.floats(0, 1e-3),
    ),
    budget=st.builds(
        lambda target, pair: Budget(**target, start=pair[0], reached=pair[1]),
        st.sampled_from(
            [
                {},
                {"target_params": "0.5x"},
                {"target_params": "12M"},
                {"target_macs": "2e3"},
                {"target_latency": "3ms"},
                {"target_params": "1M", "target_macs": "0.1x", "target_latency": "1s"},
            ]
        ),
        shares,
    ),
    data=st.builds(
        Data,
        name=st.none() | text,
        dir=st.none() | text,
        batch_size=st.integers(2, 10**6),
        cutout=st.integers(0, 10**6),
        auto_augment=st.sampled_from(["", "cifar10", "imagenet", "svhn"]),
        random_erasing=st.floats(0, 1),
        mixup=st.just(0.0) | positive,
        cutmix=st.just(0.0) | positive,
        mixup_prob=st.floats(0, 1),
        mixup_switch_prob=st.floats(0, 1),
        mixup_off_epoch=st.integers(0, 10**6),
        color_jitter=st.none() | st.just(0.0) | positive,
        rotation=st.floats(0, 180),
        selection=positive,
        limit_train=st.none() | whole,
    ),
    annealing=st.builds(Annealing, warmup=below_one, temperature_end=st.none() | positive),
    commit=st.builds(Commit, st.none() | inside),
    compute=st.builds(
        Compute,
        amp=st.sampled_from(["none", "bfloat16", "float16"]),
        channels_last=st.booleans(),
        compile=st.booleans(),
        accumulate=whole,
        sync_bn=st.booleans(),
    ),
    sampling=st.builds(Sampling, whole),
    adapted=st.builds(Adapted, st.none() | whole, st.none() | whole, st.none() | whole),
    seed=st.integers(-(2**62), 2**62),
)


# ---- reading and writing ----


def test_the_default_recipe_loads() -> None:
    recipe = load_recipe(None)
    assert recipe == load_recipe("default")
    assert (recipe.schedule.name, recipe.schedule.epochs, recipe.objective.temperature) == ("cosine", 40, 0.2)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_with_pgnas_loads_and_says_how_to_run_it(name: str) -> None:
    assert isinstance(load_recipe(name), Recipe)
    lines = (Path(__file__).parents[1] / "templates" / "recipes" / f"{name}.toml").read_text().splitlines()
    header = itertools.takewhile(lambda line: line.startswith("#"), lines)
    keys = [line[2:].partition(":")[0] for line in header if line[2:3].strip()]
    assert keys[:4] == ["Command", "Expected cost", "Expected score", "Source"]
    assert keys[4:] in ([], ["Departures"])


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_toml_is_read_back_to_an_equal_recipe(recipe: Recipe) -> None:
    assert parse_recipe(to_toml(recipe, "a header"), "x") == recipe


def test_headers_become_comments() -> None:
    written = to_toml(Recipe(seed=3), "first\n\nsecond")
    assert written.startswith("# first\n#\n# second\nseed = 3\n")
    assert parse_recipe(written, "x") == Recipe(seed=3)


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "tab\tand\nline", "😀 \x7f \x1b", "é"])
def test_strings_of_every_kind_survive(name: str, tmp_path: Path) -> None:
    recipe = Recipe(data=Data(name=name))
    file = tmp_path / "recipe.toml"
    file.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(str(file)) == recipe


def test_what_is_left_out_keeps_its_default() -> None:
    assert parse_recipe("", "x") == Recipe()
    found = parse_recipe("[schedule]\nepochs = 3\nmilestones = [1, 2]\n[optimizer]\nlr = 1", "x")
    assert found == Recipe(schedule=Schedule(epochs=3, milestones=(1, 2)), optimizer=Optimizer(lr=1.0))
    assert type(found.optimizer.lr) is float


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("[objective]\nprior_drp = 0.5", "x: unknown key 'objective.prior_drp'; did you mean objective.prior_drop"),
        ("[schedule]\nepoch = 3", "unknown key 'schedule.epoch'; did you mean .*schedule.epochs"),
        ("[objectives]\nl2 = 1", "unknown key 'objectives'"),
        ("sead = 1", "unknown key 'sead'; did you mean seed"),
        ("zzzzzzz = 1", "unknown key 'zzzzzzz'$"),
        ("objective = 3", r"x: objective should be a section \[objective\]"),
        ("seed = 1.0", "x: seed should be int, not 1.0"),
        ("seed = true", "seed should be int, not True"),
        ("[schedule]\nepochs = '40'", "schedule.epochs should be int, not '40'"),
        ("[schedule]\nepochs = 4.5", "schedule.epochs should be int"),
        ("[schedule]\nname = 1", "schedule.name should be str"),
        ("[schedule]\nmilestones = 3", "schedule.milestones should be list of int, not 3"),
        ("[schedule]\nmilestones = [1, 2.5]", "schedule.milestones should be"),
        ("[schedule]\nmilestones = [true]", "schedule.milestones should be"),
        ("[optimizer]\nlr = true", "optimizer.lr should be float"),
        ("[optimizer]\nlr = 'fast'", "optimizer.lr should be float"),
        ("[optimizer]\nnesterov = 1", "optimizer.nesterov should be bool"),
        ("[objective]\nl2 = 'big'", "objective.l2 should be float, not 'big'"),
        ("[data]\nname = 3", "data.name should be str"),
        ("[budget]\ntarget_params = 5000", "budget.target_params should be str"),
        ("[data\n", "x is not valid TOML"),
    ],
)
def test_what_is_no_recipe_names_file_key_and_the_nearest_key(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_recipe(given, "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defualt", "no recipe is called 'defualt'; did you mean default"),
        ("cifar10-mi", "no recipe is called 'cifar10-mi'; did you mean paper/cifar10-mi[?]$"),
        ("paper/cifar10mi", "did you mean paper/cifar10-mi"),
        ("paper", "no recipe is called 'paper'"),
        ("paper/../default", "no recipe is called"),
        ("../default", "no recipe is called"),
        ("nowhere.toml", "no such recipe file: nowhere.toml"),
        ("", "no recipe is called ''"),
    ],
)
def test_recipes_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(name)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(b"seed = 1 # \xff\xfe")
    with pytest.raises(UsageError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(str(file))


# ---- overriding ----


@pytest.mark.parametrize(
    ("given", "setting"),
    [
        ("schedule.epochs=40", ("schedule.epochs", 40)),
        ("optimizer.lr=1e-3", ("optimizer.lr", 1e-3)),
        ("optimizer.nesterov=false", ("optimizer.nesterov", False)),
        ("schedule.milestones=[30, 60]", ("schedule.milestones", [30, 60])),
        ("schedule.name=step", ("schedule.name", "step")),
        ('schedule.name="step"', ("schedule.name", "step")),
        ("data.name=folder:/a=b", ("data.name", "folder:/a=b")),
        ("data.name=", ("data.name", "")),
        (" seed = 3", ("seed", 3)),
    ],
)
def test_settings_are_read_as_toml_or_else_as_text(given: str, setting: tuple[str, object]) -> None:
    assert parse_setting(given) == setting


@pytest.mark.parametrize("given", ["schedule.epochs", "", "=3", " =3"])
def test_settings_that_are_none(given: str) -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        parse_setting(given)


def test_overriding_replaces_some_keys_in_a_copy() -> None:
    recipe = Recipe(data=Data(name="digits", batch_size=64))
    found = override(recipe, {"data.batch_size": 32, "seed": 7, "objective.l2": 5, "schedule.milestones": [3]})
    assert found == Recipe(
        data=Data(name="digits", batch_size=32), seed=7, objective=Objective(l2=5.0), schedule=Schedule(milestones=(3,))
    )
    assert recipe.data.batch_size == 64
    assert override(recipe, {}) == recipe
    assert override(recipe, {"data.name": None}).data.name is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule.epoch": 3}, "unknown key 'schedule.epoch'; did you mean .*schedule.epochs"),
        ({"schedul.epochs": 3}, "unknown recipe key 'schedul.epochs'; did you mean schedule.epochs"),
        ({"schedule.epoch": None}, "unknown key 'schedule.epoch'"),
        ({"optimizer.lr": float("inf")}, "optimizer.lr should be float, not inf"),
        ({"epochs": 3}, "unknown key 'epochs'"),
        ({"seed.x": 3}, "unknown recipe key 'seed.x'"),
        ({"schedule": 3}, r"schedule should be a section"),
        ({"schedule.epochs": "many"}, "--set: schedule.epochs should be int, not 'many'"),
        ({"schedule.epochs": 0}, "schedule.epochs is 0"),
        ({"objective.fixed_drop": 0.3, "budget.target_params": "0.5x"}, "exclude each other"),
        ({"objective.fixed_drop": 0.3, "budget.target_macs": "0.5x"}, "--fixed-drop and --target-macs exclude"),
        (
            {"objective.fixed_drop": 0.3, "budget.target_params": "0.5x", "budget.target_macs": "0.5x"},
            "--fixed-drop and --target-params/macs exclude",
        ),
        (
            {"data.rand_augment": "rand-m9", "data.auto_augment": "cifar10"},
            "rand_augment and data.auto_augment exclude",
        ),
    ],
)
def test_overriding_is_as_strict_as_reading(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        override(Recipe(), changes)


def test_all_keys_can_be_set() -> None:
    document = to_document(Recipe())
    keys = all_keys()
    assert {"seed", "objective.l2", "data.dir", "adapted.in_chans"} <= set(keys)
    assert {f"{s}.{k}" for s, values in document.items() if isinstance(values, dict) for k in values} <= set(keys)


@pytest.mark.parametrize(
    ("end", "first", "wanted"),
    [(0.05, 0.2, [0.2, 0.1, 0.05]), (None, 0.2, [0.2] * 3), (0.05, 0.01, [0.01] * 3), (0.2, 0.2, [0.2] * 3)],
)
def test_temperatures_fall_geometrically_and_never_rise(end: float | None, first: float, wanted: list[float]) -> None:
    annealing = Annealing(temperature_end=end)
    assert [annealing.temperature(first, share) for share in (0, 0.5, 1)] == pytest.approx(wanted)
