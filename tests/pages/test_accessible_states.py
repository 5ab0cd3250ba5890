"""WCAG 2.2 A and AA in the states that a visit seldom has, at three widths, light and dark, in our own look."""

import json
import re
from urllib.parse import urlencode

import pytest

from quarterhour.launch.scopes import NEEDS
from quarterhour.plugin.charge_files import MARK
from quarterhour.sandbox.authorization import Authorized
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.mllp import running_interface

pytestmark = pytest.mark.browser

WIDTHS = [320, 768, 1280]


@pytest.fixture(params=WIDTHS, ids=lambda width: f"{width} px")
def width(request) -> int:
    return request.param


@pytest.fixture
def page(a_browser, width):
    """A page of that width, in an EHR without a style of its own."""
    context = a_browser(viewport={"width": width, "height": 900})
    context.route("**/style.css", lambda route: route.abort())
    return context.new_page()


@pytest.fixture
def violations(axe, width):
    """Dark once: colours are the same at every width."""
    return lambda page, name: axe(page, name, dark=width == WIDTHS[0])


def launched(clinic, who: str = "pr-reyes", patient: str | None = None) -> str:
    """The address of a launch without a visit, or without a patient too."""
    launch = clinic.sandbox.smart.launch(
        Authorized(f"Practitioner/{who}", f"Patient/{patient}" if patient else None, None)
    )
    query = urlencode({"iss": clinic.sandbox.fhir_url, "launch": launch})
    return f"{clinic.sandbox.clients[0].launch_url}?{query}"


def arrived(page, address: str, heading: str) -> None:
    page.goto(address)
    page.get_by_role("heading", level=1, name=re.compile(heading)).wait_for()


def sign(page, clinic, visit: str) -> None:
    page.goto(clinic.launch_url(visit))
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_role("heading", name=re.compile("^Signed off:")).wait_for()


def test_choosing_a_visit_has_no_violation(clinic, page, violations):
    arrived(page, launched(clinic, patient="pat-adams"), "Which visit")
    found = violations(page, "the patient's visits")
    # The same encounter with a service of another discipline holds two visits.
    procedure = clinic.sandbox.store.get("Procedure", "proc-cms-ex3-2").resource
    procedure["performer"][0]["actor"] = {"reference": "Practitioner/pr-osei"}
    arrived(page, clinic.launch_url("cms-ex3"), "Which visit")
    found |= violations(page, "two visits of an encounter")
    arrived(page, clinic.launch_url("problem-no-services"), "Nothing to count")
    found |= violations(page, "nothing to count")
    assert found == {}


def test_lists_history_and_administration_have_no_violation(clinic, page, violations):
    clinic.sandbox.faults.add(Fault("status", status=503, times=9, method="POST", path="/fhir/ChargeItem*"))
    sign(page, clinic, "cms-ex4")
    clinic.sandbox.faults.clear()
    sign(page, clinic, "cms-ex1")
    page.goto(clinic.launch_url("missing-minutes"))
    base = page.url.removesuffix("/")
    arrived(page, f"{base}/worklist", "Worklist")
    found = violations(page, "worklist")
    arrived(page, f"{base}/worklist?state=waiting&discipline=SLP", "Worklist")
    found |= violations(page, "worklist with nothing on it")
    page.go_back()
    page.get_by_role("link", name=re.compile("Adams")).click()
    page.get_by_text("What was settled by hand").wait_for()
    found |= violations(page, "history")
    arrived(page, f"{base}/administration/", "Administration")
    page.get_by_role("link", name=re.compile("^Ask it now")).click()
    page.get_by_text("read just now").wait_for()
    found |= violations(page, "administration")
    arrived(page, f"{base}/administration/audit?verify=1&action=signed", "Audit trail")
    found |= violations(page, "audit trail")
    arrived(page, f"{base}/visits/1/audit", "Audit trail of this visit")
    found |= violations(page, "trail of a visit")
    arrived(page, launched(clinic, "pr-osei"), "Worklist")
    found |= violations(page, "a biller's worklist")
    page.get_by_role("link", name=re.compile("Adams")).click()
    page.get_by_role("heading", name="To open this visit").wait_for()
    found |= violations(page, "a visit that is open nowhere")
    assert found == {}


def test_every_way_to_go_wrong_has_a_page_without_a_violation(clinic, page, violations):
    arrived(page, launched(clinic, "pr-cole"), "could not be opened")
    found = violations(page, "no patient")
    page.goto(clinic.launch_url("cms-ex1", user="pr-cole"))
    page.get_by_text("Read only.").wait_for()
    found |= violations(page, "read only")
    assistants = page.url.removesuffix("/")
    for path, heading in (("visits/1/sign", "may not"), ("administration/", "may not"), ("visits/9", "")):
        arrived(page, f"{assistants}/{path}", heading)
        found |= violations(page, path)
    page.goto(clinic.launch_url("cms-ex2"))
    therapists = page.url.removesuffix("/")
    arrived(page, f"{therapists}/visits/1/print", "")
    found |= violations(page, "not settled yet")
    clinic.sandbox.faults.add(Fault("status", status=503, times=90, path="/fhir/*"))
    page.goto(clinic.launch_url("cms-ex4"))
    found |= violations(page, "the EHR is down")
    clinic.sandbox.faults.clear()
    page.goto(therapists)
    clinic.clock.forward(days=2)
    page.get_by_role("button", name="Read the chart again").click()
    page.get_by_text("Your session has ended.").wait_for()
    found |= violations(page, "ended by itself")
    page.goto(clinic.launch_url("cms-ex2"))
    page.get_by_role("button", name="End this session").click()
    page.get_by_role("heading", name="Session ended").wait_for()
    found |= violations(page, "ended by hand")
    assert found == {}


def test_side_by_side_correcting_and_a_changed_chart_have_no_violation(clinic, page, violations):
    page.goto(clinic.launch_url("cms-ex1"))
    with page.expect_response(lambda answer: answer.request.method == "POST"):
        page.get_by_label("Compare with another policy").select_option(label=None, value="hns")
    page.get_by_role("rowheader", name=re.compile("^HNS")).wait_for()
    found = violations(page, "side by side")
    page.get_by_role("button", name="Sign off…").first.click()
    page.get_by_role("heading", name=re.compile("^Sign off:")).wait_for()
    procedure = clinic.sandbox.store.get("Procedure", "proc-cms-ex1-1").resource
    start = procedure["performedPeriod"]["start"]
    procedure["performedPeriod"]["end"] = start.replace(start[11:16], "23:30")
    procedure["meta"]["versionId"] = "99"
    page.get_by_role("button", name=re.compile(r"^Sign off \d")).click()
    page.get_by_text("This changed since you reviewed it").wait_for()
    found |= violations(page, "changed chart")
    sign(page, clinic, "cms-ex3")
    page.locator("#correct > summary").click()
    page.get_by_label("What was wrong?").fill("One line too many.")
    page.get_by_role("button", name="Correct", exact=True).click()
    page.get_by_text("You are correcting signed charges").wait_for()
    found |= violations(page, "correcting")
    assert found == {}


def test_several_critical_findings_with_a_box_each_have_no_violation(clinic, page, violations):
    for visit in ("problem-other-patient", "problem-hostile-text", "problem-no-code"):
        page.goto(clinic.launch_url(visit))
        page.get_by_role("heading", name="To weigh").wait_for()
        assert violations(page, visit) == {}


WAYS = {
    "transaction": "",
    "oracle": 'bill_code_source = "https://fhir.cerner.com/x"\nbill_code_schedules = {CPT = "1", MODIFIER = "2"}',
    "claim": "",
    "dft": 'host = "127.0.0.1"\nport = PORT',
    "dft-file": 'folder = "FOLDER"',
    "csv": 'folder = "FOLDER"',
    "ticket": "",
}
SAYS = {
    "transaction": "Written.",
    "oracle": "Sent and taken.",
    "claim": "Written.",
    "ticket": "Signed off; not sent.",
}
SCOPES = ("launch", "openid", "fhirUser", *(need.v2 for need in NEEDS), "user/Claim.crus")


@pytest.mark.parametrize("way", WAYS)
def test_the_receipt_of_every_way_has_no_violation(a_clinic, a_browser, axe, tmp_path, way):
    with running_interface() as interface:
        table = WAYS[way].replace("PORT", str(interface.port)).replace("FOLDER", str(tmp_path / "out"))
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / MARK).touch()
        clinic = a_clinic(writing=f'way = "{way}"\n{table}', more=f"scopes = {json.dumps(SCOPES)}")
        found = {}
        context = a_browser()
        context.route("**/style.css", lambda route: route.abort())
        page = context.new_page()
        sign(page, clinic, "cms-ex1")
        assert page.get_by_role("status").first.inner_text().startswith(SAYS.get(way, "Handed over."))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            found |= axe(page, f"{way} at {width}", dark=width == WIDTHS[0])
        assert found == {}
