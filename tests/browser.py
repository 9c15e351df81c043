"""Debian's Chromium, driven by Selenium, and what a person does on MLflow's pages with it."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync hide-scrollbars window-size=1440,900"
)


@contextlib.contextmanager
def chromium(host: str = "") -> Iterator[WebDriver]:
    """Start a Chromium with a profile of its own; `host` is on this machine, whatever DNS says."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.accept_insecure_certs = True
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    if host:
        options.add_argument(f"--host-resolver-rules=MAP {host} 127.0.0.1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER, env=os.environ))
        try:
            yield driver
        finally:
            driver.quit()


def wait(driver: WebDriver, until, seconds: float = 60):
    """Wait until `until(driver)` gives something true, and give that."""
    return WebDriverWait(driver, seconds, ignored_exceptions=(Exception,)).until(until)


def find(driver: WebDriver, what: str) -> WebElement:
    """Wait for a visible element: a CSS selector, or `=text` for one with exactly this text."""
    text = what.removeprefix("=")
    by = (By.CSS_SELECTOR, what) if text == what else (By.XPATH, f"//*[normalize-space(text())='{text}']")
    return wait(driver, lambda d: next(e for e in d.find_elements(*by) if e.is_displayed()))


def click(driver: WebDriver, what: str) -> None:
    """Click on what `find` finds; again if the page drew it anew in between."""
    wait(driver, lambda d: find(d, what).click() is None)


def go(driver: WebDriver, url: str) -> None:
    """Open a page anew: only the part after # differs, which alone loads nothing."""
    driver.get("about:blank")
    driver.get(url)


def run_order(driver: WebDriver, ids: list[str]) -> list[str]:
    """Give the ids of the runs in the order of the table's rows, once all of them are there."""

    def rows(d):
        shown = d.find_elements(By.CSS_SELECTOR, "[row-id]")
        found = {row.get_attribute("row-id"): int(row.get_attribute("row-index")) for row in shown}
        return sorted(ids, key=found.get) if set(ids) <= set(found) else None

    return wait(driver, rows)


def picture_is_there(driver: WebDriver) -> bool:
    """Say whether an artifact's picture is loaded, not just its frame."""
    script = "return [...document.images].some(i => i.naturalWidth > 200 && i.src.startsWith('blob:'))"
    script += " || [...document.images].some(i => i.naturalWidth > 200 && i.src.includes('artifact'))"
    return driver.execute_script(script)
