"""In a browser: a visit is finished in the EHR's chart, and its suggestion waits on the worklist, unopened."""

import threading
import time

import pytest

from quarterhour.plugin.cli_demo import demonstration
from quarterhour.plugin.worker import work

pytestmark = pytest.mark.browser
PATIENT = "Miriam Weiss"
ENDED_BEFORE = "Walter Brennan"


@pytest.fixture
def browser(chromium):
    context = chromium.new_context()
    context.set_default_timeout(15_000)
    yield context
    context.close()


def worklist(browser, sandbox, client):
    """The therapist's worklist, by way of another visit's launch."""
    page = browser.new_page()
    page.goto(sandbox.launch_url("cms-ex1", client))
    page.get_by_role("link", name="Worklist", exact=True).first.click()
    page.get_by_role("heading", name="Worklist", exact=True).wait_for()
    return page


def rows_of(page, patient=PATIENT):
    return page.get_by_role("row").filter(has_text=patient)


def appears(page, patient=PATIENT, within=30):
    """Whether the visit is on the list before the time is up; the page is looked at again and again."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        page.reload()
        if rows_of(page, patient).count():
            return True
        page.wait_for_timeout(200)
    return False


def finish_in_the_chart(browser, ehr_url):
    chart = browser.new_page()
    chart.goto(ehr_url)
    chart.get_by_role("link", name=PATIENT).click()
    chart.get_by_role("button", name="Finish the visit").click()
    chart.get_by_role("button", name="Finish the visit").wait_for(state="detached")


def shows_the_suggestion_once(page):
    assert rows_of(page).count() == 1
    row = rows_of(page).inner_text()
    assert "PT" in row or "Physical therapy" in row
    assert "3" in row  # 45 minutes are three units


def test_by_subscription_a_finished_visit_is_on_the_worklist(browser):
    with demonstration(capture=True) as shown:
        page = worklist(browser, shown.sandbox, "quarterhour-jwt")
        assert appears(page, ENDED_BEFORE)  # so the search that follows on the subscription is over
        assert rows_of(page).count() == 0
        finish_in_the_chart(browser, shown.ehr_url)
        assert appears(page)
        shows_the_suggestion_once(page)


def test_by_polling_a_finished_visit_is_on_the_worklist(browser, between, running_clock):
    made = between(clock=running_clock, capture="poll_minutes = 1", subscriptions="none")
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(made.here, stop, 0.2))
    worker.start()
    try:
        page = worklist(browser, made.sandbox, "quarterhour-public")
        assert appears(page, ENDED_BEFORE)
        assert rows_of(page).count() == 0
        finish_in_the_chart(browser, made.sandbox.base_url)
        made.clock.forward(minutes=1)
        assert appears(page)
        shows_the_suggestion_once(page)
    finally:
        stop.set()
        worker.join()
