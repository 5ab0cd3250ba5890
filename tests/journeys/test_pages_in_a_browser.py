"""The pages as people use them: by mouse, by keyboard, without JavaScript, on narrow screens, twice at once."""

import re

import pytest

pytestmark = pytest.mark.browser


def open_review(context, clinic, visit, **who):
    page = context.new_page()
    page.goto(clinic.launch_url(visit, **who))
    page.get_by_role(
        "heading", name=re.compile("Physical therapy|Occupational|Speech|visit|Nothing")
    ).wait_for()
    return page


def test_without_javascript_everything_works(clinic, a_browser):
    page = open_review(a_browser(java_script_enabled=False), clinic, "cms-ex2")
    page.get_by_role("radio", name="97112 × 1, 97110 × 2").check()
    assert page.get_by_text("1 unit is still to be placed.").count() > 0  # nobody recalculated yet
    page.get_by_role("button", name="Recalculate").last.click()
    assert page.get_by_text("1 unit is still to be placed.").count() == 0
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name="Sign off 2 charges").click()
    assert page.get_by_role("status").inner_text().startswith("Written.")
    assert clinic.charged("cms-ex2") == {"97112": 1, "97110": 2}


def test_with_javascript_a_choice_recalculates_and_keeps_the_focus_and_what_was_open(clinic, browser):
    page = open_review(browser, clinic, "cms-ex2")
    address = page.url
    before = page.locator("details[open]").count()
    page.get_by_text("Why", exact=False).and_(page.locator("summary")).last.click()
    opened = page.locator("details[open]").count()
    assert opened == before + 1
    choice = page.get_by_role("radio", name="97112 × 2, 97110 × 1")
    choice.focus()
    page.keyboard.press("Space")
    page.get_by_text("1 unit is still to be placed.").first.wait_for(state="detached")
    assert choice.is_checked()
    assert choice.evaluate("each => each === document.activeElement")
    assert page.locator("details[open]").count() == opened
    assert page.url == address
    assert "3 timed units" in page.locator("#said").inner_text()
    page.reload()
    assert page.get_by_role("radio", name="97112 × 2, 97110 × 1").is_checked()  # kept


def test_84_the_keyboard_alone_leads_from_the_review_to_the_receipt(clinic, browser):
    page = open_review(browser, clinic, "cms-ex2")

    def tab_to(said: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            here = page.evaluate(
                "() => { const e = document.activeElement; return (e.closest('label') ?? e).innerText ?? '' }"
            )
            if said in here:
                return
        raise AssertionError(f"{said!r} is not reached by Tab")

    tab_to("97112 × 2, 97110 × 1")
    page.keyboard.press("Space")
    page.get_by_text("1 unit is still to be placed.").first.wait_for(state="detached")
    tab_to("Sign off…")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    tab_to("Sign off 2 charges")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    assert clinic.charged("cms-ex2") == {"97112": 2, "97110": 1}


def test_enter_in_a_field_recalculates_and_never_signs(clinic, browser):
    page = open_review(browser, clinic, "missing-minutes")
    page.get_by_label("Minutes", exact=True).fill("12")
    page.get_by_label("Where is it documented?").fill("Flow sheet")
    page.keyboard.press("Enter")
    page.get_by_text("Minutes are missing for 97140.").first.wait_for(state="detached")
    assert page.get_by_text("Flow sheet").count() > 0
    assert clinic.posts() == 0
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_text("12 minutes entered for 97140: Flow sheet").wait_for()
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    assert clinic.charged("missing-minutes") == {"97110": 1, "97140": 1}  # 20 + 12 = 32: 2 units


def test_a_double_click_on_sign_off_writes_nothing_twice(clinic, browser):
    page = open_review(browser, clinic, "cms-ex1")
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name="Sign off 2 charges").dblclick()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    page.reload()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    page.go_back()
    page.go_forward()
    assert clinic.charged("cms-ex1") == {"97112": 2, "97110": 1}
    assert clinic.posts() == 2


def test_a_policy_and_a_discipline_that_nobody_knows_are_asked_for_and_shown_both_ways(clinic, browser):
    page = open_review(browser, clinic, "unknown-payer")
    group = page.get_by_role("group", name="Which policy are these charges counted under?")
    assert group.get_by_role("radio", checked=True).count() == 0  # nothing is assumed
    assert page.get_by_text("The policy to count under is not chosen.").is_visible()
    group.get_by_role("radio", name=re.compile("Medicare")).check()
    page.get_by_text("The policy to count under is not chosen.").wait_for(state="detached")
    assert page.get_by_role("heading", name="Charges", exact=True).is_visible()


def test_two_tabs_of_one_browser_keep_two_patients_apart(clinic, browser):
    adams, castillo = open_review(browser, clinic, "cms-ex1"), open_review(browser, clinic, "cms-ex3")
    adams.get_by_role("button", name="Sign off…").first.click()
    castillo.get_by_role("button", name="Sign off…").first.click()
    adams.reload()
    assert adams.get_by_text("Ruth Adams").is_visible()
    assert castillo.get_by_text("Inés Castillo").is_visible()
    castillo.get_by_role("button", name="Sign off 2 charges").click()
    castillo.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    assert clinic.charged("cms-ex1") == {}
    assert clinic.charged("cms-ex3") == {"97110": 2, "97140": 1}


def test_hostile_text_from_the_chart_stays_text_in_the_browser(clinic, browser):
    page = browser.new_page()
    said = []
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: said.append(message.text))
    page.goto(clinic.launch_url("problem-hostile-text"))
    page.get_by_text("<script>alert('given')</script>").first.wait_for()
    assert said == []


WIDTHS = [1280, 768, 400]
SEEN = ["cms-ex2", "missing-minutes", "unknown-payer", "problem-hostile-text", "evaluation"]


@pytest.mark.parametrize("width", WIDTHS)
def test_84_no_page_scrolls_sideways(clinic, a_browser, width):
    context = a_browser(viewport={"width": width, "height": 900})
    wide = {}

    def measure(page, name: str) -> None:
        # The hidden parts of the page as well: everything that can be opened is.
        page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true })")
        inner, scroll = page.evaluate("() => [innerWidth, document.scrollingElement.scrollWidth]")
        if scroll > inner:
            wide[name] = scroll

    for visit in SEEN:
        page = context.new_page()
        page.goto(clinic.launch_url(visit))
        measure(page, visit)
    page.goto(clinic.launch_url("cms-ex1"))
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    measure(page, "sign off")
    page.get_by_role("button", name="Sign off 2 charges").click()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    measure(page, "receipt")
    for path in ("/", "/launch", "/launches/nobody/"):
        page.goto(clinic.app_url + path)
        measure(page, path)
    assert wide == {}


def test_a_suggestion_is_written_and_taken_back_by_its_own_buttons(a_clinic, browser):
    clinic = a_clinic(writing='way = "charge-item"\nsuggest = true')
    page = open_review(browser, clinic, "cms-ex1")
    page.get_by_text("Suggested in Sandbox EHR before anybody signs").click()
    page.get_by_role("button", name="Write as suggested").click()
    page.get_by_role("button", name="Take the suggestion back").wait_for()
    assert {item["status"] for item in clinic.written("cms-ex1")} == {"planned"}
    page.get_by_label("Why is this not to be charged?").fill("Not furnished.")
    page.get_by_role("button", name="Take the suggestion back").click()
    page.get_by_text("taking back what was suggested").first.wait_for()
    assert {item["status"] for item in clinic.written("cms-ex1")} == {"aborted"}


def test_a_correction_is_left_by_its_button_with_one_request(clinic, browser):
    page = open_review(browser, clinic, "cms-ex1")
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name="Sign off 2 charges").click()
    page.get_by_text("Correct these charges").click()
    page.get_by_label("What was wrong?").fill("I thought so.")
    page.get_by_role("button", name="Correct", exact=True).click()
    page.get_by_text("You are correcting signed charges").wait_for()
    posted = []
    page.on("request", lambda request: posted.append(request.url) if request.method == "POST" else None)
    page.get_by_role("button", name="Stop correcting").click()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    assert len(posted) == 1
