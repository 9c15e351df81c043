"""What an address needs before it is shown: a token, a user and a password, and the proof that it is safe."""

import base64
import getpass
import os
import secrets
import sys
from typing import NoReturn
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from support.dashboard.tunnel import TunnelError, explain

TIMEOUT = 15  # seconds for one answer through the tunnel
ATTEMPTS = 3  # who refuses a POST without reading it may end the connection before its answer is through
SEARCH = "/ajax-api/2.0/mlflow/experiments/search"  # what MLflow's own page asks first
STRANGERS = "https://stranger.example", "http://127.0.0.1:1"  # origins that no server of ours allows


class Secret(str):
    """A string that a notebook does not write into its output by being the last line of a cell."""

    def __repr__(self) -> str:
        return "'(hidden)'"


def find_token(ask: bool = False) -> str | None:
    """Return ngrok's authtoken: the environment's, Colab's secret, or what the reader types if `ask`."""
    if token := os.environ.get("NGROK_AUTHTOKEN", "").strip():
        return token
    if "google.colab" in sys.modules:
        from google.colab import userdata

        try:
            if token := (userdata.get("NGROK_AUTHTOKEN") or "").strip():
                return token
        except (userdata.SecretNotFoundError, userdata.NotebookAccessError):
            pass  # the reader has no such secret, or does not let this notebook see it: so there is none
    if ask and can_ask():
        return getpass.getpass("ngrok authtoken (Enter for none): ").strip() or None
    return None


def can_ask() -> bool:
    """Return whether somebody is there to answer: a notebook that takes input, or a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if kernel := getattr(shell, "kernel", None):
        return bool(getattr(kernel, "_allow_stdin", False))  # private, but nbclient's own sign for "nobody"
    return sys.stdin is not None and sys.stdin.isatty()


def credentials(user: str, password: str | None) -> tuple[str, Secret]:
    """Return the user and password to ask for, a new one for None. Raise ValueError for weak ones."""
    password = secrets.token_urlsafe(18) if password is None else password
    if not user or ":" in user:
        raise ValueError("the user may not be empty and may hold no colon")
    if not 12 <= len(password) <= 128:
        raise ValueError("the password must have 12 to 128 characters; leave it out and one is made")
    return user, Secret(password)


class NoRedirect(HTTPRedirectHandler):
    """A redirect is an answer that we look at, not one that we follow with the password in hand."""

    def redirect_request(self, *_):
        return None


def origin_of(url: str) -> str:
    """Return what a browser calls the origin of a page: scheme, host and port."""
    return "{0.scheme}://{0.netloc}".format(urlsplit(url))


def fetch(
    url: str, login: tuple[str, str] | None = None, origin: str | None = None, timeout: float | None = None
) -> tuple[int, str]:
    """GET `url`, or POST a search to it as a page of `origin` does; return the status and the text.

    The status is 0 when no answer comes within `timeout` seconds (TIMEOUT, where none is given). This machine
    is never asked through a proxy, whatever the environment says. Raise TunnelError where nobody answers.
    """
    # The first header passes by the page that ngrok's free plan shows to browsers first.
    headers = {"ngrok-skip-browser-warning": "1", "User-Agent": "experiment-tracking"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    if origin:
        headers |= {"Origin": origin, "Content-Type": "application/json"}
    request = Request(url, b'{"max_results": 1}' if origin else None, headers)
    opener = build_opener(NoRedirect, *[ProxyHandler({})] * (urlsplit(url).hostname == "127.0.0.1"))
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with opener.open(request, timeout=timeout or TIMEOUT) as answer:
                return answer.status, answer.read(1 << 20).decode(errors="replace")
        except HTTPError as error:
            with error:
                code = error.headers.get("ngrok-error-code", "")
                return error.code, f"{code} {error.read(1 << 16).decode(errors='replace')}"
        except OSError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return 0, "no answer in time"
            if attempt == ATTEMPTS or not isinstance(reason, ConnectionError):
                raise TunnelError(f"{origin_of(url)} cannot be reached: {error}. Is there a network?") from error


def prove_closed(url: str) -> None:
    """Make sure that without a password neither a GET nor a POST gets past the tunnel's end."""
    for origin in (None, url):
        # An edge that asks for no password passes the request on to a server that does not answer yet.
        status, text = fetch(f"{url}{SEARCH}?max_results=1", origin=origin, timeout=TIMEOUT / 2)
        if status != 401:
            if "ERR_NGROK" in text:
                raise explain(text)
            seen = f"HTTP {status}" if status else "or the way to it is too slow to tell"
            raise TunnelError(
                f"the tunnel asks for no password ({seen}), so it was closed at once. Use ngrok's own "
                "agent, version 3.16 or newer: https://ngrok.com/download."
            )


def prove_ours(url: str, login: tuple[str, str] | None = None) -> None:
    """Make sure that `url` shows MLflow to who has the link, and that it answers to its own pages alone."""
    home, search = origin_of(url), f"{SEARCH}?max_results=1"
    for status, text, sign in (
        (*fetch(url + "/", login), "<title>MLflow</title>"),
        (*fetch(url + search, login), "{"),
        (*fetch(url + SEARCH, login, origin=home), "{"),
    ):
        if status != 200 or sign not in text:
            refuse(home, status, text)
    seen = {origin: fetch(url + SEARCH, login, origin=origin)[0] for origin in STRANGERS}
    if set(seen.values()) != {403} or fetch(home + search, login)[0] != 404:
        raise TunnelError(f"MLflow answers to pages of other sites, or without the link's secret: {seen}.")


def refuse(home: str, status: int, text: str) -> NoReturn:
    """Raise the TunnelError that tells why MLflow's pages are not at this origin."""
    if not status:
        raise TunnelError(
            f"{home} gave no answer in {TIMEOUT} s. Try again when this machine is less busy; if it stays "
            "so, close the dashboard and open it again."
        )
    if "ERR_NGROK" in text:
        raise explain(text)
    if "Invalid Host header" in text or "Cross-origin request blocked" in text:
        raise TunnelError(
            f"MLflow refuses what its own page sends from {home} ({text.strip()[:60]}): something between "
            "changes the Host or Origin header. Look at the local address, or write a report."
        )
    raise TunnelError(f"{home} does not show MLflow (HTTP {status}). Another program may answer there.")
