"""The dashboard's view where the browser is not on this machine, by stand-ins for each place's environment."""

import re
import sys
from types import ModuleType

import pytest

from support.dashboard import launch, places, view

STATE = {"port": 5005, "secret": "s3cret", "public": None, "problem": ""}
HERE = ["http://127.0.0.1:5005", "http://localhost:5005"]
NAME = "fuzzy-space-disco-97x"


@pytest.fixture
def place(monkeypatch):
    """Return what makes this machine one of a place's, with or without jupyter-server-proxy."""

    def place(proxy: bool = True, **environment: str) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(places, "find_spec", lambda name: proxy or None)

    return place


def url_and_view(share: bool | None = None) -> tuple[str, str]:
    address, text = view.choose_view(STATE, None, share)
    return launch.url_of(STATE, address), text


def test_here_it_is_this_machines_address(place):
    place()
    assert places.place_of(5005) is None and launch.hosts_of(5005) == HERE


@pytest.mark.parametrize("domain", [None, "preview.example"])
def test_in_codespaces_it_is_the_forwarded_port_whose_proxy_rewrites_the_origin(place, domain):
    place(CODESPACE_NAME=NAME, **({"GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN": domain} if domain else {}))
    origin = f"https://{NAME}-5005.{domain or 'app.github.dev'}"
    url, text = url_and_view()
    assert url == f"{origin}/s3cret" and "GitHub asks for your login, unless you make the port public" in text
    assert launch.hosts_of(5005) == [*HERE, origin, "https://localhost:5005"]
    assert not places.place_of(5005).framed


@pytest.mark.parametrize("public", ["https://hub.example", "https://hub.example/user/ada/"])
def test_in_jupyterhub_it_is_the_proxy_below_the_users_own_path(place, public):
    place(JUPYTERHUB_SERVICE_PREFIX="/user/ada/", JUPYTERHUB_PUBLIC_URL=public)
    url, text = url_and_view(share=False)
    assert url == "https://hub.example/user/ada/proxy/5005/s3cret"
    assert text == "JupyterHub's proxy (it asks for your login there)."
    assert launch.hosts_of(5005) == [*HERE, "https://hub.example"] and places.place_of(5005).framed


@pytest.mark.parametrize(
    ("proxy", "environment", "sentence"),
    [
        (False, {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}, "install jupyter-server-proxy"),
        (True, {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}, r"JUPYTERHUB_PUBLIC_URL.*, and open again"),
        (True, {"JUPYTERHUB_SERVICE_PREFIX": "/", "JUPYTERHUB_PUBLIC_URL": "/"}, "JUPYTERHUB_PUBLIC_URL"),
        (True, {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "Kaggle has no private way to a port: set NGROK_AUTHTOKEN"),
        (True, {"LIGHTNING_CLOUDSPACE_HOST": "a.cloudspaces.litng.ai"}, "Lightning has no private way"),
    ],
)
def test_where_no_way_leads_to_the_reader_it_says_so_and_lets_nobody_in(place, proxy, environment, sentence):
    place(proxy, **environment)
    url, text = url_and_view()
    assert text.startswith("An address that your browser does not reach (") and "write a report)" in text
    assert re.search(sentence, text)
    assert url == f"{HERE[0]}/s3cret" and launch.hosts_of(5005) == HERE and not places.place_of(5005).framed


def test_a_tunnel_comes_before_and_colab_is_colab(place, monkeypatch):
    place(JUPYTERHUB_SERVICE_PREFIX="/user/ada/", JUPYTERHUB_PUBLIC_URL="https://hub.example")
    shared = {**STATE, "public": "https://a.ngrok-free.app"}
    assert view.choose_view(shared, "token", None)[0] == "https://a.ngrok-free.app"
    assert view.choose_view(shared, "token", False)[0] == "https://hub.example/user/ada/proxy/5005"
    output = ModuleType("google.colab.output")
    output.eval_js = lambda _: "https://5005-m-s-1.prod.colab.dev/"
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    assert places.place_of(5005).address == "https://5005-m-s-1.prod.colab.dev"
