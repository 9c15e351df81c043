"""How a browser reaches a port of a machine that is not the reader's own: Colab, Codespaces, JupyterHub, Binder."""

import os
import sys
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

BLIND = "An address that your browser does not reach ({}; or write a report)"


class Place(NamedTuple):
    """A way to a port: what to call it, and the address; without one, the reader's browser does not get there.

    `origins` are what its requests say of the page they come from; `framed`: the notebook may show it in a frame.
    """

    view: str
    address: str | None = None
    origins: tuple[str, ...] = ()
    framed: bool = False


def place_of(port: int) -> Place | None:
    """Return the way to a port of this machine; None where the reader sits at it."""
    if "google.colab" in sys.modules:
        from google.colab.output import eval_js

        address = eval_js(f"google.colab.kernel.proxyPort({port}, {{'cache': false}})").rstrip("/")
        return Place("Colab's own proxy", address, (address,), True)
    if name := os.environ.get("CODESPACE_NAME"):
        domain = os.environ.get("GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN", "app.github.dev")
        view = "Codespaces' forwarded port (GitHub asks for your login, unless you make the port public)"
        address = f"https://{name}-{port}.{domain}"
        return Place(view, address, (address, f"https://localhost:{port}"))  # it rewrites a page's own Origin
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        hub = urlsplit(os.environ.get("JUPYTERHUB_PUBLIC_URL", ""))
        if not find_spec("jupyter_server_proxy"):
            return Place(BLIND.format("install jupyter-server-proxy, and start your JupyterHub server again"))
        if not hub.netloc:
            example = 'os.environ["JUPYTERHUB_PUBLIC_URL"] = "https://hub.example"'
            return Place(BLIND.format(f"say where JupyterHub is, as your browser shows it, {example}, and open again"))
        origin = f"{hub.scheme}://{hub.netloc}"
        address = f"{origin}{prefix.rstrip('/')}/proxy/{port}"
        return Place("JupyterHub's proxy (it asks for your login there)", address, (origin,), True)
    for name, place in {"KAGGLE_KERNEL_RUN_TYPE": "Kaggle", "LIGHTNING_CLOUDSPACE_HOST": "Lightning"}.items():
        if name in os.environ:
            return Place(BLIND.format(f"{place} has no private way to a port: set NGROK_AUTHTOKEN, and open again"))
    return None
