"""Strict JSON: what Python's parser takes beyond the standard is refused, with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgnas_cli.errors import RunError
from pgnas_cli.run import read_json
from pgnas_cli.strict_json import parse_json


def test_plain_documents_are_read() -> None:
    assert parse_json(b'{"a": [1, -2.5e3, null, true, "\\u00e4"], "b": {"a": 0.0}}', "x") == {
        "a": [1, -2500.0, None, True, "\u00e4"],
        "b": {"a": 0.0},
    }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' stands twice in one object"),
        (b'{"b": [{"a": 1, "": 2, "a": 3}]}', "the key 'a' stands twice"),
        (b'{"a": NaN}', "the number NaN is not finite"),
        (b'{"a": -Infinity}', "the number -Infinity is not finite"),
        (b'{"a": -1e999}', "the number -1e999 is not finite"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not valid JSON"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000, "it is nested too deeply"),
        ('{"a": 1}'.encode("utf-16"), "is not valid JSON"),
        (b'{"a": "\xff"}', "is not valid JSON"),
        (b"\xef\xbb\xbf{}", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"{}{}", "is not valid JSON"),
        (b"[]", "should hold a JSON object, not a list"),
        (b"null", "should hold a JSON object, not a NoneType"),
    ],
)
def test_everything_else_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(RunError) as error:
        parse_json(data, "the file", hint="what to do")
    assert reason in str(error.value)
    assert str(error.value).startswith("the file ")
    assert "\n" not in str(error.value)
    assert error.value.hint == "what to do"


def test_a_key_that_stands_twice_is_shown_in_short() -> None:
    with pytest.raises(RunError) as error:
        parse_json(b'{"%s": 1, "%s": 2}' % ((b"a\\n" * 10_000,) * 2), "x")
    assert len(str(error.value)) < 300


def test_a_file_has_a_size_that_is_read_at_most(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json", most=8) == {"a": 1}
    with pytest.raises(RunError, match="has 8 bytes, at most 7 are read"):
        read_json(tmp_path / "a.json", most=7)
