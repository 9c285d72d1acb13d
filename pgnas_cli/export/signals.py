"""Signals that arrive while code of others runs, which may swallow what their handlers raise."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
STOPPING: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def none_lost() -> Iterator[None]:
    """What a handler of SIGINT or SIGTERM raises inside is raised again at the end, should it have been lost.

    Python runs a handler wherever the program happens to be. In the callback of a weak reference, and torch's compiler
    drops thousands, whatever it raises is printed and forgotten; and code may catch all exceptions.

    Only handlers written in Python raise, and only in the main thread: anything else is left as it is.
    """
    arrived: list[int] = []
    before: dict[int, Handler] = {}

    def note(signum: int, frame: FrameType | None) -> None:
        arrived.append(signum)
        before[signum](signum, frame)

    if threading.current_thread() is threading.main_thread():
        for signum in STOPPING:
            if callable(handler := signal.getsignal(signum)):
                before[signum] = handler
                signal.signal(signum, note)
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        arrived.clear()  # it was not lost
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if arrived:
            before[arrived[0]](arrived[0], None)
