"""The words of a model card: no number that is not in the run, and no name that is more than text."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from card_case import Case, make_case
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from markdown_it.token import Token

from pgnas_cli import units
from pgnas_cli.export import markdown
from pgnas_cli.export.card import FRONT, card_for, render_card
from pgnas_cli.export.choice import choose
from pgnas_cli.export.facts import card_facts
from pgnas_cli.plugin import BuildSpec
from pgnas_cli.report.numbers import decimals
from pgnas_cli.run import RunDirectory, read_jsonl

HOSTILE = (
    "<script>alert(1)</script>",
    "{{ 7 * 191 }}{% for x in y %}",
    "a\n---\nlicense: mit\n# Heading",
    "![x](http://evil.example/x.png) [y](http://evil.example)",
    "`` ` ``",
    "| a | b |",
    "www.evil.example @somebody :smile:",
    "\u202egnp.exe\x00\x1b[31m\u200b",
    "'\": [*a, &b, !!python/object",
    "",
    "x" * 5000,
)


@pytest.fixture(scope="module")
def case(exported: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Read only."""
    return make_case(exported, tmp_path_factory.mktemp("card"))


# ---- numbers ------------------------------------------------------------------------------------------------


def numbers_in(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def values(document: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of every leaf, and (key, length) of every list."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield from values(value, name)
    elif isinstance(document, list):
        yield key, len(document)
        for value in document:
            yield from values(value, key)
    else:
        yield key, document


def formatted(key: str, value: Any) -> Iterator[str]:
    """The ways in which the card may write a value of the run: whole, in three digits, as a share, as a time."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value:,}" if isinstance(value, int) else f"{value:g} {value:.1f}"
        if key in ("params", "macs") or key.startswith(("target", "expected")):
            yield units.human(value)
        if key == "seconds":
            yield units.seconds(value)
        if abs(value) <= 1:
            yield " ".join(f"{round(100 * value, 9):.{places}f}" for places in range(3)) + f" {100 * value:g}"
        if key in ("median", "low", "high"):
            yield " ".join(f"{1e3 * value:.{places}f}" for places in range(4))


def invented(card: str, case: Case) -> list[str]:
    """The numbers in a card's sentences and tables that no file of the run holds.

    Blocks of code and code spans are left out; the description of the architecture is counted from the masks.
    """
    body = ModelCard(card).text.replace(str(markdown.text(case.section["architecture"])), "")
    shown = re.sub(r"^```.*?^```|`[^`]*`|^ {4}.*?$", "", body, flags=re.DOTALL | re.MULTILINE)
    rows = read_jsonl(case.run.rank_path / "leaderboard.jsonl")
    recipe = tomllib.loads((case.run.train_path / "recipe.toml").read_text())
    around = len(rows) - len(case.ranking["front"]["points"])
    documents = [case.run.manifest(), case.ranking, recipe, {"around": around}]
    known: set[str] = set()
    for key, value in (pair for document in documents for pair in values(document)):
        known |= {number for text in formatted(key, value) for number in numbers_in(text)}
    return sorted(numbers_in(shown) - known)


def test_every_number_of_the_card_stands_in_the_run(case: Case) -> None:
    card = card_for(case.folder)
    assert invented(card, case) == []
    test = case.ranking["test_accuracy"]
    places = decimals(50 * (test["high"] - test["low"]))
    assert f"{100 * test['value']:.{places}f} % (" in card
    assert f"{case.ranking['params']:,} parameters" in card


@pytest.mark.parametrize("number", ["94.21 %", "25,557,032", "7717 min 8841 s", "0.873"])
def test_an_invented_number_is_found(case: Case, number: str) -> None:
    card = card_for(case.folder).replace("## Fidelity\n", f"## Fidelity\n\nIt is {number}.")
    assert set(invented(card, case)) == numbers_in(number)


def test_the_card_says_what_the_ranking_was_asked_for(case: Case) -> None:
    card = card_for(case.folder)
    assert "Kendall's tau between the two orders is 0.5 (-0.2 to 1.0)" in card
    assert "3 candidates at equal steps over the ranking were trained from scratch for 7 epochs each" in card
    assert "Latency: 2.57 ms" in card
    assert "2 networks form the front" in card
    assert f"]({FRONT})" in card
    assert (case.folder / FRONT).read_bytes().startswith(b"\x89PNG")
    assert "| rank --certify | 479,232 | trained on | 10 min 37 s |" in card
    assert "`budget.target_params = 0.5x`" in card
    assert "not marked in the picture" not in card


def test_nothing_of_the_machine_is_told(case: Case) -> None:
    facts = card_facts(case.run, choose(case.run, case.ranking["winner"]), case.ranking)
    assert str(case.run.path.parent) not in json.dumps(facts) + card_for(case.folder)
    assert not {"data.dir", "data.name"} & facts["search"]["settings"].keys()


# ---- foreign words ------------------------------------------------------------------------------------------


def inline(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from inline(token.children or [])


def named(case: Case, name: str) -> str:
    """The card of a network of which everything that may have any name has this one."""
    section = case.section
    section["data"] |= {"spec": name, "split_rule": name}
    section["candidate"] |= {"id": name, "strategy": name}
    section["search"] |= {"recipe": name, "settings": {name: name}, "seeds": {name: 0}, "ranking": f"Ranking {name}"}
    section["cost"][0] |= {"stage": name, "which": name, "devices": name}
    section |= {"architecture": f"Diagram of {name}", "fidelity": f"Said of {name}", "weights": name, "license": name}
    section["versions"] = {name: name}
    section["files"][name] = {}
    return render_card(BuildSpec(name, name, case.spec.inflation, 10, 1, 8, 0, name), section, class_names=[name] * 10)


def tokens_of(card: str) -> list[Token]:
    return list(inline(MarkdownIt("commonmark").enable("table").parse(ModelCard(card).text)))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_name_holds_is_shown_as_text(case: Case, name: str) -> None:
    card, usual = named(case, name), named(case, "usual")
    data = ModelCard(card).data
    assert data.tags == ModelCard(usual).data.tags
    assert data.license == (markdown.plain(name).lower() or "unknown")
    _, (result,) = model_index_to_eval_results(data.to_dict()["model-index"])
    assert result.dataset_name == markdown.plain(name)
    tokens = tokens_of(card)
    structure, expected = ([t.type for t in found if t.type in KINDS] for found in (tokens, tokens_of(usual)))
    assert structure == expected
    assert [token.attrs["src"] for token in tokens if token.type == "image"] == [FRONT, "architecture.png"]
    shown = {token.content for token in tokens if token.type == "code_inline"}
    assert markdown.plain(name).strip() in {each.strip() for each in shown}
    assert not any(each in card for each in ("1337", "\x1b", "\x00", "\u202e", "\u200b"))
    assert max(map(len, card.split())) < 300


KINDS = ("heading_open", "html_block", "html_inline", "link_open", "image", "hr", "fence", "code_block", "table_open",
         "tr_open", "td_open", "list_item_open", "blockquote_open", "em_open", "strong_open")  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a_b*c", r"a\_b\*c"), ("see www.x.y", r"see www\.x.y"), ("http://x", r"http\://x"), ("tau: 0.5", "tau: 0.5")],
)
def test_sentences_are_escaped(value: str, shown: str) -> None:
    assert markdown.text(value) == shown
