"""The four published CMS examples, from FHIR resources to ChargeItems, in a browser.

Medicare Claims Processing Manual, chapter 5, §20.2.C; the chart of each is a visit of the sandbox.
"""

import re

import pytest

pytestmark = pytest.mark.browser

# (visit, the choice where the manual leaves one, what the manual bills)
PUBLISHED = [
    ("cms-ex1", None, {"97112": 2, "97110": 1}),  # 24 + 23 = 47: 3 units; remainders 9 and 8
    ("cms-ex2", "97112 × 2, 97110 × 1", {"97112": 2, "97110": 1}),  # 20 + 20 = 40: 3 units; a tie
    ("cms-ex2", "97112 × 1, 97110 × 2", {"97112": 1, "97110": 2}),  # the same, decided the other way
    ("cms-ex3", None, {"97110": 2, "97140": 1}),  # 33 + 7 = 40: 3 units; 7 beats 3
    ("cms-ex4", None, {"97110": 1, "97140": 1, "97116": 1}),  # 18 + 13 + 10 + 8 = 49: 3 units
]


LOADED = "() => document.readyState === 'complete' || new Promise((done) => addEventListener('load', done))"


def sign_off(view, choice):
    """What a therapist does on the page, wherever it is shown; ends at the receipt."""
    if choice is not None:
        view.get_by_role("radio", name=choice).check()
        view.get_by_text("1 unit is still to be placed.").wait_for(state="detached")
    view.get_by_role("button", name="Sign off…").first.click()
    view.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    now = view.get_by_role("button", name=re.compile(r"^Sign off \d"))
    now.evaluate(LOADED)  # in a frame Playwright waits for no page
    now.click()
    view.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    assert view.get_by_role("status").inner_text().startswith("Written.")


def charges_in(chart) -> dict[str, int]:
    """The EHR's own list, as its chart shows it."""
    chart.get_by_role("link", name="Refresh").click()
    rows = chart.locator("#charges tbody tr:not(.note)")
    rows.first.wait_for()
    return {
        row.locator("[data-label=Code]").inner_text(): int(row.locator("[data-label=Units]").inner_text())
        for row in rows.all()
    }


@pytest.mark.parametrize(("visit", "choice", "billed"), PUBLISHED)
def test_the_published_examples_come_out_to_the_unit_in_the_frame(demo, browser, visit, choice, billed):
    chart = browser.new_page()
    chart.goto(demo.ehr_url)
    chart.get_by_role("link", name=_patient_of(demo, visit)).click()
    chart.get_by_role("button", name="Open Quarterhour").click()
    sign_off(chart.frame_locator("iframe"), choice)
    assert charges_in(chart) == billed
    assert tuple(charges_in(chart).items()) in _sorted_like(charges_in(chart), demo, visit)


@pytest.mark.parametrize(("visit", "choice", "billed"), [PUBLISHED[0], *PUBLISHED[2:]])
def test_the_published_examples_come_out_to_the_unit_in_a_tab_of_their_own(
    demo, browser, visit, choice, billed
):
    chart = browser.new_page()
    chart.goto(f"{demo.ehr_url}/visits/{demo.sandbox.scenario(visit).encounter}")
    with browser.expect_page() as opened:
        chart.get_by_role("button", name="Open in a new tab").click()
    sign_off(opened.value, choice)
    assert charges_in(chart) == billed


def _patient_of(demo, visit) -> str:
    patient = demo.sandbox.store.get("Patient", demo.sandbox.scenario(visit).patient).resource
    return f"{patient['name'][0]['given'][0]} {patient['name'][0]['family']}"


def _sorted_like(charges, demo, visit):
    """The sandbox's own copy of the published answers, in the order of the chart's list."""
    return [
        tuple((code, dict(answer)[code]) for code in charges if code in dict(answer))
        for answer in demo.sandbox.scenario(visit).expected
    ]
