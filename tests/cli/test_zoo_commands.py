"""`pgnas zoo list | show | check`, and what the shell offers at the TAB key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgnas_cli.__main__ import main
from pgnas_cli.commands._gating import by_stage
from pgnas_cli.console import Output
from pgnas_cli.plugin import ArchitectureInfo
from pgnas_cli.registry import PluginStatus, architectures, plugins
from pgnas_cli.supernet import proof

SMALL = "shakeshake26_2x2d"

PLUGIN = """
from pgnas_cli.plugin import ArchitectureInfo, ZooPlugin
print("welcome to", __name__)
class Plugin(ZooPlugin):
    name = __name__
    def architectures(self): return [ArchitectureInfo(__name__ + "_net", params=1200, macs=0, summary="ours")]
    def build(self, arch, inflation, *, num_classes, in_chans, img_size, pretrained=False): raise ValueError("no")
    def gate_groups(self, model): return {}
"""


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with two installed distributions: one whose plugin prints when it is imported, one that exits."""
    folder = tmp_path / "site"
    for name, source in {"chatty": PLUGIN, "leaver": "raise SystemExit('licence\\nexpired')\n"}.items():
        information = folder / f"{name}-2.0.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (information / "entry_points.txt").write_text(f"[pgnas.zoo]\n{name} = {name}:Plugin\n")
        (folder / f"{name}.py").write_text(source)
    return folder


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch):
    """listed(info, ...) makes these the architectures of one plugin, the only one."""

    def install(*infos: ArchitectureInfo) -> None:
        kind = type(plugins()[0].plugin)
        found = type("Plugin", (kind,), {"name": "acme", "architectures": lambda self: infos})()
        monkeypatch.setattr("pgnas_cli.registry.plugins", lambda: (PluginStatus("acme", "acme 1.0", found),))

    return install


# ---- list ----


@pytest.mark.parametrize("json_option", [[], ["--json"]], ids=["table", "json"])
def test_list_survives_plugins_that_print_and_exit(pgnas, site: Path, json_option: list[str]) -> None:
    done = pgnas("zoo", "list", *json_option, env={"PYTHONPATH": str(site)})
    assert done.returncode == 0
    assert done.stderr.splitlines()[:2] == [
        "welcome to chatty",
        "warning: plugin leaver of leaver 2.0 is left out: import of leaver:Plugin fails: SystemExit: licence expired: "
        "install leaver 2.0 again, or uninstall it",
    ]
    assert "welcome" not in done.stdout
    if json_option:
        rows = {row["name"]: row for row in json.loads(done.stdout)}
        assert (rows["chatty_net"]["plugin"], rows["chatty_net"]["params"]) == ("chatty", 1200)
        assert "resnet50" in rows
    else:
        assert "chatty_net" in done.stdout


def test_published_supernets_stand_first_beside_their_published_size(capsys) -> None:
    code, out, _ = say(capsys, "zoo", "list")
    assert code == 0
    first, _, second = out.partition("\n\n")
    assert [line.split()[0] for line in first.splitlines()[3:]] == [
        info.name for _, info in architectures() if info.published_params is not None
    ]
    assert next(line for line in first.splitlines() if line.startswith("supnet-mi")).split()[2:6] == [
        *("72.7", "M", "72.7", "M")
    ]
    assert "published" not in second
    assert len(second.splitlines()) - 3 == sum(info.published_params is None for _, info in architectures())


def test_list_json_holds_every_fact(capsys, listed) -> None:
    info = ArchitectureInfo("net", 10, 20, 5, 8, 1, "small", 11.5, "Table 1", "plain", "paper/net")
    listed(info)
    code, out, err = say(capsys, "zoo", "list", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [{"plugin": "acme", **vars(info)}]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet", ["resnet18", "my_ResNet"]),
        ("resnet*", ["resnet18"]),
        ("*RESNET", ["my_ResNet"]),
        ("other", ["other"]),
        ("acme", ["resnet18", "my_ResNet", "other"]),
        ("*[0-9]", ["resnet18"]),
    ],
)
def test_list_takes_a_part_or_a_pattern(capsys, listed, pattern: str, names: list[str]) -> None:
    listed(*(ArchitectureInfo(name, 1, 1) for name in ("resnet18", "my_ResNet", "other")))
    code, out, _ = say(capsys, "zoo", "list", pattern, "--json")
    assert (code, [row["name"] for row in json.loads(out)]) == (0, names)


def test_list_says_when_nothing_matches(capsys) -> None:
    code, out, err = say(capsys, "zoo", "list", "resnet500")
    assert (code, out) == (2, "")
    assert err.startswith("error: no architecture matches 'resnet500'; did you mean resnet50")


@pytest.mark.parametrize(
    ("width", "headings", "cut"),
    [
        (10_000, "architecture plugin params MACs image classes summary", ""),
        (120, "architecture plugin params MACs image classes summary", "…"),
        (80, "architecture plugin params MACs image classes", ""),
        (55, "architecture params MACs", ""),
        (20, "architecture params", ""),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(capsys, listed, monkeypatch, width: int, headings: str, cut: str) -> None:
    monkeypatch.setattr(Output, "width", width)
    listed(ArchitectureInfo("a_name_of_thirty_characters_xx", 25_557_032, 4_089_184_256, summary="word " * 20))
    code, out, _ = say(capsys, "zoo", "list")
    title, head, _, row = out.splitlines()
    assert (code, title, head.split()) == (0, "to be inflated", headings.split())
    assert row.endswith(cut)
    assert len(row) <= max(width, 39)


def test_the_narrowest_terminal_shows_whole_names(capsys, listed, monkeypatch) -> None:
    monkeypatch.setattr(Output, "width", 40)
    listed(ArchitectureInfo("supnet-d121", 7_978_856, 0, published_params=7.98e6, recipe="paper/imagenet-d121"))
    _, out, _ = say(capsys, "zoo", "list")
    assert out.splitlines()[1].split() == ["architecture", "params", "published"]
    assert out.splitlines()[3].split() == ["supnet-d121", "7.98", "M", "7.98", "M"]


def test_list_and_completion_do_not_import_torch(pgnas, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    for arguments, env in {
        ("zoo", "list"): {},
        ("zoo", "new", "tiny-net"): {},
        (): {"_PGNAS_COMPLETE": "complete_bash", "COMP_WORDS": "pgnas inflate resnet5", "COMP_CWORD": "2"},
    }.items():
        done = pgnas(*arguments, env={"PYTHONPATH": str(tmp_path), **env})
        assert (done.returncode, "torch" in done.stderr) == (0, False), done.stderr


# ---- show ----


def test_show_says_what_an_architecture_is(capsys) -> None:
    code, out, err = say(capsys, "zoo", "show", "supnet-mi", "--json")
    shown = json.loads(out)
    assert (code, err) == (0, "")
    assert (shown["params"], shown["published_params"], shown["options"]) == (72_695_194, 72.7e6, ["width"])
    assert (shown["base"], shown["recipe"]) == ("shakeshake26_2x96d", "paper/cifar10-mi")
    assert shown["ungated"] == {"stem": "reads the image", "fc": "writes the logits"}
    assert shown["barriers"] == {}
    code, out, err = say(capsys, "zoo", "show", "supnet-mi")
    assert (code, err) == (0, "next: pgnas inflate supnet-mi\n")
    for text in ("inflation of  shakeshake26_2x96d", "pgnas train --recipe paper/cifar10-mi", "published     72.7 M"):
        assert text in out
    assert "stage1" in out
    assert "stage1.0.branch1.conv1" not in out


def test_show_lists_every_layer_if_asked(capsys) -> None:
    code, out, _ = say(capsys, "zoo", "show", SMALL, "--layers")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("stage")]
    assert len(rows) == 54
    assert rows[:2] == [["stage1.0.branch1.conv1", "16", "1"], ["stage1.0.branch1.conv2", "2", "1"]]
    assert "54 groups over 284 inputs of 54 layers are gated" in out
    assert "not gated, reads the image: stem" in out


def test_show_names_depthwise_layers_and_barriers(capsys, monkeypatch) -> None:
    from torch import nn

    def build(spec, **_):
        body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(body, nn.Conv2d(4, 4, 1), pool, nn.Linear(4, 2)), {"1": [4]}

    monkeypatch.setattr("pgnas_cli.registry.build_backbone", build)
    code, out, _ = say(capsys, "zoo", "show", SMALL, "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["gated"] == {"1": [4]}
    assert shown["ungated"] == {
        "0.0": "reads the image",
        "0.1": "depthwise",
        "0.3": "left out by the plugin",
        "3": "writes the logits",
    }
    assert shown["barriers"] == {"0.2": "GroupNorm"}
    code, out, _ = say(capsys, "zoo", "show", SMALL)
    assert "not gated, depthwise: 0.1\n" in out
    assert "barrier (correct, not thinned), GroupNorm: 0.2\n" in out


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        ("layer1.0.conv layer1.1.conv layer2.0.conv layer3.0.conv", "layer1 layer2 layer3"),
        ("features.a.conv features.b.conv features.b.fc features.c.conv", "features.a features.b features.c"),
        ("blocks.0.0.a blocks.0.1.a blocks.1.0.a blocks.2.0.a head", "blocks.0 blocks.1 blocks.2 head"),
        ("a.b.c", "a.b.c"),
        ("", ""),
    ],
)
def test_stages_are_the_first_words_of_the_names(names: str, stages: str) -> None:
    found = by_stage(names.split())
    assert list(found) == stages.split()
    assert sorted(name for stage in found.values() for name in stage) == sorted(names.split())


# ---- check ----


def test_check_proves_what_it_names(capsys) -> None:
    arguments = ("zoo", "check", SMALL, "-n", "2", "--img-size", "8", "--seed", "3", "--width", "2")
    code, out, err = say(capsys, *arguments, "--json", "--quiet")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["name"], found["img_size"], found["passed"]) == (SMALL, 8, True)
    assert found["gated"]["stage1.0.branch1.conv2"] == [4]
    comparisons = {row["kind"]: row for row in found["comparisons"]}
    assert comparisons["random"]["n"] == 4
    assert found["worst"] == max(row["worst"] for row in found["comparisons"]) <= found["tolerance"]


def test_check_prints_a_table(capsys, monkeypatch) -> None:
    found = proof.Proof((proof.Comparison("random", 4, 3e-7), proof.Comparison("all kept", 1, 0.0)))
    monkeypatch.setattr(proof, "prove", lambda net, **options: found)
    code, out, err = say(capsys, "zoo", "check", SMALL)
    assert code == 0
    assert "54 of 56 convolutions and linear layers are searchable, 284 inputs in 54 groups" in out
    assert [line.split() for line in out.splitlines() if line.startswith(("random", "all kept"))] == [
        ["random", "4", "3.0e-07"],
        ["all", "kept", "1", "0.0e+00"],
    ]
    assert "passed: 3.0e-07, at most 1e-05 counts as equal" in out
    assert err.splitlines()[-1] == f"next: pgnas inflate {SMALL}"
    _, _, err = say(capsys, "zoo", "check", SMALL, "--width", "2", "--img-size", "16")
    assert err.splitlines()[-1] == f"next: pgnas inflate {SMALL} --width 2.0 --img-size 16"


@pytest.mark.parametrize("worst", [2e-3, float("inf")])
def test_check_fails_with_the_kind_of_masks(capsys, monkeypatch, worst: float) -> None:
    found = proof.Proof((proof.Comparison("random", 4, 3e-7), proof.Comparison("one layer emptied", 9, worst)))
    monkeypatch.setattr(proof, "prove", lambda net, **options: found)
    code, out, err = say(capsys, "zoo", "check", SMALL, "--json")
    assert code == 1
    assert json.loads(out)["passed"] is False
    error, hint = err.splitlines()[-2:]
    assert error.startswith(f"error: {SMALL} of pgnas ")
    assert f"differ by {worst:.1e} (one layer emptied), at most 1e-05" in error
    assert hint.startswith("hint: leave layers out of gate_groups")
    code, out, err = say(capsys, "zoo", "check", SMALL)
    assert code == 1
    assert "differs" in out
    assert "next:" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "unknown architecture 'nope'"),
        ((SMALL, "-n", "0"), "-n"),
        ((SMALL, "--kernels", "1,3"), "the shakeshake family has no --kernels"),
    ],
)
def test_check_refuses_what_inflate_refuses(capsys, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = say(capsys, "zoo", "check", *arguments)
    assert (code, out) == (2, "")
    assert message in err


# ---- completion ----


def complete(pgnas, line: str, **env: str) -> list[str]:
    """What bash offers for the last word of `line`."""
    words = line.split(" ")
    env = {"_PGNAS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), **env}
    done = pgnas(env=env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize("command", ["inflate", "zoo show", "zoo check"])
def test_the_shell_completes_architectures(pgnas, command: str) -> None:
    expected = [info.name for _, info in architectures() if info.name.startswith("resnet1")]
    assert complete(pgnas, f"pgnas {command} resnet1") == expected
    assert len(expected) >= 3


def test_the_shell_completes_recipes_and_leaves_files_to_itself(pgnas) -> None:
    assert complete(pgnas, "pgnas train --recipe di") == ["digits"]
    assert complete(pgnas, "pgnas train --recipe ./my") == []


def test_a_chatty_or_broken_plugin_does_not_disturb_completion(pgnas, site: Path) -> None:
    assert complete(pgnas, "pgnas inflate chat", PYTHONPATH=str(site)) == ["chatty_net"]
