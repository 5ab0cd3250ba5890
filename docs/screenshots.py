"""Takes pictures of the running product: `make screenshots`.

The README's stand beside this file; every page and state, at 400 px and light, in ``pictures``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import structlog
from playwright.sync_api import Browser, Page, sync_playwright

from quarterhour.plugin.cli_demo import demonstration
from quarterhour.sandbox.authorization import Authorized
from quarterhour.sandbox.faults import Fault

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CLIENT = "quarterhour-jwt"


def main() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    PICTURES.mkdir(exist_ok=True)
    with demonstration() as shown, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for_the_readme(browser, shown)
        every_state(browser, shown)
        browser.close()


def for_the_readme(browser: Browser, shown: Any) -> None:
    """The EHR's visit with Quarterhour in its frame, the review page narrow, the receipt."""
    chart = browser.new_page(viewport={"width": 1280, "height": 960})
    chart.goto(shown.ehr_url)
    chart.screenshot(path=HERE / "visits.png")
    chart.get_by_role("link", name="Walter Brennan").click()
    chart.get_by_text("Open Quarterhour").first.click()
    frame = chart.frame_locator("iframe")
    frame.get_by_role("heading", name="For you to decide").wait_for()
    chart.screenshot(path=HERE / "in-the-ehr.png")
    narrow = browser.new_page(viewport={"width": 400, "height": 860})
    narrow.goto(shown.sandbox.launch_url("optum-cap", CLIENT))
    narrow.screenshot(path=HERE / "sidebar.png")
    wide = browser.new_page(viewport={"width": 1000, "height": 700})
    sign(wide, shown, "cms-ex1")
    wide.screenshot(path=HERE / "receipt.png")


def sign(page: Page, shown: Any, visit: str) -> None:
    page.goto(shown.sandbox.launch_url(visit, CLIENT))
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()


def every_state(browser: Browser, shown: Any) -> None:
    """One picture a page and state, each whole."""
    page = browser.new_page(viewport={"width": 400, "height": 860})

    def take(name: str) -> None:
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    for scenario in shown.sandbox.scenarios:
        page.goto(shown.sandbox.launch_url(scenario.id, CLIENT))
        take(f"review-{scenario.id}")
    page.goto(shown.sandbox.launch_url("cms-ex2", CLIENT))
    base = page.url.removesuffix("/")
    page.get_by_role("radio").first.check()
    page.get_by_text("still to be placed").first.wait_for(state="detached")
    page.locator("details").evaluate_all("every => every.forEach(each => { each.open = true })")
    take("review-settled-all-open")
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    take("sign-off")
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_text("Written.").wait_for()
    take("receipt")
    for name in ("ticket", "receipt/copy", "history"):
        page.goto(f"{base}/visits/1/{name}")
        take(name.replace("receipt/", "receipt-"))
    page.goto(f"{base}/visits/1")
    take("review-signed")
    with failing(shown, 503):
        sign(page, shown, "cms-ex4")
        take("receipt-not-written")
    page.goto(f"{base}/worklist")
    take("worklist")
    page.goto(shown.sandbox.launch_url("cms-ex3", CLIENT, "pr-cole"))
    take("review-read-only")
    page.goto(launched(shown, "pr-cole", None))
    take("problem-no-patient")
    page.goto(launched(shown, "pr-reyes", "pat-adams"))
    take("choose-a-visit")
    page.get_by_role("button", name="End this session").click()
    page.get_by_role("heading", name="Session ended").wait_for()
    take("ended")
    for name, path in (("home", "/"), ("problem-unknown-ehr", "/launch?iss=https://nobody.example")):
        page.goto(shown.app_url + path)
        take(name)


@contextmanager
def failing(shown: Any, status: int) -> Iterator[None]:
    shown.sandbox.faults.add(Fault("status", status=status, times=9, method="POST", path="/fhir*"))
    yield
    shown.sandbox.faults.clear()


def launched(shown: Any, who: str, patient: str | None) -> str:
    """The address of a launch without a visit, or without a patient too."""
    chosen = f"Patient/{patient}" if patient else None
    launch = shown.sandbox.smart.launch(Authorized(f"Practitioner/{who}", chosen, None))
    (client,) = [each for each in shown.sandbox.clients if each.client_id == CLIENT]
    return f"{client.launch_url}?{urlencode({'iss': shown.sandbox.fhir_url, 'launch': launch})}"


if __name__ == "__main__":
    main()
