"""What a person sees in a real browser, through a tunnel with a password."""

import os

import fake_ngrok
import pytest
from browser import CHROMIUM, DRIVER, chromium, click, find, go, picture_is_there, run_order, wait
from dashboard_parts import make_runs, ngrok, stores  # noqa: F401
from selenium.webdriver.common.by import By

from support.dashboard import view as dashboard

pytestmark = pytest.mark.once

if not (CHROMIUM and DRIVER):
    assert not os.environ.get("CI"), "CI must have Chromium: apt-get install chromium chromium-driver"
    pytest.skip("needs Chromium: apt-get install chromium chromium-driver", allow_module_level=True)


@pytest.fixture
def shared(stores, ngrok, monkeypatch):  # noqa: F811
    """A dashboard with three runs, shared by a tunnel; and the runs' ids, best F1 first."""
    ids = make_runs(stores)
    monkeypatch.setenv("NGROK_AUTHTOKEN", "good")
    with dashboard.open() as board:
        yield board, ids


def test_a_guest_logs_in_and_finds_the_runs(shared):
    board, ids = shared
    with chromium(fake_ngrok.HOST) as driver:
        # Without the password: nothing of MLflow.
        driver.get(board.url)
        assert "mlflow" not in driver.page_source.lower().replace(fake_ngrok.HOST, "")

        # With it: ngrok's warning once, then MLflow.
        driver.get(board.url.replace("https://", f"https://{board.user}:{board.password}@"))
        click(driver, "=Visit Site")
        wait(driver, lambda d: d.title.endswith("MLflow"))

        # The runs table, in the order of creation, then by F1, as a person sorts it.
        page, _, query = board.links["runs, best F1 first"].partition("?")
        go(driver, f"{page}?workflowType=machine_learning")
        assert run_order(driver, ids) == ids[::-1]
        click(driver, "[data-testid='sort-select-dropdown']")
        click(driver, "[data-testid='sort-select-f1']")
        wait(driver, lambda d: run_order(d, ids) == ids)

        # The link does the same at once.
        go(driver, f"{page}?{query}")
        wait(driver, lambda d: run_order(d, ids) == ids)

        # Two runs, compared.
        for run_id in ids[:2]:
            click(driver, f"[row-id='{run_id}'] .ag-selection-checkbox")
        click(driver, "=Compare")
        find(driver, "=Comparing 2 Runs from 1 Experiment")

        # The best run, its charts, and a picture among its artifacts.
        go(driver, board.links["the best run's charts"])
        find(driver, "=best_val_loss")
        wait(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")) >= 3)
        go(driver, board.links["the best run's artifacts"])
        click(driver, "=plots")
        click(driver, "=learning_curves.png")
        wait(driver, picture_is_there)

        # The comparison that the notebook links to.
        go(driver, board.links["the top runs compared"])
        find(driver, "=Comparing 3 Runs from 1 Experiment")
