"""What a person takes along: the pages on paper, and the receipt as a table."""

import csv
import re

import pytest

pytestmark = pytest.mark.browser


def signed(page, clinic, visit: str) -> None:
    page.goto(clinic.launch_url(visit))
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_text("Written.").wait_for()


def seen(page, selector: str) -> list[str]:
    """The words of those that paper would show."""
    found = page.locator(selector).all()
    return [" ".join(each.inner_text().split()) for each in found if each.is_visible()]


def test_on_paper_the_review_has_its_reasons_and_no_buttons(one_clinic, browser):
    page = browser.new_page()
    page.goto(one_clinic.launch_url("cms-ex1"))
    assert "Sign off…" in seen(page, "button")
    assert not any("24 + 23 = 47" in words for words in seen(page, ".because p"))  # closed on the screen
    page.emulate_media(media="print")
    assert seen(page, "button") == []
    assert seen(page, "footer.session, .skip, nav") == []
    assert any("24 + 23 = 47" in words for words in seen(page, ".because p"))
    assert any("Claims Processing Manual" in words for words in seen(page, "#sources li"))
    assert page.locator("svg.timeline.wide").is_visible()


def test_on_paper_a_receipt_and_a_ticket_have_all_and_nothing_to_press(clinic, browser):
    page = browser.new_page()
    signed(page, clinic, "cms-ex1")
    page.wait_for_load_state()  # the style sheet is part of what is printed
    page.emulate_media(media="print")
    page.get_by_role("button").first.wait_for(state="hidden")
    assert seen(page, "button, summary, .noprint") == []
    (line,) = [words for words in seen(page, "tbody tr") if words.startswith("97112")]
    assert "Identifier" in line
    page.emulate_media(media="screen")
    page.get_by_role("link", name="Charge ticket to print").click()
    page.get_by_role("heading", name=re.compile("^Charge ticket:")).wait_for()
    page.emulate_media(media="print")
    assert seen(page, "button, .noprint") == []
    assert len(seen(page, "tbody tr")) == 2


def test_paper_is_white_whatever_the_screen_is(one_clinic, a_browser):
    page = a_browser(color_scheme="dark").new_page()
    page.route("**/style.css", lambda route: route.abort())
    page.goto(one_clinic.launch_url("cms-ex1"))

    def ground() -> str:
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    assert ground() == "rgb(18, 24, 31)"
    page.emulate_media(media="print", color_scheme="dark")
    assert ground() == "rgb(255, 255, 255)"


def test_the_receipt_is_downloaded_as_a_table_that_names_no_patient(clinic, browser, tmp_path):
    page = browser.new_page()
    signed(page, clinic, "cms-ex1")
    with page.expect_download() as download:
        page.get_by_role("link", name="Table (CSV)").click()
    assert download.value.suggested_filename == "receipt.csv"
    download.value.save_as(tmp_path / "receipt.csv")
    text = (tmp_path / "receipt.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["Code"], row["Units"], row["Modifiers"]) for row in rows] == [
        ("97112", "2", "GP"),
        ("97110", "1", "GP"),
    ]
    written = {f"ChargeItem/{item['id']}" for item in clinic.written("cms-ex1")}
    assert {row["Where"] for row in rows} == written
    assert {row["State"] for row in rows} == {"Written"}
    assert "Adams" not in text
