"""In the EHR's frame: its header says whose chart it is, and ours does not say it again."""

import pytest

pytestmark = pytest.mark.browser


def test_in_a_frame_of_an_ehr_that_shows_the_patient_there_is_no_second_header(clinic, browser):
    page = browser.new_page()
    page.goto(f"{clinic.ehr_url}/visits/{clinic.sandbox.scenario('cms-ex1').encounter}")
    page.get_by_role("button", name="Open Quarterhour").click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", level=1).wait_for()
    assert page.get_by_text("Ruth Adams").first.is_visible()  # the EHR's own
    assert "Adams" not in frame.locator("body").inner_text()
    frame.get_by_role("button", name="Sign off…").first.click()
    frame.get_by_role("heading", name="Sign off:").wait_for()
    assert "Adams" not in frame.locator("body").inner_text()


def test_in_a_tab_of_its_own_the_same_ehr_has_it_shown(clinic, browser):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex1"))
    assert page.locator(".banner").get_by_text("Ruth Adams").is_visible()
