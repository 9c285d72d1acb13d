"""The model card: what the Hub reads of it, what a reader runs of it, and the cards of unusual networks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from card_case import Case, make_case
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

from pgnas_cli.errors import RunError
from pgnas_cli.export.card import FRONT, card_for, render_card
from pgnas_cli.export.card_data import hub_dataset
from pgnas_cli.export.choice import choose
from pgnas_cli.export.facts import card_facts
from pgnas_cli.export.loading import load
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.run import RunDirectory, read_json, read_jsonl, write_json


@pytest.fixture(scope="module")
def case(exported: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Read only."""
    return make_case(exported, tmp_path_factory.mktemp("card"))


# ---- front matter -------------------------------------------------------------------------------------------


def test_the_hub_reads_the_front_matter_back(case: Case) -> None:
    data = ModelCard(card_for(case.folder, "alice/tiny")).data.to_dict()
    index = data.pop("model-index")
    assert data == {
        "license": "unknown",
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "pgnas", "neural-architecture-search", "pytorch"],
        "metrics": ["accuracy"],
    }
    name, (result,) = model_index_to_eval_results(index)
    test = case.ranking["test_accuracy"]
    assert name == "tiny"
    assert (result.task_type, result.dataset_name, result.dataset_type, result.dataset_split) == (
        "image-classification", "digits", "digits", "test",
    )  # fmt: skip
    assert (result.metric_type, result.metric_value) == ("accuracy", test["value"])
    assert result.metric_args == {
        "interval": "Wilson",
        "confidence": 0.95,
        **{k: test[k] for k in ("low", "high", "n")},
    }
    assert result.metric_name is not None
    assert "95 % Wilson interval" in result.metric_name


def test_the_front_matter_of_a_known_data_set_and_of_pretrained_weights(case: Case) -> None:
    card = case.card(
        data={**case.section["data"], "spec": "torch/cifar10"},
        start={"pretrained": "timm", "base_model": "timm/resnet18.a1_in1k"},
        license="Apache-2.0",
        test_accuracy=None,
    )
    data = ModelCard(card).data
    assert (data.datasets, data.base_model, data.license) == (
        ["uoft-cs/cifar10"], "timm/resnet18.a1_in1k", "apache-2.0",
    )  # fmt: skip
    assert "model-index" not in data.to_dict()
    assert "model_name" not in data.to_dict()
    assert "timm's pretrained weights, `timm/resnet18.a1_in1k`" in card
    assert "licensed under `Apache-2.0`" in card


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("hfds/alice/flowers", "alice/flowers"),
        ("hfds/beans", "beans"),
        ("hfds/../../etc", None),
        ("hfds/a/b\nlicense: mit", None),
        ("torch/fashion_mnist", "zalando-datasets/fashion_mnist"),
        ("torch/kmnist", None),
        ("folder:flowers", None),
        ("digits", None),
    ],
)
def test_the_hubs_name_of_a_data_set(spec: str, name: str | None) -> None:
    assert hub_dataset(spec) == name


OTHER_TIMM = {"versions": {"timm": "0.0.1"}}


@pytest.mark.parametrize(
    ("changes", "record", "start"),
    [
        ({}, {"pretrained": False, "weights": None}, (None, None)),
        ({}, {"pretrained": True, "weights": None}, ("timm", "timm/resnet18.a1_in1k")),
        ({}, {"pretrained": True, "weights": "/somewhere/w.safetensors"}, ("file", None)),
        (OTHER_TIMM, {"pretrained": True}, ("timm", None)),
        (
            {**OTHER_TIMM, "model": {"arch": "resnet18.a1_in1k"}},
            {"pretrained": True},
            ("timm", "timm/resnet18.a1_in1k"),
        ),
        ({"model": {"distribution": "other 1.0"}}, {"pretrained": True}, ("timm", None)),
    ],
)
def test_the_base_model_is_named_where_it_is_certain(
    run: RunDirectory, changes: dict[str, Any], record: dict[str, Any], start: tuple[str | None, str | None]
) -> None:
    manifest = read_json(run.manifest_path)
    manifest["model"] |= {"arch": "resnet18", "plugin": "resnet", **changes.get("model", {})}
    manifest["versions"] |= changes.get("versions", {})
    manifest["stages"]["inflate"] |= record
    write_json(run.manifest_path, manifest)
    ranking = read_json(run.rank_path / "ranking.json")
    found = card_facts(run, choose(run, ranking["winner"]), ranking)
    assert (found["start"]["pretrained"], found["start"]["base_model"]) == start
    assert "/somewhere" not in json.dumps(found)


# ---- the snippet --------------------------------------------------------------------------------------------


def snippets(card: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("repo_id", [None, "alice/tiny@v1"])
def test_the_snippets_of_the_card_run(
    case: Case, repo_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(case.folder, tmp_path / "artifact")
    monkeypatch.chdir(folder if repo_id is None else tmp_path)
    Image.effect_noise((31, 17), 90).convert("RGB").save("image.png")
    monkeypatch.setattr("pgnas_cli.export.hub.fetch", lambda name, revision=None, **_: {repo_id: folder}[name])
    sort, from_timm, adapt = snippets(card_for(folder, repo_id))
    names: dict[str, Any] = {}
    exec(compile(sort, "sort", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    shares = [float(line.partition(": ")[2].removesuffix("%")) for line in lines]
    assert shares == sorted(shares, reverse=True)
    assert {line.partition(": ")[0] for line in lines} <= set(case.class_names)
    if repo_id is None:
        exec(compile(from_timm, "timm", "exec"), names)  # names["network"] is timm's now
        images = torch.rand(2, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(names["network"](images), load(folder)(images))
        exec(compile(adapt, "adapt", "exec"), names)
        assert names["classifier"].num_classes == 5
        maps = names["backbone"](images)
        assert len(maps) > 1
        assert {len(each.shape) for each in maps} == {4}
    else:  # the whole way is walked against a Hub elsewhere
        assert f'timm.create_model("hf-hub:{repo_id}", pretrained=True)' in from_timm
        assert adapt.count(f'pgnas.load("{repo_id}"') == 2


def test_a_foreign_plugin_has_to_be_trusted_in_every_line(case: Case) -> None:
    spec = BuildSpec.from_json({**case.section["backbone"], "plugin": "tiny", "distribution": "pgnas-tiny 0.1"})
    card = render_card(spec, case.section, repo_id="alice/tiny")
    calls = [line for line in card.splitlines() if "pgnas.load(" in line or "create_model(" in line]
    assert len(calls) == 4
    assert all("trust_plugins=True" in line for line in calls)
    assert "plugin `tiny` of `pgnas-tiny 0.1`" in card
    assert "pgnas verify alice/tiny --trust-plugins\n" in card
    assert "trust" not in render_card(spec, case.section)


# ---- other networks -----------------------------------------------------------------------------------------

WIDTHS = {"before": {"multiples": 3, "widths": 9}, "after": {"multiples": 8, "widths": 9}}
SCORE = {"value": 0.75, "low": 0.7, "high": 0.8, "n": 360}
ROUNDED = {"to": 8, "from": {"id": "0123456789abcdef", "selection_accuracy": SCORE}, "added": 5, "dropped": 2,
           "widths": WIDTHS, "selection_accuracy": SCORE, "left": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "there", "gone"),
    [
        ({"test_accuracy": None, "chosen_by": "candidate"}, "it is not the winner", "| test |"),
        ({"test_accuracy": None, "chosen_by": "at", "max_params": 4321}, "at most 4,321 parameters", "| test |"),
        (
            {"test_accuracy": None, "selection_accuracy": None, "chosen_by": "candidate"},
            "not been evaluated on the whole selection split either", "| selection |",
        ),
        ({"fidelity": None}, "## The front", "Fidelity"),
        ({"front": None}, "## Fidelity", "](front.png)"),
        ({"fold_bn": True}, "without `--fold-bn`", "Latency:"),
        ({"layout": "dense"}, "The layout is dense", "Latency:"),
        (
            {"rounded": ROUNDED, "test_accuracy": None, "chosen_by": "rounded"},
            "8 of 9 widths are multiples now, 3 of 9 were before", "nothing had to change",
        ),
        ({"rounded": {**ROUNDED, "added": 0, "dropped": 0}}, "nothing had to change", "another network"),
        ({"search": None, "cost": None, "weights": None, "start": None}, "- Ranking: ", "- Recipe"),
        ({"license": "mit"}, "licensed under `mit`", "No licence"),
    ],
)  # fmt: skip
def test_cards_of_other_networks(case: Case, changes: dict[str, Any], there: str, gone: str) -> None:
    card = case.card(**changes)
    assert there in card
    assert gone not in card
    assert ModelCard(card).data.library_name == "timm"
    assert not re.search(r"\n\n\n|None|Undefined", card)


def test_a_constant_drop_rate_is_no_posterior(case: Case) -> None:
    card = case.card(training={**case.section["training"], "fixed_drop": 0.3125})
    assert "constant drop rate 0.3125; no posterior was learned, 1 epoch," in card
    assert "posterior-guided architecture search" not in card


def test_a_network_that_the_front_leaves_out(case: Case) -> None:
    known = {point["id"] for point in case.ranking["front"]["points"]}
    rows = read_jsonl(case.run.rank_path / "leaderboard.jsonl")
    other = next(row["id"] for row in rows if row["id"] not in known)
    facts = card_facts(case.run, choose(case.run, case.ranking["winner"], other), case.ranking)
    assert facts["front"]["latency"] is None
    card = case.card(**facts, test_accuracy=None, chosen_by="candidate")
    assert "not marked in the picture: it is one of the other candidates." in card
    assert "The chosen network has" not in card
    rounded = case.card(**facts, rounded=ROUNDED, test_accuracy=None, chosen_by="rounded")
    assert "not marked in the picture: it was made after the ranking." in rounded


def test_the_confidence_is_the_rankings_for_its_winner_only(case: Case) -> None:
    ranking, other = {**case.ranking, "confidence": 0.9}, read_jsonl(case.run.rank_path / "leaderboard.jsonl")[1]["id"]
    winner, another = choose(case.run, ranking["winner"]), choose(case.run, ranking["winner"], other)
    assert card_facts(case.run, winner, ranking)["confidence"] == 0.9
    assert card_facts(case.run, another, ranking)["confidence"] == 0.95
    assert "In parentheses: 90 % Wilson intervals." in case.card(confidence=0.9)


def test_every_file_is_named(case: Case) -> None:
    files = {**case.section["files"], "model.onnx": {}, "model.pt2": {}, "notes.txt": {}}
    listed = re.findall(r"^- `([\w.]+)`: ", case.card(files=files), re.MULTILINE)
    assert sorted(listed) == sorted([*files, "config.json", "README.md"])


def test_without_names_of_classes_they_are_numbered(case: Case) -> None:
    card = render_card(case.spec, case.section)
    assert "names = range(10)" in card
    assert "label_names" not in card
    two = BuildSpec.from_json({**case.section["backbone"], "num_classes": 2, "in_chans": 3})
    (sort, *_) = snippets(render_card(two, case.section, class_names=["cat", "dog"]))
    assert "topk(2)" in sort
    assert 'convert("RGB")' in sort


def test_many_classes_are_counted(case: Case) -> None:
    card = render_card(case.spec, case.section, class_names=[f"class {n}" for n in range(1000)])
    assert "`class 99` and 900 more." in card
    assert "`class 100`" not in card


# ---- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("pgnas", "candidate", "params"), "many", "pgnas.candidate.params"),
        (("pgnas", "test_accuracy"), {"value": 1}, "pgnas.test_accuracy.low"),
        (("pgnas", "backbone", "arch"), 3, "arch"),
        (("pgnas", "front"), [], "pgnas.front"),
        (("pretrained_cfg",), None, "pretrained_cfg"),
    ],
)
def test_a_damaged_config_is_refused(
    case: Case, tmp_path: Path, keys: tuple[str, ...], value: object, told: str
) -> None:
    config = place = read_json(case.folder / "config.json")
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    write_json(tmp_path / "config.json", config)
    with pytest.raises(RunError, match=re.escape(told)):
        card_for(tmp_path)


@pytest.mark.parametrize("key", ["images_exhaustive", "seed"])
def test_a_ranking_that_lacks_a_key_is_refused(case: Case, key: str) -> None:
    ranking = {name: value for name, value in case.ranking.items() if name != key}
    with pytest.raises(RunError, match=key):
        card_facts(case.run, choose(case.run, case.ranking["winner"]), ranking)


def test_the_same_artifact_has_the_same_card_anywhere(case: Case, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(case.folder, tmp_path / "elsewhere")
    assert card_for(elsewhere, "alice/tiny") == card_for(case.folder, "alice/tiny")
    lines = {line for line in card_for(elsewhere).splitlines() if "alice" in line}
    assert lines == set()


def test_the_readme_of_an_export_is_the_card_of_its_config(case: Case, exported: RunDirectory) -> None:
    for folder in (case.folder, exported.export_path):
        assert (folder / "README.md").read_text() == card_for(folder)
    assert FRONT not in read_json(exported.export_path / "config.json")["pgnas"]["files"]
