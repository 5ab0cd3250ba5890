"""In the EHR's frame on another site: with third-party cookies blocked, and with cookies refused altogether.

Partitioned cookies (https://developer.mozilla.org/docs/Web/Privacy/Guides/Privacy_sandbox/Partitioned_cookies)
are what is left to a frame in a browser that blocks third-party cookies.
"""

import re

import pytest

from quarterhour.sandbox.ehr import running

pytestmark = pytest.mark.browser

BLOCKS_THIRD_PARTY = {"block_third_party_cookies": True, "cookie_controls_mode": 1}
REFUSES_ALL = {"default_content_setting_values": {"cookies": 2}}


def open_in_frame(context, clinic, visit):
    chart = context.new_page()
    chart.goto(f"{clinic.ehr_url}/visits/{clinic.sandbox.scenario(visit).encounter}")
    chart.get_by_role("button", name="Open Quarterhour").click()
    frame = chart.frame_locator("iframe")
    frame.get_by_role("heading").first.wait_for()
    return chart, frame


LOADED = "() => document.readyState === 'complete' || new Promise((done) => addEventListener('load', done))"


def sign(view):
    view.get_by_role("button", name="Sign off…").first.click()
    now = view.get_by_role("button", name=re.compile(r"^Sign off \d"))
    now.evaluate(LOADED)  # in a frame Playwright waits for no page
    now.click()
    view.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()


def test_the_frame_works_where_third_party_cookies_are_blocked(clinic, a_browser_that):
    context = a_browser_that(BLOCKS_THIRD_PARTY)
    _chart, frame = open_in_frame(context, clinic, "cms-ex1")
    sign(frame)
    assert clinic.charged("cms-ex1") == {"97112": 2, "97110": 1}
    (cookie,) = [each for each in context.cookies() if each["name"] == "__Host-quarterhour"]
    assert cookie["partitionKey"] == clinic.ehr_url.rpartition(":")[0]  # the EHR's site, without the port
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "None")


def test_a_browser_that_knows_no_partitioned_cookies_is_told_what_to_do_and_the_new_tab_works(
    clinic, a_browser_that
):
    """Also the proof that the browser of the test above did block: without Partitioned it does not work."""
    clinic.app.config["SESSION_COOKIE_PARTITIONED"] = False  # as a browser sees it that ignores the attribute
    context = a_browser_that(BLOCKS_THIRD_PARTY)
    _chart, frame = open_in_frame(context, clinic, "cms-ex1")
    assert frame.get_by_role("heading").first.inner_text() == "Quarterhour could not be opened"
    assert frame.get_by_text("Your browser did not keep Quarterhour's cookie").is_visible()
    assert frame.get_by_text("Open Quarterhour in a tab of its own with the button below.").is_visible()
    with context.expect_page() as opened:
        frame.get_by_role("link", name="Open in a new tab").click()
    sign(opened.value)
    assert clinic.charged("cms-ex1") == {"97112": 2, "97110": 1}


def test_where_cookies_are_refused_altogether_the_page_says_what_to_allow(clinic, a_browser_that):
    context = a_browser_that(REFUSES_ALL)
    _chart, frame = open_in_frame(context, clinic, "cms-ex1")
    assert frame.get_by_text("Your browser did not keep Quarterhour's cookie").is_visible()
    assert frame.get_by_text("allow cookies for this address in the browser's settings").is_visible()
    assert context.cookies() == []
    with context.expect_page() as opened:
        frame.get_by_role("link", name="Open in a new tab").click()
    again = opened.value
    again.get_by_text("Your browser did not keep Quarterhour's cookie").wait_for()
    assert clinic.sandbox.requests("POST", "/oauth/token") == []


def test_another_site_cannot_show_quarterhour_in_a_frame(clinic, browser):
    launched = browser.new_page()
    launched.goto(clinic.launch_url("cms-ex1"))
    launched.get_by_text("Ruth Adams").wait_for()

    def elsewhere(_environ, start_response):
        start_response("200 OK", [("Content-Type", "text/html")])
        return [f'<title>Elsewhere</title><iframe src="{launched.url}"></iframe>'.encode()]

    with running(lambda _: elsewhere, host="localhost") as url:
        page = browser.new_page()
        with page.expect_event("console", lambda message: "frame-ancestors" in message.text):
            page.goto(url)
        (frame,) = page.frames[1:]
        assert "Ruth Adams" not in frame.content()
        page.close()
