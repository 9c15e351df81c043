"""Open MLflow's pages from a notebook: the best view there is, safely, with nothing left behind.

    board = dashboard.open()        # says which view and why; shows links
    board.close()                   # or end the notebook: the same happens

One server serves all notebooks on the same stores folder. It lives as long as one of the notebooks that
opened it, and no longer than they asked: see `support.dashboard.lease`.
"""

import html
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout

from support import config
from support.dashboard import checks, launch, lease, links, places
from support.tracking import remote, runs, store

LOCK_TIMEOUT = 120  # seconds for another notebook that opens a dashboard on the same stores


class Dashboard(AbstractContextManager):
    """A running dashboard: where it is, what it shows, and how to close it. Made by `open`."""

    def __init__(self, url: str, view: str, experiment: str, metric: str, folder=None, state=None) -> None:
        self.url, self.view, self.experiment, self.metric = url, view, experiment, metric
        self.local_url = launch.url_of(state) if state else url
        self.user = self.password = None
        if state and state["public"] and url.startswith(state["public"]):
            self.user, self.password = state["user"], checks.Secret(state["password"])
        self._folder: Path | None = folder
        self._state: dict | None = state

    def __repr__(self) -> str:
        return f"{self.view}\n" + "\n".join(f"{name}: {link}" for name, link in self.links.items())

    def _repr_html_(self) -> str:
        link = '<li><a href="{}" target="_blank">{}</a></li>'.format
        links = "".join(link(html.escape(url), name) for name, url in self.links.items())
        return f"<p>{html.escape(self.view)}</p><ul>{links}</ul>"

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def links(self) -> dict[str, str]:
        """Straight to what one wants to see, as far as there are comparable runs: name -> URL."""
        return links.links_to(self.url, self.experiment, self.metric)

    def show(self, height: int = 600) -> None:
        """Show the runs below the cell: in a frame of `height` pixels, or as links where a frame is not safe.

        What comes through a tunnel, a forwarded port or from a team's server does not stand in a frame.
        """
        from IPython.display import IFrame, display

        link = next(iter(self.links.values()))
        place = places.place_of(self._state["port"]) if self._state else None
        if self._state is None or self.password or (place and not place.framed):
            display(self)
        elif "google.colab" in sys.modules:
            from google.colab import output

            path = link.removeprefix(checks.origin_of(link))
            output.serve_kernel_port_as_iframe(self._state["port"], path=path, height=str(height))
        else:
            display(IFrame(link, "100%", height))

    def show_credentials(self) -> None:
        """Show user and password until Enter is pressed, then wipe them from the notebook's output.

        Do so only where somebody can press Enter: a notebook that runs by itself would keep them.
        """
        if self.password is None:
            print("This view asks for no password.")
        elif not checks.can_ask():
            print("User and password are shown only to somebody who sits here.")
        else:
            from IPython.display import clear_output

            try:
                input(f"user {self.user}, password {self.password}   (Enter hides this) ")
            finally:
                clear_output()

    def check(self) -> None:
        """Prove again, over the address that others use, that it works and is closed to everybody else.

        Raise TunnelError with what is wrong and what to do; for a team's server, what `remote.ask` raises.
        """
        if self.password:
            checks.prove_closed(self.url)
            checks.prove_ours(self.url, (self.user, self.password))
        elif self._state:
            checks.prove_ours(self.local_url)
        else:
            remote.ask(mlflow.get_tracking_uri())

    def close(self, everyone: bool = False) -> None:
        """End the dashboard for this notebook; for other notebooks that use it too, if `everyone`.

        Return when nothing of it is left. Closing twice is fine, and so is closing what is gone.
        """
        state, self._state = self._state, None
        if state is None:
            return
        leases = self._folder / "leases"
        for path in [lease.own(leases), *(lease.living(leases) if everyone else [])]:
            path.unlink(missing_ok=True)
        if left := launch.wait_for_end(self._folder, state):
            print(f"Still open for other notebooks: {left}. close(everyone=True) ends it for them too.")


def open(
    experiment: str = runs.EXPERIMENT,
    stores_dir: str | os.PathLike | None = None,
    *,
    share: bool | None = None,
    user: str = "reader",
    password: str | None = None,
    auto_close: float | None = None,
    port: int | None = None,
    metric: str = "f1",
) -> Dashboard:
    """Open a dashboard on the stores, or find the one that runs, and say which view it is and why.

    Without `stores_dir` they are those that this process is connected to, else `stores/`.
    The view is an ngrok tunnel when there is a token (NGROK_AUTHTOKEN in the environment or in Colab's
    secrets; with `share=True` it asks for one), else the way to a port that Colab, Codespaces, JupyterHub or
    Binder has, else an address that only this machine reaches. Each has a secret in it as Jupyter's has.
    `share=False` opens no tunnel, token or not. Where a tunnel fails, the view falls back and says why.
    `auto_close` is in seconds. `port` must be free when given. `metric` is what the links rank the runs by.
    Raise DashboardError when the server does not start, or another notebook is at it for too long.
    """
    uri = store.connect(stores_dir or store.connected_folder())
    links.save_views(experiment, metric)
    if remote.is_server(uri):
        view = "Your team's server, because MLFLOW_TRACKING_URI names it."
        board = Dashboard(remote.without_login(uri).rstrip("/"), view, experiment, metric)
    else:
        login = checks.credentials(user, password)
        token = None if share is False else checks.find_token(ask=bool(share))
        database = store.database_of(uri)
        folder = (database.parent if database else config.stores_dir(stores_dir)) / "dashboard"
        try:
            # Two notebooks that open at once get one dashboard.
            with leased(folder / "leases", auto_close), FileLock(folder / "lock", LOCK_TIMEOUT):
                state = launch.find_or_start(folder, uri, port, token, login)
        except Timeout:
            raise launch.DashboardError(
                f"another notebook opens a dashboard on these stores, for more than {LOCK_TIMEOUT} s now. "
                "Open this one again when that one is open, or interrupt that one."
            ) from None
        host, view = choose_view(state, token, share)
        board = Dashboard(launch.url_of(state, host), view, experiment, metric, folder, state)
    print(board.view)
    return board


@contextmanager
def leased(leases: Path, seconds: float | None) -> Iterator[None]:
    """Keep a lease, whose time starts at the end of the block. A block that fails leaves none but one from before."""
    if is_first := lease.own(leases) not in lease.living(leases):
        lease.write(leases)
    try:
        yield
    except BaseException:  # an interrupt too: leave nothing half open
        if is_first:
            lease.own(leases).unlink(missing_ok=True)
        raise
    lease.write(leases, seconds)


def choose_view(state: dict, token: str | None, share: bool | None) -> tuple[str | None, str]:
    """Return the best address that leads to the server with this state, None for this machine, and why that one."""
    host, view, why = None, "An address that only this machine reaches", "there is no ngrok token"
    if state["public"] and share is not False:
        host, why = state["public"], "there is an ngrok token"
        view = "A tunnel that asks for a user and password (show_credentials)"
    elif place := places.place_of(state["port"]):
        host, view = place.address, place.view
    if token and state["problem"]:
        return host, f"No tunnel: {state['problem']} {view}."
    return host, f"{view}." if share is False else f"{view}, because {why}."
