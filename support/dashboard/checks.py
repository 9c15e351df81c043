"""What an address needs before it is shown: a token, a user and a password, and the proof that it is safe."""

import getpass
import os
import secrets
import sys
from contextlib import suppress
from urllib.parse import urlsplit

import requests

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
    token = os.environ.get("NGROK_AUTHTOKEN")
    if not token and "google.colab" in sys.modules:
        from google.colab import userdata

        with suppress(userdata.SecretNotFoundError, userdata.NotebookAccessError):
            token = userdata.get("NGROK_AUTHTOKEN")
    if not token and ask and can_ask():
        token = getpass.getpass("ngrok authtoken (Enter for none): ")
    return (token or "").strip() or None


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
    headers = {"ngrok-skip-browser-warning": "1"}  # passes by the page that ngrok's free plan shows first
    auth = tuple(part.encode() for part in login) if login else None
    search = {"json": {"max_results": 1}} if origin else {}
    headers |= {"Origin": origin} if origin else {}
    with requests.Session() as session:
        session.trust_env = urlsplit(url).hostname != "127.0.0.1"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                ask = session.post if origin else session.get
                answer = ask(
                    url, headers=headers, auth=auth, timeout=timeout or TIMEOUT, allow_redirects=False, **search
                )
                return answer.status_code, f"{answer.headers.get('ngrok-error-code', '')} {answer.text}"
            except requests.Timeout:
                return 0, "no answer in time"
            except requests.RequestException as error:
                if attempt == ATTEMPTS:
                    raise TunnelError(f"{origin_of(url)} cannot be reached: {error}. Is there a network?") from error


def prove_closed(url: str) -> None:
    """Make sure that without a password neither a GET nor a POST gets past the tunnel's end."""
    for origin in (None, url):
        # An edge that asks for no password passes the request on to a server that does not answer yet.
        status, text = fetch(f"{url}{SEARCH}?max_results=1", origin=origin, timeout=TIMEOUT / 2)
        if "ERR_NGROK" in text and status != 401:
            raise explain(text)
        if status != 401:
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
            raise refusal(home, status, text)
    seen = {origin: fetch(url + SEARCH, login, origin=origin)[0] for origin in STRANGERS}
    if set(seen.values()) != {403} or fetch(home + search, login)[0] != 404:
        raise TunnelError(f"MLflow answers to pages of other sites, or without the link's secret: {seen}.")


def refusal(home: str, status: int, text: str) -> TunnelError:
    """Return the error that tells why MLflow's pages are not at this origin."""
    if not status:
        return TunnelError(
            f"{home} gave no answer in {TIMEOUT} s. Try again when this machine is less busy; if it stays "
            "so, close the dashboard and open it again."
        )
    if "ERR_NGROK" in text:
        return explain(text)
    said = " ".join(text.split())[:60]
    return TunnelError(
        f"{home} does not show MLflow, but HTTP {status} ({said}). Another program may answer there, or something "
        "between changes the Host or Origin header. Look at the local address, or write a report."
    )
