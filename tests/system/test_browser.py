"""What a person sees in a real browser: in a notebook's frame, and through a tunnel with a password."""

import http.server
import os
import threading

import fake_ngrok
import pytest
from browser import CHROMIUM, DRIVER, chromium, click, find, go, picture_is_there, run_order, wait
from dashboard_parts import make_runs, ngrok, stores  # noqa: F401
from selenium.webdriver.common.by import By

from support import dashboard

if not (CHROMIUM and DRIVER):
    assert not os.environ.get("CI"), "CI must have Chromium: apt-get install chromium chromium-driver"
    pytest.skip("needs Chromium: apt-get install chromium chromium-driver", allow_module_level=True)


@pytest.fixture
def notebook(tmp_path):
    """Return what serves a page with a frame on this machine, at another port, as Jupyter does; and its address."""
    servers = []

    def notebook(link: str) -> str:
        (tmp_path / "page.html").write_text(f'<iframe src="{link}" width=1300 height=700></iframe>')
        handler = type("Page", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
        servers.append(
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(tmp_path)))
        )
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://localhost:{servers[-1].server_port}/page.html"

    yield notebook
    for server in servers:
        server.shutdown()


def test_a_reader_sees_it_in_a_frame_and_a_guest_through_the_tunnel(
    stores,  # noqa: F811
    ngrok,  # noqa: F811
    monkeypatch,
    notebook,
):
    ids = make_runs(stores)
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    with dashboard.open() as board, chromium(fake_ngrok.HOST) as driver:
        links = board.links
        local = {name: link.replace(board.url, board.local_url) for name, link in links.items()}
        page = notebook(local["runs, best F1 first"])
        go(driver, page)
        driver.switch_to.frame(0)
        assert run_order(driver, ids) == ids
        driver.switch_to.default_content()

        # A page of another port may show it to whoever has the link, and read nothing of it.
        script = "return fetch(arguments[0]).then(answer => answer.status, () => 'refused')"
        home = board.local_url.rpartition("/")[0]
        assert driver.execute_script(script, f"{board.local_url}/ajax-api/2.0/mlflow/experiments/search") == "refused"
        assert driver.execute_script(script, f"{home}/ajax-api/2.0/mlflow/experiments/search") == "refused"

        # Without the password: nothing of MLflow.
        driver.get(board.url)
        assert "mlflow" not in driver.page_source.lower().replace(fake_ngrok.HOST, "")

        # With it: ngrok's warning once, then MLflow.
        driver.get(board.url.replace("https://", f"https://{board.user}:{board.password}@"))
        click(driver, "=Visit Site")
        wait(driver, lambda d: d.title.endswith("MLflow"))

        # The runs, best first, with their F1; then two of them compared.
        go(driver, links["runs, best F1 first"])
        wait(driver, lambda d: run_order(d, ids) == ids)
        for heading in ("f1", "precision", "recall", "num_filters"):
            find(driver, f"={heading}")
        assert not driver.find_elements(By.CSS_SELECTOR, "textarea[placeholder^='Ask']"), "the assistant is open"
        for run_id in ids[:2]:
            click(driver, f"[row-id='{run_id}'] .ag-selection-checkbox")
        click(driver, "=Compare")
        find(driver, "=Comparing 2 Runs from 1 Experiment")

        # One curve of both losses, a picture, and the comparison by F1: at first sight.
        go(driver, links["the best run's curves"])
        find(driver, "=val_loss vs train_loss")
        go(driver, links["a picture of the best run"])
        wait(driver, picture_is_there)
        go(driver, links["the runs compared"])
        find(driver, "=Compared by f1")
        find(driver, "=Parallel Coordinates")
