"""The training loop on digits: what it writes, what it repeats exactly, and how it stops."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pgnas_cli import inflate, restore
from pgnas_cli.errors import PgnasError, RunError, UsageError
from pgnas_cli.ranking.candidates import sample
from pgnas_cli.recipe import Recipe
from pgnas_cli.recipe_file import load_recipe, override
from pgnas_cli.run import RunDirectory, load_tensors, read_jsonl
from pgnas_cli.training.checkpoint import last_checkpoint
from pgnas_cli.training.data import open_data
from pgnas_cli.training.loop import train, trained_supernet
from pgnas_cli.training.objective import Objective, evaluate
from pgnas_cli.training.optimizers import Optimizers, make_scheduler
from pgnas_cli.training.seeds import seed_step

EPOCHS = 3
TIMES = ("seconds", "images_per_second")


def make_recipe(**changes: object) -> Recipe:
    small = {"data.name": "digits", "data.batch_size": 32, "data.limit_train": 320, "schedule.epochs": EPOCHS}
    return override(load_recipe("posterior"), {**small, **changes})


@pytest.fixture(scope="module")
def inflated(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    net = inflate("shakeshake26_2x4d", in_chans=1, img_size=8, seed=0)
    folder = tmp_path_factory.mktemp("inflated") / "run"
    return restore.create_run(net, folder, options={"explicit": ["in_chans", "img_size"]})


@pytest.fixture
def new_run(inflated: RunDirectory, tmp_path: Path) -> Callable[[], RunDirectory]:
    count = iter(range(100))
    return lambda: RunDirectory(shutil.copytree(inflated.path, tmp_path / f"run{next(count)}"))


@pytest.fixture(scope="module")
def trained(inflated: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Read only: three epochs at half the size."""
    run = RunDirectory(shutil.copytree(inflated.path, tmp_path_factory.mktemp("trained") / "run"))
    train(run, make_recipe(**{"budget.target_params": "0.5x"}), device="cpu")
    return run


@pytest.fixture
def trained_copy(trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(shutil.copytree(trained.path, tmp_path / "copy"))


def weights(run: RunDirectory) -> dict[str, torch.Tensor]:
    record = run.require("train")
    return load_tensors(run.path / record["checkpoint"], hint="")[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def log(run: RunDirectory) -> list[dict[str, Any]]:
    return read_jsonl(run.train_path / "log.jsonl")


def untimed(run: RunDirectory) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in log(run)]


class Faulty:
    """Makes the loss of one step `value`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, value: float = math.nan) -> None:
        self.calls, plain = 0, Objective.__call__

        def spoilt(objective: Objective, net: Any, logits: torch.Tensor, labels: torch.Tensor, *, kl: bool) -> Any:
            self.calls += 1
            return plain(objective, net, logits * value if self.calls == step + 1 else logits, labels, kl=kl)

        monkeypatch.setattr(Objective, "__call__", spoilt)


# ---- what is written ----


def test_a_line_per_epoch_in_both_logs(trained: RunDirectory) -> None:
    rows, posterior = log(trained), read_jsonl(trained.train_path / "posterior.jsonl")
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in posterior] == [1, 2, 3]
    assert [row["step"] for row in rows] == [10, 20, 30]
    net = trained_supernet(trained)
    for row in rows:
        assert row["loss"] >= row["cross_entropy"] + row["kl"] > 0
        assert 0 <= row["p"]["min"] <= row["p"]["mean"] <= row["p"]["max"] <= 1
        assert row["images_per_second"] * row["seconds"] == pytest.approx(320)
        assert {"train_accuracy", "selection_accuracy", "lr", "expected_params", "target_params"} <= row.keys()
    for row in posterior:
        assert {name: len(p) for name, p in row["p"].items()} == {name: len(g.sizes) for name, g in net.gates.items()}


def test_the_last_line_describes_the_network_that_is_kept(trained: RunDirectory) -> None:
    net, row, record = trained_supernet(trained), log(trained)[-1], trained.require("train")
    last_p = read_jsonl(trained.train_path / "posterior.jsonl")[-1]["p"]
    assert last_p == {
        n: [pytest.approx(float(v), abs=1e-6) for v in layer.drop_prob] for n, layer in net.posterior().items()
    }
    with net.masked(net.mode()):
        score = evaluate(net, open_data("digits", limit_train=320).eval_batches("selection", 64))
    assert row["selection_accuracy"] == record["selection_accuracy"] == score.accuracy
    assert float(net.cost().expected_params.detach()) == pytest.approx(row["expected_params"], rel=1e-6)
    assert (record["epochs"], record["steps"], record["images"]) == (3, 30, 960)
    assert record["fixed_drop"] is None
    assert not net.training


@pytest.mark.slow
def test_the_loss_falls_and_the_gates_move(new_run) -> None:
    run = new_run()
    train(run, make_recipe(**{"data.limit_train": None, "optimizer.lr": 0.1}), device="cpu")
    rows = log(run)
    assert rows[0]["cross_entropy"] > rows[1]["cross_entropy"] > rows[2]["cross_entropy"]
    assert rows[2]["cross_entropy"] < rows[0]["cross_entropy"] - 0.2
    assert rows[2]["selection_accuracy"] > 0.2
    first, _, last = [
        torch.tensor(list(row["p"].values())).flatten() for row in read_jsonl(run.train_path / "posterior.jsonl")
    ]
    assert last.std() > 0.01
    assert (last - first).abs().max() > 0.05


def test_progress_is_reported_after_every_step(new_run) -> None:
    seen = []
    train(new_run(), make_recipe(**{"schedule.epochs": 2}), device="cpu", report=seen.append)
    assert [(report.step, report.steps, report.epoch) for report in seen] == [
        (n, 20, (n - 1) // 10) for n in range(1, 21)
    ]
    assert seen[0].metrics["loss"] > seen[0].metrics["ce"] > 0


# ---- what is repeated exactly ----


def test_a_seed_decides_every_bit(trained: RunDirectory, new_run) -> None:
    again, other = new_run(), new_run()
    torch.manual_seed(99)  # nothing that was drawn before may matter
    train(again, make_recipe(**{"budget.target_params": "0.5x"}), device="cpu")
    train(other, make_recipe(**{"budget.target_params": "0.5x", "seed": 1}), device="cpu")
    assert same(weights(again), weights(trained))
    assert untimed(again) == untimed(trained)
    assert not same(weights(other), weights(trained))


def test_what_a_step_draws_depends_on_its_key_and_the_rank_and_the_gates_share_theirs() -> None:
    drawn, gates = set(), set()
    for key, rank in (("0/0", 0), ("0/1", 0), ("0/0", 1), ("0/0", 0)):
        torch.rand(3)
        gates.add(seed_step(key, rank))
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 3
    assert len(gates) == 2


def test_resuming_past_a_damaged_checkpoint_ends_in_the_same_bits(trained: RunDirectory, trained_copy) -> None:
    newest = sorted(trained_copy.checkpoints_path.iterdir())[-1]
    (newest / "state.pt").write_bytes(b"")
    said, warned = list[str](), list[str]()
    record = train(trained_copy, device="cpu", resume=True, notice=said.append, warn=warned.append)
    assert warned == [f"checkpoint {newest} is damaged: it is passed over"]
    assert said == ["resuming after epoch 2 of 3"]
    assert same(weights(trained_copy), weights(trained))
    assert untimed(trained_copy) == untimed(trained)
    assert record["steps"] == 30
    assert last_checkpoint(trained_copy)[1] == []


def test_resuming_what_is_finished_says_so_and_changes_nothing(trained_copy: RunDirectory) -> None:
    before = {path: path.read_bytes() for path in trained_copy.path.rglob("*") if path.is_file()}
    said: list[str] = []
    record = train(trained_copy, device="cpu", resume=True, notice=said.append)
    assert said == [f"{trained_copy.path} has finished its 3 epochs: nothing to resume"]
    assert record == trained_copy.require("train")
    assert before == {path: path.read_bytes() for path in trained_copy.path.rglob("*") if path.is_file()}


def test_there_is_nothing_to_resume_before_training(new_run) -> None:
    with pytest.raises(RunError, match="no training to resume"):
        train(new_run(), device="cpu", resume=True)


# ---- gates and rates ----


def test_fixed_drop_never_moves_a_gate(new_run) -> None:
    run = new_run()
    record = train(run, make_recipe(), device="cpu", fixed_drop="0.3")
    assert record["fixed_drop"] == run.require("train")["fixed_drop"] == 0.3
    assert record["target_params"] is None
    initial = load_tensors(run.supernet_path, hint="")[0]
    final = weights(run)
    logits = [name for name in final if name.endswith("drop_logit")]
    assert len(logits) == 54
    assert all(torch.equal(final[name], initial[name]) for name in logits)
    assert not torch.equal(final["backbone.stem.weight"], initial["backbone.stem.weight"])
    for row in read_jsonl(run.train_path / "posterior.jsonl"):
        assert {p for values in row["p"].values() for p in values} == {0.3}
    assert len({row["expected_params"] for row in log(run)}) == 1


@pytest.mark.parametrize("granularity", ["group", "channel"])
def test_gates_may_be_trained_by_sgd(new_run, granularity: str) -> None:
    run = new_run()
    changes = {"optimizer.gate_optimizer": "sgd", "optimizer.gate_lr": 5.0, "objective.granularity": granularity}
    train(run, make_recipe(**{"schedule.epochs": 1, **changes}), device="cpu")
    p = torch.cat([gate.p.detach() for gate in trained_supernet(run).gates.values()])
    assert len(p) == (54 if granularity == "group" else 504)
    assert (p != p[0]).float().mean() > 0.5
    assert "gate_lr = 5.0" in (run.train_path / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("changes", "kind", "rate"),
    [
        ({}, torch.optim.Adam, Recipe().optimizer.resolved_gate_lr()),
        ({"gate_optimizer": "sgd"}, torch.optim.SGD, 0.3),
        ({"gate_lr": 0.5}, torch.optim.Adam, 0.5),
    ],
)
def test_the_gates_have_an_optimiser_of_their_own(changes: dict[str, Any], kind: type, rate: float) -> None:
    net = inflate("shakeshake26_2x2d", in_chans=1, img_size=8)
    chosen = make_recipe(
        **{"optimizer.lr": 0.3, "schedule.warmup_epochs": 0.0, **{f"optimizer.{k}": v for k, v in changes.items()}}
    )
    optimizers = Optimizers(net, chosen, 10)
    assert type(optimizers.gates) is kind
    assert {id(p) for p in optimizers.gates.param_groups[0]["params"]} == {id(p) for p in net.gate_parameters()}
    held = {id(p) for group in optimizers.weights.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters()} - {id(p) for p in net.gate_parameters()}
    assert optimizers.gates.param_groups[0]["initial_lr"] == rate
    assert {group["weight_decay"] for o in (optimizers.weights, optimizers.gates) for group in o.param_groups} == {0}


def test_a_constant_rate_has_nothing_to_optimise() -> None:
    net = inflate("shakeshake26_2x2d", in_chans=1, img_size=8)
    optimizers = Optimizers(net, make_recipe(**{"objective.fixed_drop": 0.3}), 10)
    assert (optimizers.gates, optimizers.learned) == (None, False)
    assert not any(logit.requires_grad for logit in net.gate_parameters())


def rates(**schedule: object) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler = make_scheduler(optimizer, override(Recipe(), {f"schedule.{k}": v for k, v in schedule.items()}), 10)
    found = []
    for step in range(10 * int(str(schedule["epochs"]))):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_step_schedule_drops_at_its_milestones() -> None:
    found = rates(name="step", epochs=6, warmup_epochs=0.0, milestones=[2, 4], gamma=0.1)
    assert found == pytest.approx([0.4] * 20 + [0.04] * 20 + [0.004] * 20)
    warm = rates(name="step", epochs=6, warmup_epochs=1.0, milestones=[2, 4], gamma=0.1)
    assert warm[:10] == sorted(set(warm[:10]))
    assert warm[0] == pytest.approx(0.4 / 11)
    assert warm[10:] == pytest.approx(found[10:])


def test_cosine_schedule_warms_up_and_falls_to_nothing() -> None:
    found = rates(name="cosine", epochs=5, warmup_epochs=1.0)
    assert found[:10] == sorted(set(found[:10]))
    assert found[10:] == sorted(set(found[10:]), reverse=True)
    assert max(found) == pytest.approx(0.4, rel=0.01)
    assert found[-1] < 0.002
    wanted = [0.2 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert found[10:] == pytest.approx(wanted)


def test_the_logged_rate_is_that_of_the_last_step(new_run) -> None:
    run = new_run()
    schedule = {"schedule.name": "step", "schedule.milestones": [1, 2], "schedule.warmup_epochs": 0.0}
    train(run, make_recipe(**{"optimizer.lr": 0.1, **schedule}), device="cpu")
    assert [row["lr"] for row in log(run)] == pytest.approx([0.1, 0.01, 0.001])


# ---- how it stops, and what it refuses ----


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_goes_on(new_run, trained, monkeypatch, value) -> None:
    run = new_run()
    with monkeypatch.context() as patch:
        Faulty(patch, step=14, value=value)
        with pytest.raises(PgnasError, match="the loss is nan at step 14") as error:
            train(run, make_recipe(**{"budget.target_params": "0.5x"}), device="cpu")
    assert "\n" not in str(error.value) + error.value.hint
    assert "--lr" in error.value.hint
    assert (last_checkpoint(run)[0].epoch, run.stage("train"), len(log(run))) == (1, None, 1)
    train(run, device="cpu", resume=True)
    assert same(weights(run), weights(trained))


def test_a_rate_that_is_far_too_high_stops_with_one_line(new_run) -> None:
    run = new_run()
    with pytest.raises(PgnasError, match=r"the loss is (nan|inf)") as error:
        train(run, make_recipe(**{"optimizer.lr": 1e20}), device="cpu")
    assert "\n" not in str(error.value)
    assert run.stage("train") is None


def test_an_unfinished_training_restarts_only_with_force(new_run, trained, monkeypatch) -> None:
    run = new_run()
    with monkeypatch.context() as patch:
        Faulty(patch, step=25)
        with pytest.raises(PgnasError):
            train(run, make_recipe(**{"seed": 5}), device="cpu")
    with pytest.raises(RunError, match="unfinished") as error:
        train(run, make_recipe(), device="cpu")
    assert "--resume" in error.value.hint
    assert "--force" in error.value.hint
    assert last_checkpoint(run)[0].epoch == 2
    train(run, make_recipe(**{"budget.target_params": "0.5x"}), device="cpu", force=True)
    assert same(weights(run), weights(trained))
    assert len(log(run)) == 3


def test_training_again_after_sampling_asks_for_force_and_drops_the_candidates(trained_copy: RunDirectory) -> None:
    sample(trained_copy, n=2)
    before = weights(trained_copy)
    with pytest.raises(RunError, match="sample already used what train wrote") as error:
        train(trained_copy, make_recipe(), device="cpu")
    assert "pgnas train --force" in error.value.hint
    assert same(weights(trained_copy), before)
    train(trained_copy, make_recipe(**{"schedule.epochs": 1}), device="cpu", force=True)
    assert list(trained_copy.manifest()["stages"]) == ["inflate", "train"]
    assert not (trained_copy.path / "candidates.jsonl").exists()


@pytest.mark.parametrize(
    "changes", [{"budget.target_params": "0.0001x"}, {"data.name": "digitz"}, {"data.limit_train": 3}]
)
def test_a_request_that_is_refused_leaves_the_last_training_alone(trained_copy, changes: dict[str, Any]) -> None:
    before = weights(trained_copy)
    with pytest.raises(PgnasError):
        train(trained_copy, make_recipe(**changes), device="cpu")
    assert same(weights(trained_copy), before)
    assert len(log(trained_copy)) == 3


def test_trained_weights_that_are_damaged_are_a_run_error(trained_copy: RunDirectory) -> None:
    path = trained_copy.path / trained_copy.require("train")["checkpoint"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged or truncated") as error:
        trained_supernet(trained_copy)
    assert "pgnas train" in error.value.hint
    manifest = json.loads(trained_copy.manifest_path.read_text())
    del manifest["stages"]["train"]["checkpoint"]
    trained_copy.manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="names no checkpoint"):
        trained_supernet(trained_copy)


def test_a_target_and_a_fixed_rate_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        make_recipe(**{"budget.target_params": "0.5x", "objective.fixed_drop": 0.3})


def test_weights_that_are_not_finite_are_never_checkpointed(new_run, monkeypatch) -> None:
    run = new_run()
    whole = Optimizers.step
    last = 20  # of the second epoch: ten steps each

    def poisoned(self: Optimizers, step: int, *options: Any, **more: Any) -> None:
        whole(self, step, *options, **more)
        if step == last - 1:
            with torch.no_grad():
                self.weights.param_groups[0]["params"][0].fill_(float("nan"))

    monkeypatch.setattr(Optimizers, "step", poisoned)
    with pytest.raises(PgnasError, match="weights are not finite after step"):
        train(run, make_recipe(**{"schedule.epochs": 3}), device="cpu")
    kept, damaged = last_checkpoint(run)
    assert kept is not None
    assert (kept.epoch, damaged) == (1, [])
