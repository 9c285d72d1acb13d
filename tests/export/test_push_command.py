"""`pgnas export --push-to-hub`: what is asked, said and written down; and the whole way through real processes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import LocalHub, environment, use

from pgnas_cli.__main__ import main
from pgnas_cli.export.artifact import is_artifact
from pgnas_cli.export.card import card_for
from pgnas_cli.export.hub import NEEDED, fetch
from pgnas_cli.report.facts import Facts
from pgnas_cli.run import RunDirectory, read_json

TOKEN = "hf_alice_writes"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with LocalHub() as local:
        use(monkeypatch, local.url, tmp_path / "home", TOKEN)
        yield local


@pytest.fixture
def calls(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The exports that were asked for. They take no time: what the run has exported once is there again."""
    asked: list[dict[str, Any]] = []

    def again(run: RunDirectory, **options: Any) -> dict[str, Any]:
        asked.append(options)
        record = {key: value for key, value in run.require("export").items() if key not in ("finished", "hub")}
        run.finish("export", record)
        return record

    monkeypatch.setattr("pgnas_cli.export.export.export", again)
    return asked


@pytest.fixture
def exporting(run: RunDirectory, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """`exporting("--tag", "v1")` -> exit code, stdout, stderr of a push; in the end the token is nowhere."""
    said: list[str] = []

    def push(*options: str, push: bool = True) -> tuple[int, str, str]:
        code = main(["export", "--run", str(run.path), *(["--push-to-hub"] if push else []), *options])
        out, err = capsys.readouterr()
        said.extend((out, err))
        return code, out, err

    yield push
    assert TOKEN not in "".join(said)
    assert not [path for path in run.path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_what_a_push_prints_and_writes_down(hub: LocalHub, run: RunDirectory, exporting: Any) -> None:
    code, out, err = exporting("--tag", "v1")
    commit = hub.repos["alice/run"].find("v1")
    assert (code, commit is not None) == (0, True)
    address = f"{hub.url}/alice/run/tree/v1"
    assert out.splitlines()[-4:] == [
        f"{address}: made, 5 files uploaded, 0 unchanged, tag v1 set; commit {commit[:8]}",
        "    import pgnas_cli as pgnas",
        '    network = pgnas.load("alice/run@v1")',
        "    logits = network(images)",
    ]
    assert err.splitlines() == ["upload  0/100 %", "upload  100/100 %", "next: pgnas verify alice/run@v1"]
    stage = run.require("export")
    assert stage["hub"] == {
        "repo_id": "alice/run", "url": address, "revision": commit, "name": "alice/run@v1", "branch": "main",
        "tag": "v1",
    }  # fmt: skip
    assert Facts.read(run).stage("export") == stage
    assert main(["status", "--run", str(run.path)]) == 0


def test_json_and_the_second_push(hub: LocalHub, run: RunDirectory, exporting: Any) -> None:
    code, out, err = exporting("--json", "--quiet", "--repo-id", "lab/net", "--private", "--branch", "dev")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["candidate"] == run.require("export")["candidate"]
    pushed = document["hub"]
    assert (pushed["name"], pushed["created"], pushed["removed"], pushed["tagged"]) == ("lab/net@dev", True, [], False)
    assert sorted(pushed["uploaded"]) == sorted(path.name for path in run.export_path.iterdir())
    assert pushed["snippet"].splitlines()[1] == 'network = pgnas.load("lab/net@dev")'
    assert hub.repos["lab/net"].private
    before = hub.changing()
    code, out, _ = exporting("--repo-id", "lab/net", "--branch", "dev")
    assert (code, hub.changing()) == (0, before)
    assert f"lab/net/tree/dev: nothing to do: every file is there already; commit {pushed['revision'][:8]}" in out
    _, out, _ = exporting("--repo-id", "lab/net", "--branch", "dev", "--tag", "v1")
    assert f"every file is there already, tag v1 set; commit {pushed['revision'][:8]}" in out
    assert "nothing to do" not in out
    _, out, _ = exporting("--repo-id", "lab/net", "--branch", "dev", "--tag", "v1")
    assert "nothing to do" in out
    _, out, _ = exporting("--json", "--quiet", "--repo-id", "lab/net", "--branch", "dev", "--tag", "v2")
    assert json.loads(out)["hub"]["tagged"] is True


def test_an_export_without_a_push_asks_nobody_and_forgets_the_last(
    hub: LocalHub, run: RunDirectory, exporting: Any
) -> None:
    exporting()
    hub.requests.clear()
    code, out, _ = exporting(push=False)
    assert (code, hub.requests) == (0, [])
    assert "pgnas.load" not in out
    assert "hub" not in run.require("export")


def test_every_option_reaches_the_export(hub: LocalHub, exporting: Any, calls: list[dict[str, Any]]) -> None:
    given = "--onnx --pt2 --fold-bn --round-to 8 --layout auto --license apache-2.0 --at 0.5x --workers 0"
    assert exporting(*given.split(), push=False)[0] == 0
    assert calls[0] == {
        "onnx": True, "pt2": True, "fold_bn": True, "round_to": 8, "layout": "auto", "license": "apache-2.0",
        "at": "0.5x", "workers": 0, "candidate": None, "output": None, "data_dir": None,
    }  # fmt: skip


# ---- what fails ----


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ("--repo-id bob/net", 5, "the token of alice may not write to bob, only to alice, lab"),
        ("--repo-id net", 2, "'net' is no repository of the Hub"),
        ("--repo-id datasets/alice/net", 2, "names one of the Hub's datasets"),
        ("--tag v1..2", 2, "--tag cannot be 'v1..2'"),
        ("--branch x --tag x", 2, "branch and tag are both called 'x'"),
        ("--repo-id alice/others", 5, "alice/others holds something else than a network of pgnas"),
    ],
)
def test_the_hub_is_asked_before_the_export_begins(
    hub: LocalHub, exporting: Any, calls: list[dict[str, Any]], options: str, code: int, says: str
) -> None:
    hub.add("alice/others", {"pytorch_model.bin": b"theirs"})
    found, out, err = exporting(*options.split())
    assert (found, out, calls, hub.changing()) == (code, "", [], [])
    assert err.startswith("error: ")
    assert says in err


def test_a_repository_of_another_kind_names_the_command_for_another(
    hub: LocalHub, run: RunDirectory, exporting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("alice/run", {"pytorch_model.bin": b"theirs"})
    _, _, err = exporting("--tag", "v1")
    command = f"pgnas export --run {run.path} --push-to-hub --repo-id USER/NAME --tag v1"
    assert err.splitlines()[-1] == f"hint: name another repository; then: {command}"
    assert main(shlex.split(command.replace("USER/NAME", "alice/mine"))[1:]) == 0
    capsys.readouterr()
    assert set(hub.repos["alice/mine"].tags) == {"v1"}


@pytest.mark.parametrize("option", ["--repo-id a/b", "--private", "--public", "--branch x", "--tag x", "--dry-run"])
def test_an_option_of_the_push_without_it(
    hub: LocalHub, exporting: Any, calls: list[dict[str, Any]], option: str
) -> None:
    code, _, err = exporting(*option.split(), push=False)
    assert (code, calls, hub.requests) == (2, [], [])
    assert f"error: {option.split()[0]} was given without --push-to-hub" in err


@pytest.mark.parametrize("debug", [False, True])
def test_the_hint_is_the_command_that_does_it(
    hub: LocalHub, run: RunDirectory, exporting: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, debug: bool
) -> None:
    fault = hub.fail("/commit/", status=500, message=f"Bearer {TOKEN} crashed us")
    options = [
        "--output",
        str(run.export_path),
        "--repo-id",
        "lab/my.net",
        "--tag",
        "v1",
        "--public",
        "--license",
        "mit",
    ]
    code, out, err = exporting(*options, *(["--debug"] if debug else []))
    assert (code, out) == (5, "")
    shown = err.splitlines()
    assert shown[-2] == (
        "error: cannot push to lab/my.net: the Hub answers 500: <token> crashed us; lab/my.net was made and is empty: "
        f"nothing was committed; the exported network is in {run.export_path}"
    )
    assert ("Traceback" in err) is debug
    assert "hub" not in run.require("export")
    assert is_artifact(run.export_path)
    fault.times = 0
    command = shlex.split(shown[-1].removeprefix("hint: "))
    assert command[:2] == ["pgnas", "export"]
    assert main(command[1:]) == 0
    capsys.readouterr()
    assert set(hub.repos["lab/my.net"].tags) == {"v1"}
    assert not hub.repos["lab/my.net"].private


# ---- a dry run ----


@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_dry_run_changes_nothing(
    hub: LocalHub, run: RunDirectory, exporting: Any, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    exporting()
    (run.export_path / "README.md").write_text("---\nlicense: mit\n---\nA line of the card.\n")
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    before, asked = hub.changing(), len(hub.requests)
    code, out, _ = exporting("--dry-run", "--tag", "v2")
    assert (code, hub.changing()) == (0, before)
    assert (len(hub.requests) > asked) is (token is not None)
    user = "alice" if token else "USER"
    assert f"dry run, nothing is sent: {user}/run, branch main, tag v2" in out
    assert out.endswith("---\nlicense: mit\n---\nA line of the card.\n")
    rows = {
        line.split()[0]: line.split("  ")[-1].strip() for line in out.splitlines() if re.match(r"[\w.]+\.\w+ ", line)
    }
    there = "is there already" if token else "not compared: no token"
    assert rows["model.safetensors"] == there
    assert rows["README.md"] == ("would be sent" if token else there)
    assert run.require("export")["hub"]["name"] == "alice/run"  # what was pushed is still there


def test_a_dry_run_in_json(hub: LocalHub, run: RunDirectory, exporting: Any) -> None:
    _, out, _ = exporting("--dry-run", "--json", "--private")
    document = json.loads(out)["dry_run"]
    assert (document["repo_id"], document["create"], document["private"]) == ("alice/run", True, True)
    card = card_for(run.export_path, "alice/run")
    sizes = {path.name: path.stat().st_size for path in run.export_path.iterdir()} | {"README.md": len(card.encode())}
    assert {file["name"]: file["bytes"] for file in document["files"]} == sizes
    assert all(file["upload"] for file in document["files"])
    assert (document["remove"], document["card"]) == ([], card)
    assert hub.repos == {}


# ---- real processes ----

LOAD = """
import sys
from PIL import Image
from safetensors.torch import load_file
Image.effect_noise((31, 17), 90).convert("RGB").save("image.png")
proof = load_file(sys.argv[1])
images = proof["probe_images"]
found = []
{code}
import huggingface_hub
network = pgnas.load(huggingface_hub.snapshot_download("alice/run", revision="v1"))
found.append(network(images))
print([float((logits - proof["probe_logits"]).abs().max().detach()) for logits in found])
"""


@pytest.mark.slow
def test_push_push_again_and_load_in_another_process(hub: LocalHub, run: RunDirectory, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts"), "pgnas")
    variables = environment(hub.url, tmp_path / "home") | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

    def start(*words: str, **changes: str) -> str:
        done = subprocess.run(
            [*words], cwd=tmp_path, env=variables | changes, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return done.stdout

    first = start(str(program), "export", "--run", "run", "--push-to-hub", "--tag", "v1")
    assert "made, 5 files uploaded" in first
    before = hub.changing()
    second = json.loads(start(str(program), "export", "--run", "run", "--push-to-hub", "--tag", "v1", "--json"))
    assert (second["hub"]["uploaded"], hub.changing()) == ([], before)
    printed = "\n".join(line.strip() for line in first.splitlines()[-3:])
    card = hub.repos["alice/run"].files("main")["README.md"].data.decode()
    snippets = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    code = "\n".join(
        [printed, "found.append(logits)", *snippets[:2], "found.append(network.eval()(images))", snippets[2]]
    )
    shown = start(sys.executable, "-c", LOAD.format(code=code), str(run.export_path / "pgnas.safetensors"), HF_TOKEN="")
    differences = json.loads(shown.splitlines()[-1])
    assert len(differences) == 3
    assert max(differences) <= 1e-5
    verified = json.loads(start(str(program), "verify", "alice/run@v1", "--run", "run", "--json"))
    names = [check["name"] for check in verified["checks"]]
    assert {"timm = reloaded", "masked = compact", "downloaded = on the Hub", "downloaded = exported"} <= set(names)
    assert verified["passed"] is True
    assert read_json(run.manifest_path)["stages"]["export"]["hub"]["revision"] == second["hub"]["revision"]


def test_what_is_downloaded_is_what_was_exported(hub: LocalHub, run: RunDirectory, exporting: Any) -> None:
    exporting()
    there = {path.name: path.read_bytes() for path in fetch("alice/run", everything=True).iterdir()}
    here = {path.name: path.read_bytes() for path in run.export_path.iterdir()}
    assert there.pop("README.md").decode() == card_for(run.export_path, "alice/run") != here.pop("README.md").decode()
    assert there == here


def test_loading_downloads_what_it_needs(hub: LocalHub, exporting: Any) -> None:
    exporting()
    assert {path.name for path in fetch("alice/run").iterdir()} == set(NEEDED)


def test_the_card_on_the_hub_speaks_of_its_place_there(hub: LocalHub, exporting: Any) -> None:
    exporting("--branch", "small", "--repo-id", "lab/net")
    card = hub.repos["lab/net"].files("small")["README.md"].data.decode()
    for line in ('pgnas.load("lab/net@small")', '"hf-hub:lab/net@small"', "pgnas verify lab/net@small"):
        assert line in card
    assert "local-dir" not in card


def test_a_card_that_was_edited_is_sent_as_it_stands(hub: LocalHub, run: RunDirectory, exporting: Any) -> None:
    edited = run.export_path / "README.md"
    edited.write_text(edited.read_text() + "\nMy own words.\n")
    exporting()
    assert hub.repos["alice/run"].files("main")["README.md"].data == edited.read_bytes()
