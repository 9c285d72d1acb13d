"""How the Hub is talked to: no call waits for ever, none is repeated for ever, and no token gets into a text.

huggingface_hub's own client has no timeouts, and calls such as `model_info` switch off those that a client has. Inside
`bounded` every request has them, whatever the call says, and a request that fails `ATTEMPTS` times in a row ends the
call. So a Hub that is silent is given up after ANSWER seconds where huggingface_hub asks once, and after ATTEMPTS x
ANSWER and pauses of 1 and 2 s, 93 s, where it asks again; one that fails or refuses connections after at most 3 s. A
download that stalls half-way is huggingface_hub's to resume, at most five times in a row without a byte, each after
10 s and a pause of 1 s.
"""

from __future__ import annotations

import functools
import re
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import constants, get_token, set_client_factory
from huggingface_hub.utils import _http, logging
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

CONNECT = 10.0
"""Seconds until a connection stands."""
ANSWER = 30.0
"""Seconds without a byte from the Hub, or in which it takes none."""
ATTEMPTS = 3
LONGEST_PAUSE = 30
"""Seconds that the Hub may ask to wait before the next attempt; a longer wait ends the call."""
_PASSING = (408, 429, 500, 502, 503, 504)  # what huggingface_hub tries again
_TOKEN = re.compile(r"hf_\w{4,}|api_org_\w{4,}|(?i:bearer)\s+\S+")
_LONGEST = 200  # characters of a text from the Hub
_one_at_a_time = threading.RLock()


class NoAnswerError(Exception):
    """A request failed as often as it may; `__cause__` says how."""


class _Client(httpx2.Client):
    """huggingface_hub's client, with timeouts and a count of failures."""

    def __init__(self) -> None:
        hooks = {"request": [_http.hf_request_event_hook]}
        limits = httpx2.Timeout(ANSWER, connect=CONNECT)
        super().__init__(event_hooks=hooks, follow_redirects=True, verify=_certificates(), timeout=limits)
        self._failures = threading.local()

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        limits, asked = self.timeout.as_dict(), request.extensions.get("timeout", {})
        shorter = {name: value for name, value in asked.items() if value is not None and value < limits[name]}
        request.extensions = {**request.extensions, "timeout": {**limits, **shorter}}
        place = request.method, str(request.url.copy_with(query=None))
        last = self._failed(place) + 1 >= ATTEMPTS
        try:
            response = super().send(request, **options)
        except httpx2.TransportError as error:
            if last:
                raise NoAnswerError from error
            self._failures.now = place, self._failed(place) + 1
            raise
        if response.status_code in _PASSING:
            if last or _pause(response) > LONGEST_PAUSE:
                _http.hf_raise_for_status(response)
            self._failures.now = place, self._failed(place) + 1
        else:
            self._failures.now = None
        return response

    def _failed(self, place: tuple[str, str]) -> int:
        """How often in a row this thread has failed there."""
        now = getattr(self._failures, "now", None)
        return now[1] if now is not None and now[0] == place else 0


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes longer than a call."""
    return httpx2.create_ssl_context()


def _pause(response: httpx2.Response) -> int:
    """Seconds that the Hub asks to wait; huggingface_hub would wait that long."""
    limit = response.headers.get("RateLimit", "") if response.status_code == 429 else ""
    after = response.headers.get("Retry-After", "")
    seconds = (re.fullmatch(r"\s*(\d+)\s*", after), re.search(r";\s*r=0\s*;\s*t=(\d+)", limit))
    return max((int(match[1]) for match in seconds if match), default=0)


@contextmanager
def bounded() -> Iterator[None]:
    """Calls of huggingface_hub inside go through the client of this module, silently; one thread at a time.

    Blocks may be nested: the outer one's client is kept. Files travel over HTTP, not through hf_xet, which knows no
    timeouts of ours. A client that the program has set up for itself, its bars and its messages are what they were
    afterwards.
    """
    with _one_at_a_time, warnings.catch_warnings():
        factory, xet = _http._GLOBAL_CLIENT_FACTORY, constants.HF_HUB_DISABLE_XET
        if factory is _Client:
            yield
            return
        warnings.simplefilter("ignore")
        verbosity, bars = logging.get_verbosity(), not are_progress_bars_disabled()
        constants.HF_HUB_DISABLE_XET = True
        logging.set_verbosity_error()
        disable_progress_bars()
        set_client_factory(_Client)
        try:
            yield
        finally:
            set_client_factory(factory)
            constants.HF_HUB_DISABLE_XET = xet
            logging.set_verbosity(verbosity)
            if bars:
                enable_progress_bars()


def printable(text: object) -> str:
    """A text from the Hub as at most one line that holds no token."""
    token = get_token()
    plain = str(text) if not token else str(text).replace(token, "<token>")
    line = " ".join(_TOKEN.sub("<token>", plain).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "..."
