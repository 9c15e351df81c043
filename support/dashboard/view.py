"""Open MLflow's pages from a notebook: the best view there is, safely, with nothing left behind.

    board = dashboard.open()        # says which view and why; shows links
    board.close()                   # or end the notebook: the same happens

One dashboard serves all notebooks on the same stores folder. It lives as long as one of the notebooks that
opened it, and no longer than they asked. `support.dashboard.guard` sees to that.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
from filelock import FileLock, Timeout

from support.dashboard import contact
from support.tracking import training_run as tracking
from support.dashboard import checks as tunnel
from support.dashboard.tunnel import TunnelError
from support.dashboard.contact import DashboardError
from support.tracking.store import stores_dir as resolve_stores_dir

PORT = 5005  # tried first, so that bookmarks stay good; 5000 is AirPlay's on a Mac
LOCK_TIMEOUT = 120  # seconds for another notebook that opens a dashboard on the same stores
STATUS_TIMEOUT = 10  # seconds for a guard that runs to say how it is


class Dashboard:
    """A running dashboard: where it is, what it shows, and how to close it. Made by `open`."""

    def __init__(self, url: str, view: str, experiment: str, login=None, state=None, local_url=None):
        self.url, self.view, self.experiment = url, view, experiment
        self.user, self.password = login or (None, None)
        self.local_url = local_url or url
        self._state = state

    def __repr__(self) -> str:
        return f"{self.view}\n" + "\n".join(f"{name}: {link}" for name, link in self.links.items())

    def _repr_html_(self) -> str:
        links = "".join(f'<li><a href="{url}" target="_blank">{name}</a></li>' for name, url in self.links.items())
        return f"<p>{self.view}</p><ul>{links}</ul>"

    def __enter__(self) -> "Dashboard":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def links(self) -> dict[str, str]:
        """Straight to what one wants to see, as far as there are runs: name -> URL."""
        experiment = tracking.find_experiment(self.experiment)
        if experiment is None:
            return {"all experiments": f"{self.url}/#/experiments"}
        page = f"{self.url}/#/experiments/{experiment.experiment_id}/runs"
        training = "workflowType=machine_learning"  # else the page shows what is for language model apps
        by_f1 = f"orderByKey={quote('metrics.`f1`')}&orderByAsc=false"
        links = {"runs, best F1 first": f"{page}?{training}&{by_f1}"}
        try:
            top = tracking.best_runs(self.experiment, max_results=3)
        except tracking.NoRunError:
            top = []
        if top:
            best = f"{page}/{top[0].info.run_id}"
            links["the best run's charts"] = f"{best}/model-metrics?{training}"
            links["the best run's artifacts"] = f"{best}/artifacts?{training}"
        if len(top) > 1:
            runs = quote(json.dumps([run.info.run_id for run in top]))
            which = f"runs={runs}&experiments={quote(json.dumps([experiment.experiment_id]))}"
            links["the top runs compared"] = f"{self.url}/#/compare-runs?{which}&{training}"
        return links

    def show_credentials(self) -> None:
        """Show user and password until Enter is pressed, then wipe them from the notebook's output.

        Does it only where somebody can press Enter: a notebook that runs by itself would keep them.
        """
        if self.password is None:
            print("This view asks for no password.")
        elif not tunnel.can_ask():
            print("User and password are shown only to somebody who sits here.")
        else:
            from IPython.display import clear_output

            try:
                input(f"user {self.user}, password {self.password}   (Enter hides this) ")
            finally:
                clear_output()

    def check(self) -> None:
        """Prove again, over the address that others use, that it works and is closed to everybody else.

        Raises TunnelError with what is wrong and what to do.
        """
        if self.password:
            tunnel.prove_closed(self.url)
            tunnel.prove_ours(self.url, (self.user, self.password))
        else:
            tunnel.prove_ours(self.local_url)

    def close(self, everyone: bool = False) -> None:
        """End the dashboard for this notebook; for other notebooks that use it too, if `everyone`.

        Returns when nothing of it is left. Closing twice is fine, and so is closing what is gone.
        """
        if self._state is None:
            return
        state, self._state = self._state, None
        guard = contact.process_of(state["pid"], state["started"])
        if guard is None:
            return
        left = contact.ask(state, "release", pid=os.getpid(), everyone=everyone)["left"]
        if left:
            print(f"Still open for {left} other notebook(s); close(everyone=True) ends it for them too.")
        else:
            wait_for_end(guard)


def wait_for_end(guard: psutil.Process) -> None:
    """Wait until the guard has ended; it ends its server and tunnel first."""
    try:
        guard.wait(timeout=10)
    except psutil.TimeoutExpired:
        guard.kill()  # then the server sees that it is gone, and ends by itself


def open(
    experiment: str = tracking.EXPERIMENT,
    stores_dir: str | os.PathLike | None = None,
    *,
    share: bool | None = None,
    user: str = "reader",
    password: str | None = None,
    auto_close: float | None = None,
    port: int | None = None,
) -> Dashboard:
    """Open a dashboard on the stores, or find the one that runs, and say which view it is and why.

    The view is an ngrok tunnel when there is a token (NGROK_AUTHTOKEN in the environment or in Colab's
    secrets; with `share=True` it asks for one), else Colab's own port proxy on Colab, else an address that
    only this machine reaches. `share=False` opens no tunnel, token or not. Where a tunnel fails, the view
    falls back and says why. `auto_close` is in seconds. `port` must be free when given.

    Raises DashboardError when the server does not start, or another notebook is at it for too long.
    """
    uri = tracking.connect(stores_dir)
    if urlsplit(uri).scheme in ("http", "https"):
        return announce(
            Dashboard(address(uri), "Your team's server, because MLFLOW_TRACKING_URI names it.", experiment)
        )
    login = tunnel.credentials(user, password)
    token = None if share is False else tunnel.find_token(ask=bool(share))
    folder = resolve_stores_dir(stores_dir) / "dashboard"
    folder.mkdir(parents=True, exist_ok=True)
    try:  # two notebooks that open at once get one dashboard
        lock = FileLock(folder / "lock").acquire(LOCK_TIMEOUT)
    except Timeout:
        raise DashboardError(
            f"another notebook opens a dashboard on these stores, for more than {LOCK_TIMEOUT} s now. "
            "Open this one again when that one is open, or interrupt that one."
        ) from None
    with lock:
        owner = {"pid": os.getpid(), "started": psutil.Process().create_time()}
        state, status = find_or_start(folder, uri, owner, port)
        try:
            board = choose_view(state, status, experiment, token, login, share)
            contact.ask(state, "claim", **owner, seconds=auto_close)  # whose time starts now
            return announce(board)
        except BaseException:  # an interrupt too: leave nothing half open
            contact.ask(state, "release", pid=os.getpid())
            raise


def address(uri: str) -> str:
    """Give a server's address for links: without the user and password that may be in it."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def find_or_start(folder: Path, uri: str, owner: dict, port: int | None) -> tuple[dict, dict]:
    """Give the state and status of this store's guard: the one that runs and proves itself, or a new one."""
    if state := contact.read_state(folder):
        try:
            status = contact.ask(state, "status", timeout=STATUS_TIMEOUT)
            if status["store"] == uri and port in (None, urlsplit(status["url"]).port):
                if not contact.ask(state, "claim", **owner)["too_late"]:
                    return state, status
                if guard := contact.process_of(state["pid"], state["started"]):
                    wait_for_end(guard)  # the last notebook has just closed it
        except DashboardError as error:
            print(f"A dashboard runs on these stores that cannot be used, so a new one opens: {error}")
    artifacts = (folder.parent / "artifacts").as_posix()
    config = {"store": uri, "artifacts": artifacts, "port": port or PORT, "only_this": port is not None}
    state = contact.start(folder, config, owner)
    try:
        contact.ask(state, "bind")
    except BaseException:
        contact.ask(state, "release", pid=os.getpid())
        raise
    return state, contact.ask(state, "status")


def choose_view(state, status, experiment, token, login, share) -> Dashboard:
    """Open the best view on a guard whose server has a port, and prove that it works."""
    local, problem = status["url"], ""
    public = None if share is False else status.get("public_url")
    if public:
        login = status["user"], tunnel.Secret(status["password"])
    elif token:
        try:
            public = contact.ask(state, "open_tunnel", token=token, user=login[0], password=login[1])["public_url"]
            tunnel.prove_closed(public)  # before MLflow answers through it
            contact.ask(state, "serve", hosts=[*hosts_of(local), public])
            tunnel.prove_ours(public, login)
        except (TunnelError, DashboardError) as error:
            contact.ask(state, "close_tunnel")
            public, problem = None, f"No tunnel: {error} "
    if public:
        view = "A tunnel that asks for a user and password (show_credentials), because there is an ngrok token."
        return Dashboard(public, view, experiment, login, state, local)
    where, view = local, "An address that only this machine reaches, because there is no ngrok token."
    hosts = hosts_of(local)
    if "google.colab" in sys.modules:
        where, view = colab_url(urlsplit(local).port), "Colab's own proxy, because there is no ngrok token."
        hosts = [*hosts, where]
    if problem or share is False:
        view = view.partition(",")[0] + "." if not problem else problem + view.partition(",")[0] + "."
    if not set(hosts) <= set(status["hosts"]) or problem:
        contact.ask(state, "serve", hosts=hosts)
    tunnel.prove_ours(local)
    return Dashboard(where, view, experiment, None, state, local)


def hosts_of(local: str) -> list[str]:
    return [local, local.replace("127.0.0.1", "localhost")]


def colab_url(port: int) -> str:
    """Give the address at which Colab shows a port of its machine to the notebook's owner alone."""
    from google.colab.output import eval_js

    return eval_js(f"google.colab.kernel.proxyPort({port}, {{'cache': false}})").rstrip("/")


def announce(board: Dashboard) -> Dashboard:
    print(board.view)
    return board
