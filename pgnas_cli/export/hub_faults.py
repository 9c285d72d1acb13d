"""What can go wrong with the Hub, each as one HubError: what happened, what stands there now, and what to type."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pgnas_cli.errors import HubError, PgnasError
from pgnas_cli.export.hub_client import ATTEMPTS, NoAnswerError, bounded, printable

SIGN_IN = "hf auth login, or HF_TOKEN=... with a token of https://huggingface.co/settings/tokens that may write"
UNREACHABLE = (NoAnswerError, httpx2.TransportError, OfflineModeIsEnabled)
_CARD_IS_BAD = "Invalid metadata in README.md"  # huggingface_hub's words
_CHANGES = re.compile(r"/repos/create$|/(commit|branch|tag)/")
_KNOWN = (*UNREACHABLE, HfHubHTTPError, LocalTokenNotFoundError)


@contextmanager
def explained(
    doing: str, *, repo_id: str = "", again: str = "", state: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """Calls of huggingface_hub inside are bounded, and what they raise becomes a HubError.

    Args:
        doing: what the calls are for: "read alice/net".
        repo_id: the repository.
        again: the command to type again; empty if there is none.
        state: says what stands on the Hub now.

    Raises:
        HubError: with --debug the traceback shows the error behind it, without any token.
    """
    try:
        with bounded():
            yield
    except PgnasError:
        raise
    except Exception as error:
        found = cause(error)
        if isinstance(found, OSError) and found.filename is not None:  # a file on this machine
            raise
        message, hint = told(found, doing, repo_id)
        stands = state()
        if stands and _may_be_done(found):
            stands += ", as far as is known: the last request was sent, and may have been carried out"
        said = "; ".join(part for part in (message, stands) if part)
        fault = HubError(said, then(hint, again))
        fault.add_note(f"{type(found).__name__}: {printable(found)}")
        raise fault from None


def then(*parts: str) -> str:
    """What to do, one after the other."""
    return "; then: ".join(part for part in parts if part)


def cause(error: BaseException) -> BaseException:
    """The error in a chain that says what happened; the last one raised if none is known."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _KNOWN) or (isinstance(link, ValueError) and _CARD_IS_BAD in str(link)):
            return link
        link = link.__cause__ or link.__context__
    return error


def _may_be_done(error: BaseException) -> bool:
    """Whether a request that changes something on the Hub was sent, and only its answer is missing."""
    link = error.__cause__ if isinstance(error, NoAnswerError) else error
    if not isinstance(link, httpx2.TransportError) or isinstance(link, httpx2.ConnectError | httpx2.ConnectTimeout):
        return False
    return link.request.method != "GET" and _CHANGES.search(link.request.url.path) is not None


def unreachable(error: BaseException) -> bool:
    """Whether an error means that there is no Hub to be had now: no network, no answer, or a Hub that is broken."""
    found = cause(error)
    return isinstance(found, UNREACHABLE) or (isinstance(found, HfHubHTTPError) and found.response.status_code >= 500)


def told(error: BaseException, doing: str, repo_id: str) -> tuple[str, str]:
    """The message and what to do first."""
    where = constants.ENDPOINT
    match error:
        case OfflineModeIsEnabled():
            return f"cannot {doing}: HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"
        case LocalTokenNotFoundError():
            return f"cannot {doing}: no token of the Hugging Face Hub was found", SIGN_IN
        case NoAnswerError():
            return f"cannot {doing}: {_silence(error.__cause__ or error)}, asked {ATTEMPTS} times", _CONNECTION
        case httpx2.TransportError():
            return f"cannot {doing}: {_silence(error)}", _CONNECTION
        case GatedRepoError():
            return f"cannot {doing}: access to it has to be granted", f"ask for it at {where}/{repo_id}"
        case RepositoryNotFoundError():
            if get_token() is None:
                return f"cannot {doing}: it does not exist on {where}, or is private and no token is there", SIGN_IN
            return (
                f"cannot {doing}: it does not exist on {where}, or is private and not the token's to see",
                "look at its name again; hf auth whoami says whose token it is",
            )
        case RevisionNotFoundError():
            return f"cannot {doing}: there is no such revision", f"{where}/{repo_id}/refs lists branches and tags"
        case HfHubHTTPError():
            return _refused(error, doing)
        case UnicodeEncodeError():
            return f"cannot {doing}: a token has to be plain characters", SIGN_IN
        case ValueError() if _CARD_IS_BAD in str(error):
            return f"cannot {doing}: the Hub refuses the front matter of the card: {printable(error)}", ""
        case ValueError() if "LFS" in str(error):
            return f"cannot {doing}: the Hub's storage refuses a file: {printable(error)}", ""
    return (
        f"cannot {doing}: unusable answer from {where} ({type(error).__name__}: {printable(error)})",
        "look at HF_ENDPOINT, or try again later",
    )


_CONNECTION = "check the network, HF_ENDPOINT and the proxy"


def _silence(error: BaseException) -> str:
    """How the network failed."""
    where = constants.ENDPOINT
    match error:
        case httpx2.ConnectTimeout():
            return f"{where} cannot be reached: no connection in time"
        case httpx2.TimeoutException():
            return f"{where} is silent: nothing was sent or taken for {_waited(error):g} s"
        case httpx2.ConnectError():
            return f"{where} cannot be reached: {_clause(error)}"
    return f"the connection to {where} broke: {_clause(error) or type(error).__name__}"


def _clause(error: BaseException) -> str:
    """What an error says, without the stop at its end: the line goes on."""
    return printable(error).rstrip(".")


def _waited(error: httpx2.TimeoutException) -> float:
    """Seconds that a request was given."""
    return float(error.request.extensions["timeout"]["read"])


def _refused(error: HfHubHTTPError, doing: str) -> tuple[str, str]:
    """What a status means."""
    said = printable(error.server_message or "")
    why = f": {said}" if said else ""
    match error.response.status_code:
        case 401:
            source = "in HF_TOKEN" if os.environ.get("HF_TOKEN") else "of hf auth login"
            return f"cannot {doing}: the Hub does not accept the token {source}{why}", SIGN_IN
        case 403:
            return f"cannot {doing}: the token may not do that{why}", SIGN_IN
        case 409:
            return f"cannot {doing}: it is there already, or somebody else is changing it{why}", "try again"
        case 412:
            return f"cannot {doing}: somebody else has committed to it in the meantime{why}", "try again"
        case 413 | 507:
            return f"cannot {doing}: the Hub has no room for it{why}", ""
        case 429:
            return f"cannot {doing}: too many requests{why}", "wait some minutes"
    return f"cannot {doing}: the Hub answers {error.response.status_code}{why}", ""
