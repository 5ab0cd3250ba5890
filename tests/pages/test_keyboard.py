"""By keyboard alone from the EHR's chart to its charge list, at three widths, with JavaScript and without."""

import re

import pytest

pytestmark = pytest.mark.browser

MOST_TABS = 80
USED = "button|link|textbox|checkbox|radio|combobox|spinbutton"


class Keys:
    """Somebody without a mouse."""

    def __init__(self, page) -> None:
        self.page = page

    def focused(self) -> str:
        """What a screen reader would call the focused element, in whichever frame it is."""
        for frame in reversed(self.page.frames):
            said = frame.evaluate(
                """() => {
                    const e = document.activeElement;
                    if (!e || e === document.body || e.localName === 'iframe') return '';
                    const words = (e.closest('label') ?? e).innerText || e.getAttribute('aria-label') || '';
                    return `${e.localName}: ${words.replace(/\\s+/g, ' ').trim()}`;
                }"""
            )
            if said and frame.evaluate("() => document.hasFocus()"):
                return said
        return ""

    def to(self, said: str) -> None:
        """Tabs to it. Raises where the keyboard does not lead there."""
        passed = []
        for _ in range(MOST_TABS):
            self.page.keyboard.press("Tab")
            passed.append(self.focused())
            if said in passed[-1]:
                return
        raise AssertionError(f"{said!r} is not reached by Tab; passed were {passed}")

    def press(self, said: str, key: str = "Enter") -> None:
        self.to(said)
        self.page.keyboard.press(key)


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_from_the_chart_to_the_charge_list_in_the_frame(clinic, a_browser, width, javascript):
    context = a_browser(viewport={"width": width, "height": 900}, java_script_enabled=javascript)
    page = context.new_page()
    keys = Keys(page)
    page.goto(f"{clinic.ehr_url}/visits/{clinic.sandbox.scenario('cms-ex2').encounter}")
    keys.press("button: Open Quarterhour")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="For you to decide").wait_for()
    keys.press("97112 × 2, 97110 × 1", "Space")
    if javascript:
        frame.get_by_text("1 unit is still to be placed.").first.wait_for(state="detached")
        assert "97112 × 2, 97110 × 1" in keys.focused()
    keys.press("button: Sign off…")
    frame.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    keys.press("button: Sign off 2 charges")
    frame.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()
    keys.press("a: Refresh")
    charges = page.locator("#charges")
    charges.get_by_text("97112").first.wait_for()
    assert clinic.charged("cms-ex2") == {"97112": 2, "97110": 1}


def test_focus_stays_on_what_was_used_whatever_it_is(clinic, browser):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex3"))
    keys = Keys(page)

    def focus() -> str:
        return page.evaluate("() => document.activeElement.id || document.activeElement.parentElement.id")

    def used(locator, key: str) -> str:
        locator.focus()
        with page.expect_response(lambda answer: answer.request.method == "POST"):
            page.keyboard.press(key)
        page.locator("main:not(.busy)").wait_for()
        return focus()

    box = page.get_by_role("checkbox", name="GP on 97140")
    assert used(box, "Space") == "on-2-GP"
    assert page.get_by_role("checkbox", name="GP off 97140").count() == 1
    page.locator("#change > summary").click()
    assert used(page.locator("#change-policy"), "ArrowUp") == "change-policy"
    page.get_by_text("You chose another one.").wait_for()
    page.locator("#not-checked summary", has_text="Total treatment time is not documented").first.click()
    field = page.get_by_role("textbox", name="Total treatment minutes")
    field.fill("45")
    assert used(field, "Enter") == "field-total_treatment_minutes"
    assert page.get_by_role("textbox", name="Total treatment minutes").input_value() == "45"
    assert keys.focused().startswith("input")


def test_what_is_being_typed_survives_a_recalculation(clinic, browser):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex3"))
    page.locator("#not-checked summary", has_text="Total treatment time is not documented").first.click()
    held = []
    page.route("**/visits/1", lambda route: held.append(route), times=1)  # noqa: PLW0108 - Playwright marks it
    page.get_by_role("checkbox", name="GP on 97140").uncheck()
    field = page.get_by_role("textbox", name="Total treatment minutes")
    field.press_sequentially("4")
    for _ in range(1500):  # fifteen seconds
        if held:
            break
        page.wait_for_timeout(10)
    for route in held:
        route.continue_()
    page.get_by_role("checkbox", name="GP off 97140").wait_for()
    page.keyboard.type("5")
    assert held
    assert field.input_value() == "45"


def test_everything_that_can_be_used_has_a_name(clinic, browser):
    page = browser.new_page()
    for visit in ("cms-ex2", "missing-minutes", "unknown-payer", "assistant"):
        page.goto(clinic.launch_url(visit))
        page.evaluate("() => document.querySelectorAll('details').forEach((each) => { each.open = true })")
        tree = page.locator("body").aria_snapshot()
        unnamed = re.findall(
            r"^\s*- (?:button|link|textbox|checkbox|radio|combobox|spinbutton)(?:\s*$|:| \[)",
            tree,
            re.MULTILINE,
        )
        assert unnamed == []
        assert page.get_by_role("heading", level=1).count() == 1
        assert "The minutes in words" in tree


def test_what_was_calculated_is_said(clinic, browser):
    page = browser.new_page()
    page.goto(clinic.launch_url("cms-ex2"))
    page.get_by_role("radio", name="97112 × 2, 97110 × 1").check()
    page.get_by_text("3 timed units, 0 choices for you").wait_for(state="attached")
    assert page.get_by_role("status").first.inner_text().startswith("3 timed units")


def test_page_and_recalculation_are_light(clinic, a_browser):
    """120 KB at first and 15 KB a recalculation, compressed (issue E); a reverse proxy compresses."""
    import gzip  # noqa: PLC0415 - only here

    page = a_browser().new_page()
    first: list[int] = []
    page.on("response", lambda answer: first.append(len(gzip.compress(answer.body()))) if answer.ok else None)
    page.goto(clinic.launch_url("missing-minutes"))
    page.wait_for_load_state("networkidle")
    assert sum(first) < 120_000
    with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        page.get_by_role("checkbox", name="GP on 97110").uncheck()
    assert len(gzip.compress(answer.value.body())) < 15_000
