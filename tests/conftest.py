"""One real browser for all folders of tests: Playwright cannot be started twice in a process."""

import os
import shutil

import pytest

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
REQUIRED = "QUARTERHOUR_BROWSER_REQUIRED"


@pytest.fixture(scope="session")
def chromium_path() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        why = "no Chromium was found on the PATH (Debian: apt install chromium)"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{why}, and {REQUIRED} is set")
        pytest.skip(why)
    return found


@pytest.fixture(scope="session")
def playwright(chromium_path):
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only where there is a browser to drive

    with sync_playwright() as running_playwright:
        yield running_playwright


@pytest.fixture(scope="session")
def chromium(playwright, chromium_path):
    """One browser for all; each test has a profile of its own in it."""
    browser = playwright.chromium.launch(executable_path=chromium_path, args=list(FLAGS))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def chromium_flags() -> tuple[str, ...]:
    return FLAGS
