"""Take the pictures of the dashboard that the README and the notebooks show: what their links show, and no more.

    PYTHONPATH=.:tests python tools/screenshots.py     # writes notebooks/img/*.png

Trains the runs of the notebooks into a store of its own, opens the dashboard on it, and looks at it with Debian's
Chromium (packages chromium and chromium-driver), whose profile is fresh.
"""

import os
import tempfile
import time
from pathlib import Path

from browser import chromium, click, find, go, picture_is_there, wait
from selenium.webdriver.common.by import By

from support import dashboard, data, registry, search, tracking
from support.models import LinearParams, Params, RuleParams

PICTURES = Path(__file__).resolve().parents[1] / "notebooks" / "img"
RUNS = {
    "cnn": Params(),
    "cnn-20-epochs": Params(num_epochs=20),
    "cnn-words": Params(char_level=False, filter_sizes=[1, 2, 3], num_filters=64, lr=1e-3),
    "rules": RuleParams(),
    "tfidf": LinearParams(),
}
HIDE_PATH = """
for (const e of document.querySelectorAll('*'))
    if (!e.children.length && e.textContent.includes('file://')) e.style.visibility = 'hidden'
"""  # of the temporary folder


def take_pictures() -> None:
    """Visit the pages that the dashboard links to, and keep what they show."""
    with dashboard.open(share=False) as board, chromium() as driver:
        names = {
            "runs": ("runs, best F1 first", lambda d: d.find_elements(By.LINK_TEXT, "cnn")),
            "curves": ("the best run's curves", lambda d: d.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")),
            "artifacts": ("a picture of the best run", picture_is_there),
            "compared": ("the runs compared", lambda d: d.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")),
        }
        for name, (link, shown) in names.items():
            go(driver, board.links[link])
            wait(driver, shown)
            driver.execute_script(HIDE_PATH)
            keep(driver, name)


def take_pictures_of_search(splits: data.Splits) -> None:
    """Search, promote the best run, and keep the table with the trials unfolded, and the model's version."""
    search_id = search.search(splits)
    version = registry.promote()
    with dashboard.open(share=False) as board, chromium() as driver:
        go(driver, board.links["all runs, newest first"])
        click(driver, f"[row-id='{search_id}'] [data-component-id*='runnamecellrenderer'].du-bois-light-btn-link")
        wait(driver, lambda d: d.find_elements(By.PARTIAL_LINK_TEXT, "linear-"))
        keep(driver, "search")

        go(driver, f"{board.url}/#/models/{version.name}/versions/{version.version}")
        find(driver, "=Quality")
        keep(driver, "version")


def keep(driver, name: str) -> None:
    """Write what the browser shows to notebooks/img/."""
    time.sleep(3)  # for what moves into place
    PICTURES.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(PICTURES / f"{name}.png"))
    print(f"notebooks/img/{name}.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as stores:
        os.environ["STORES_DIR"] = stores
        tracking.connect()
        splits = data.split(data.load_projects())
        for name, params in RUNS.items():
            tracking.train_and_log(params, splits, run_name=name)
        take_pictures()
        take_pictures_of_search(splits)


if __name__ == "__main__":
    main()
