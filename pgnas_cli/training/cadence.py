"""How often a checkpoint is written inside an epoch."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from pgnas_cli.errors import UsageError

_TEXT = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>s|m|h|)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Cadence:
    """A number of steps or of seconds; the other is None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Cadence:
        """ "500" steps, or "90s", "10m", "2h".

        Raises:
            UsageError: it is neither, or not above zero.
        """
        match = _TEXT.fullmatch(text.strip())
        number = float(match["number"]) if match else 0.0
        if match is None or number <= 0 or (not match["unit"] and not number.is_integer()):
            raise UsageError(
                f"--checkpoint-every {text!r} is neither a time nor a number of steps", "--checkpoint-every 10m, or 500"
            )
        return cls(seconds=number * _SECONDS[match["unit"]]) if match["unit"] else cls(steps=int(number))

    def start(self, step: int, clock: Callable[[], float] = time.monotonic) -> Clock:
        """A clock that begins at this step, now."""
        return Clock(self, step, clock)


class Clock:
    """Tells when the next checkpoint is due."""

    def __init__(self, cadence: Cadence, step: int, clock: Callable[[], float]) -> None:
        self.cadence, self._clock = cadence, clock
        self.saved(step)

    def saved(self, step: int) -> None:
        """A checkpoint was written at this step, now."""
        self._step, self._time = step, self._clock()

    def due(self, step: int) -> bool:
        """Whether one is due at this step, now."""
        if self.cadence.steps is not None:
            return step - self._step >= self.cadence.steps
        assert self.cadence.seconds is not None
        return self._clock() - self._time >= self.cadence.seconds
