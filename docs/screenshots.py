"""Takes the README's pictures of the running product: `make screenshots`."""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from quarterhour.plugin.cli_demo import demonstration

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    """The EHR's visit with Quarterhour in its frame, the review page by itself and narrow, the receipt."""
    with demonstration() as shown, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        chart = browser.new_page(viewport={"width": 1280, "height": 960})
        chart.goto(shown.ehr_url)
        chart.screenshot(path=HERE / "visits.png")
        chart.get_by_role("link", name="Walter Brennan").click()
        chart.get_by_text("Open Quarterhour").first.click()
        frame = chart.frame_locator("iframe")
        frame.get_by_role("heading", name="For you to decide").wait_for()
        chart.screenshot(path=HERE / "in-the-ehr.png")
        frame.get_by_text("97112 × 2").first.click()
        frame.get_by_role("button", name="Sign off").first.wait_for()
        narrow = browser.new_page(viewport={"width": 400, "height": 860})
        narrow.goto(shown.sandbox.launch_url("optum-cap", "quarterhour-jwt"))
        narrow.screenshot(path=HERE / "sidebar.png")
        wide = browser.new_page(viewport={"width": 1000, "height": 700})
        wide.goto(shown.sandbox.launch_url("cms-ex1", "quarterhour-jwt"))
        wide.get_by_role("button", name="Sign off").first.click()
        wide.get_by_role("button", name="Sign off").click()
        wide.get_by_text("Written.").wait_for()
        wide.screenshot(path=HERE / "receipt.png")
        browser.close()


if __name__ == "__main__":
    main()
