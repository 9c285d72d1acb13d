"""Two writers of one folder, and what a writer that was killed has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.export import export
from pgnas_cli.export.writing import beside
from pgnas_cli.run import RunDirectory


def test_a_folder_that_is_being_written_is_not_written_twice(run: RunDirectory, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with beside(target) as folder:
        (folder / "half").touch()
        with pytest.raises(UsageError, match="another process writes") as error:
            export.export(run, output=target)
        assert "--output" in error.value.hint
        assert [path.name for path in folder.iterdir()] == ["half"]
    assert not list(tmp_path.glob("*out*"))
    export.export(run, output=target)
    assert not list(tmp_path.glob(".out*"))


def test_what_a_killed_writer_left_is_no_part_of_the_next_export(run: RunDirectory, tmp_path: Path) -> None:
    left = tmp_path / ".out.writing"
    left.mkdir()
    (left / "half").touch()
    export.export(run, output=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out"]
    assert not (tmp_path / "out" / "half").exists()


def test_an_error_of_an_extra_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), beside(tmp_path / "out"):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
