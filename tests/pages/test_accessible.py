"""WCAG 2.2 A and AA on every page in every state, light and dark, with the EHR's look and with our own."""

import re

import pytest

from quarterhour.sandbox.faults import Fault

pytestmark = pytest.mark.browser


def test_axe_does_see_what_is_wrong(one_clinic, browser, axe):
    page = browser.new_page()
    page.goto(one_clinic.launch_url("cms-ex1"))
    page.evaluate("() => document.querySelector('main').append(document.createElement('input'))")
    assert "planted, light: label" in axe(page, "planted")


def test_84_the_review_of_every_chart_has_no_violation(one_clinic, a_browser, axe):
    page = a_browser(viewport={"width": 1280, "height": 900}).new_page()
    found = {}
    for scenario in one_clinic.sandbox.scenarios:
        page.goto(one_clinic.launch_url(scenario.id))
        found |= axe(page, scenario.id, dark=False)  # the EHR's own look is the same in both
    assert found == {}


@pytest.mark.parametrize("width", [320, 768])
def test_narrow_and_in_our_own_look_the_review_has_no_violation(one_clinic, a_browser, axe, width):
    context = a_browser(viewport={"width": width, "height": 800})
    context.route("**/style.css", lambda route: route.abort())  # an EHR without a style of its own
    page = context.new_page()
    found = {}
    for visit in ("missing-minutes", "assistant", "unknown-payer"):
        page.goto(one_clinic.launch_url(visit))
        found |= axe(page, f"{visit} at {width}")
    assert found == {}


def test_what_was_settled_and_what_cannot_be_used_have_no_violation(clinic, browser, axe):
    page = browser.new_page()
    page.goto(clinic.launch_url("missing-minutes"))
    page.get_by_label("Minutes", exact=True).fill("1441")
    page.get_by_label("Where is it documented?").fill("Flow sheet")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    found = axe(page, "an entry that cannot be used")
    page.get_by_label("Minutes", exact=True).fill("12")
    page.keyboard.press("Enter")
    page.get_by_text("12 minutes as entered").first.wait_for(state="attached")
    found |= axe(page, "minutes entered")
    page.goto(clinic.launch_url("cms-ex2"))
    page.get_by_role("radio", name="97112 × 2, 97110 × 1").check()
    page.get_by_text("1 unit is still to be placed.").first.wait_for(state="detached")
    page.get_by_role("checkbox", name="GP on 97112").uncheck()
    page.get_by_role("checkbox", name="GP off 97112").wait_for()
    page.get_by_text("waiting for this year's amount so far").click()
    page.get_by_role("textbox", name="This year's amount so far").fill("2900")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Attest and put on KX").wait_for()
    found |= axe(page, "settled")
    assert found == {}


def test_signing_off_and_every_receipt_have_no_violation(clinic, browser, axe):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex1"))
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    found = axe(page, "sign off")
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_text("Written.").wait_for()
    found |= axe(page, "written")
    for name, link in (("ticket", "Charge ticket to print"), ("receipt to copy", "To copy or print")):
        page.get_by_role("link", name=link).click()
        page.get_by_role("heading", level=1).wait_for()
        found |= axe(page, name)
        page.go_back()
    page.get_by_role("link", name="Back to the visit").click()
    page.wait_for_load_state()
    found |= axe(page, "signed already")
    for status, visit in ((422, "cms-ex3"), (503, "cms-ex4")):
        clinic.sandbox.faults.add(
            Fault("status", status=status, times=9, method="POST", path="/fhir/ChargeItem*")
        )
        page.goto(clinic.launch_url(visit))
        page.get_by_role("button", name="Sign off…").first.click()
        page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
        page.get_by_text("Not all is written.").wait_for()
        found |= axe(page, f"not written, {status}")
        clinic.sandbox.faults.clear()
    page.goto(page.url.split("/visits/")[0] + "/administration/")
    page.get_by_role("heading", name="Charges that are stuck").wait_for()
    found |= axe(page, "administration")
    page.get_by_role("link", name="Audit trail").click()
    page.get_by_role("button", name="Verify the trail").click()
    page.get_by_text("The trail is whole").wait_for()
    found |= axe(page, "audit trail")
    page.goto(page.url.split("/administration/")[0] + "/administration/sessions")
    found |= axe(page, "sessions")
    page.get_by_role("button", name="End everybody's sessions but this one").click()
    page.get_by_role("status").wait_for()
    found |= axe(page, "sessions ended")
    page.goto(page.url.split("/administration/")[0] + "/worklist")
    found |= axe(page, "worklist")
    page.get_by_role("link", name=re.compile("Adams")).click()
    page.get_by_role("heading", name=re.compile("^History:")).wait_for()
    found |= axe(page, "history")
    assert found == {}


def test_home_and_the_pages_of_what_went_wrong_have_no_violation(one_clinic, browser, axe):
    page = browser.new_page()
    found = {}
    for path in (
        "/",
        "/launch",
        "/launch?iss=https://nobody.example",
        "/callback",
        "/launches/nobody/",
        "/nowhere",
    ):
        page.goto(one_clinic.app_url + path)
        found |= axe(page, path)
    assert found == {}
