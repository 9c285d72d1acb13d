"""When a checkpoint inside an epoch is due."""

from __future__ import annotations

import pytest

from pgnas_cli.errors import UsageError
from pgnas_cli.training.cadence import Cadence


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [("500", 500, None), ("90s", None, 90.0), ("10m", None, 600.0), ("2h", None, 7200.0), (" 0.5m ", None, 30.0)],
)
def test_a_number_of_steps_or_a_time(text: str, steps: int | None, seconds: float | None) -> None:
    assert Cadence.parse(text) == Cadence(steps, seconds)


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "1.5", "10 minutes", "m", "10d"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--checkpoint-every") as error:
        Cadence.parse(text)
    assert error.value.hint == "--checkpoint-every 10m, or 500"


def test_steps_count_from_the_last_checkpoint() -> None:
    clock = Cadence.parse("3").start(10)
    assert [step for step in range(11, 15) if clock.due(step)] == [13, 14]
    clock.saved(13)
    assert [step for step in range(14, 18) if clock.due(step)] == [16, 17]


def test_seconds_count_from_the_last_checkpoint() -> None:
    now = 100.0
    clock = Cadence.parse("60s").start(0, lambda: now)
    now = 159.9
    assert not clock.due(1)
    now = 160.0
    assert clock.due(1)
    clock.saved(1)
    assert not clock.due(2)
    now = 220.0
    assert clock.due(2)
