"""Open MLflow's pages from a notebook: the best view there is, safely, with nothing left behind.

    board = dashboard.open()        # says which view and why; shows links
    board.close()                   # or end the notebook: the same happens

One server serves all notebooks on the same stores folder. It lives as long as one of the notebooks that
opened it, and no longer than they asked: see `support.dashboard.lease`.
"""

import html
import os
from pathlib import Path

import mlflow
from filelock import FileLock, Timeout

from support import config
from support.dashboard import checks, launch, lease, links
from support.tracking import remote, runs, store

LOCK_TIMEOUT = 120  # seconds for another notebook that opens a dashboard on the same stores


class Dashboard:
    """A running dashboard: where it is, what it shows, and how to close it. Made by `open`."""

    def __init__(self, url: str, view: str, experiment: str, login=(None, None), folder=None, state=None):
        self.url, self.view, self.experiment, self.metric = url, view, experiment, "f1"
        self.user, self.password = login
        self.local_url = launch.url_of(state) if state else url
        self._folder: Path = folder
        self._state: dict | None = state

    def __repr__(self) -> str:
        return f"{self.view}\n" + "\n".join(f"{name}: {link}" for name, link in self.links.items())

    def _repr_html_(self) -> str:
        link = '<li><a href="{}" target="_blank">{}</a></li>'.format
        links = "".join(link(html.escape(url), name) for name, url in self.links.items())
        return f"<p>{html.escape(self.view)}</p><ul>{links}</ul>"

    def __enter__(self) -> "Dashboard":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def links(self) -> dict[str, str]:
        """Straight to what one wants to see, as far as there are comparable runs: name -> URL."""
        return links.links_to(self.url, self.experiment, self.metric)

    def show(self, height: int = 600) -> None:
        """Show the runs below the cell: in a frame of `height` pixels, or as links where a frame is not safe.

        What comes through a tunnel or from a team's server does not stand in a frame.
        """
        from IPython.display import IFrame, display

        link = next(iter(self.links.values()))
        if self._state is None or self.password:
            display(self)
        elif self.url == self.local_url:
            display(IFrame(link, "100%", height))
        else:
            from google.colab import output

            path = link.removeprefix(checks.origin_of(link))
            output.serve_kernel_port_as_iframe(self._state["port"], path=path, height=str(height))

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
            print(f"Still open for {left} other notebook(s); close(everyone=True) ends it for them too.")


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

    The view is an ngrok tunnel when there is a token (NGROK_AUTHTOKEN in the environment or in Colab's
    secrets; with `share=True` it asks for one), else Colab's own port proxy on Colab, else an address that
    only this machine reaches, with a secret in it as in Jupyter's. `share=False` opens no tunnel, token or
    not. Where a tunnel fails, the view falls back and says why. `auto_close` is in seconds. `port` must be free
    when given. `metric` is what the links rank the runs by. Raise DashboardError when the server does not start,
    or another notebook is at it for too long.
    """
    uri = store.connect(stores_dir)
    if remote.is_server(uri):
        view = "Your team's server, because MLFLOW_TRACKING_URI names it."
        return announce(Dashboard(remote.without_login(uri).rstrip("/"), view, experiment), metric)
    login = checks.credentials(user, password)
    token = None if share is False else checks.find_token(ask=bool(share))
    database = store.database_of(uri)
    folder = (database.parent if database else config.stores_dir(stores_dir)) / "dashboard"
    leases = folder / "leases"
    if is_first := lease.own(leases) not in lease.living(leases):
        lease.write(leases)
    try:
        with FileLock(folder / "lock", LOCK_TIMEOUT):  # two notebooks that open at once get one dashboard
            state = launch.find_or_start(folder, uri, port, token, login)
        lease.write(leases, auto_close)  # whose time starts now
        return announce(choose_view(state, experiment, folder, token, share), metric)
    except BaseException as error:  # an interrupt too: leave nothing half open
        if is_first:
            lease.own(leases).unlink(missing_ok=True)
        if isinstance(error, Timeout):
            raise launch.DashboardError(
                f"another notebook opens a dashboard on these stores, for more than {LOCK_TIMEOUT} s now. "
                "Open this one again when that one is open, or interrupt that one."
            ) from None
        raise


def choose_view(state: dict, experiment: str, folder: Path, token: str | None, share: bool | None) -> Dashboard:
    """Return the dashboard at the best address that the server with this state has, and why it is that."""
    host, login = None, (None, None)
    view, why = "An address that only this machine reaches", "there is no ngrok token"
    if state["public"] and share is not False:
        host, login = state["public"], (state["user"], checks.Secret(state["password"]))
        view, why = "A tunnel that asks for a user and password (show_credentials)", "there is an ngrok token"
    elif len(hosts := launch.hosts_of(state["port"])) > 2:
        host, view = hosts[-1], "Colab's own proxy"
    if token and state["problem"]:
        view = f"No tunnel: {state['problem']} {view}."
    else:
        view = f"{view}." if share is False else f"{view}, because {why}."
    return Dashboard(launch.url_of(state, host), view, experiment, login, folder, state)


def announce(board: Dashboard, metric: str) -> Dashboard:
    """Print which view a dashboard is, and why; return the dashboard, whose links rank by the metric."""
    board.metric = metric
    links.save_views(board.experiment, metric)
    print(board.view)
    return board
