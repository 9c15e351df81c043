"""Take the pictures of the dashboard that the README and the notebooks 02 and 05 show.

    PYTHONPATH=.:tests python tools/screenshots.py     # writes docs/img/*.png

Trains a few runs into a store of its own, opens the dashboard on it, and looks at it with Debian's Chromium
(packages chromium and chromium-driver) as the tests do.
"""

import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from browser import chromium, click, find, go, picture_is_there, run_order, wait
from selenium.webdriver.common.by import By

from support import dashboard, data, registry, search, tracking
from support.models import Params

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "img"
VARIANTS = [{}, {"lr": 1e-3}, {"num_filters": 64}, {"dropout_p": 0.2}, {"num_epochs": 20}]
HIDE_PATH = """
for (const e of document.querySelectorAll('*'))
    if (!e.children.length && e.textContent.includes('file://')) e.style.visibility = 'hidden'
"""  # of this machine's temporary folder
RUN_COLUMNS = [
    "metrics.`f1`",
    "metrics.`best_val_loss`",
    "params.`lr`",
    "params.`num_filters`",
    "params.`dropout_p`",
]
TRIAL_COLUMNS = [
    "metrics.`val_f1`",
    "metrics.`f1`",
    "params.`C`",
    "params.`char_ngrams`",
    "params.`word_ngrams`",
    "attributes.`Models`",
]


def train_runs() -> list[str]:
    """Train one run a variant and give the ids, best F1 first."""
    projects = data.load_projects()
    for changed in VARIANTS:
        name = "cnn" + "".join(f" {key}={value}" for key, value in changed.items())
        tracking.train_and_log(Params(**changed), data.split(projects), run_name=name)
    return list(tracking.runs_table().index)


def take_pictures(board: dashboard.Dashboard, ids: list[str]) -> None:
    """Visit the pages that the dashboard links to, and keep what they show."""
    links = board.links
    with chromium() as driver:
        choose_columns(driver, board, RUN_COLUMNS)

        go(driver, links["runs, best F1 first"])
        wait(driver, lambda d: run_order(d, ids) == ids)
        keep(driver, "runs")

        go(driver, links["the best run's charts"])
        find(driver, "[placeholder='Search metric charts']").send_keys("loss")
        wait(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")) == 3)
        keep(driver, "charts")

        go(driver, links["the best run's artifacts"])
        click(driver, "=plots")
        click(driver, "=f1_by_tag.png")
        wait(driver, picture_is_there)
        driver.execute_script(HIDE_PATH)
        keep(driver, "artifacts")

        go(driver, links["the top runs compared"])
        find(driver, "=Comparing 3 Runs from 1 Experiment")
        wait(driver, lambda d: d.find_elements(By.CSS_SELECTOR, ".js-plotly-plot"))
        choose_metric(driver, "f1")
        keep(driver, "compared")


def take_pictures_of_search(board: dashboard.Dashboard) -> None:
    """Search, promote the best run, and keep the table with the trials unfolded, and the model's version."""
    splits = data.split(data.load_projects())
    search_id = search.search(splits, workers=2)
    params = replace(search.best_params(search_id), use_val=True)
    tracking.train_and_log(params, splits, run_name="tfidf-searched")
    version = registry.promote()
    with chromium() as driver:
        choose_columns(driver, board, TRIAL_COLUMNS)
        go(driver, board.links["runs, best F1 first"].split("&")[0])
        click(
            driver,
            f"[row-id='{search_id}'] [data-component-id*='runnamecellrenderer'].du-bois-light-btn-link",
        )
        wait(driver, lambda d: len(d.find_elements(By.LINK_TEXT, "cnn-0")) == 1)
        keep(driver, "search")

        go(driver, f"{board.url}/#/models/{version.name}/versions/{version.version}")
        find(driver, "=Quality")
        keep(driver, "version")


def choose_metric(driver, name: str) -> None:
    """Put `name` under *Metrics* of the page that compares runs, in place of what stands there."""
    metrics = driver.find_elements(By.CSS_SELECTOR, ".du-bois-light-select-selector")[-1]
    metrics.find_element(By.CSS_SELECTOR, ".du-bois-light-select-selection-item-remove").click()
    metrics.click()
    metrics.find_element(By.CSS_SELECTOR, "input").send_keys(name)  # else it may be out of the list's sight
    click(driver, f".du-bois-light-select-dropdown [title='{name}']")
    wait(driver, lambda _: metrics.text.strip() == name)
    click(driver, "h2")  # closes the list


def choose_columns(driver, board: dashboard.Dashboard, columns: list[str]) -> None:
    """Put into the browser's memory what a reader's keeps who has chosen these under *Columns*."""
    experiment_id = board.links["runs, best F1 first"].split("/experiments/")[1].split("/")[0]
    key = f'MLflowLocalStorage-1.1-ExperimentPage-["{experiment_id}"]-ReactComponentState'
    state = json.dumps(json.dumps({"selectedColumns": columns}))
    go(driver, board.url)
    driver.execute_script(f"localStorage.setItem({json.dumps(key)}, {state})")


def keep(driver, name: str) -> None:
    time.sleep(2)  # for what moves into place
    PICTURES.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(PICTURES / f"{name}.png"))
    print(f"docs/img/{name}.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as stores:
        os.environ["STORES_DIR"] = stores
        tracking.connect()
        ids = train_runs()
        with dashboard.open(share=False) as board:
            take_pictures(board, ids)
            take_pictures_of_search(board)


if __name__ == "__main__":
    main()
