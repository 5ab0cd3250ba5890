"""Suggestions that stand in the EHR before anybody reviewed them, and what a person makes of them."""

import csv
import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import requests
from click.testing import CliRunner

from quarterhour.fhir.chart import read_chart
from quarterhour.fhir.normalise import visits_from
from quarterhour.fhir.server import Server
from quarterhour.fhir.systems import CHARGE_TAG
from quarterhour.launch.scopes import NEEDS
from quarterhour.plugin import suggested
from quarterhour.plugin.charge_files import MARK
from quarterhour.plugin.cli import main
from quarterhour.plugin.flow import key_of
from quarterhour.plugin.history import decisions_on
from quarterhour.plugin.leases import LEASE
from quarterhour.plugin.review import Answers, review
from quarterhour.plugin.worker import work_once
from quarterhour.sandbox.authorization import Authorized, Token
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

EX1 = {"97112": 2, "97110": 1}
ON = 'way = "{}"\nsuggest = true'
WAIT = 81  # seconds after which a search that finds nothing says that nothing is there


@pytest.fixture
def clinic(a_clinic):
    return a_clinic(writing=ON.format("charge-item"))


class Unattended:
    """What capture does: reads, calculates, writes what it suggests; nobody is signed in."""

    def __init__(self, clinic, http):
        self.clinic, self.here = clinic, clinic.installation
        self.issuer = next(iter(self.here.issuers))
        clinic.sandbox.smart.issued.tokens["backend"] = Token(
            "backend", None, "test", "user/*.cruds", Authorized("Device/q", None, None),
            "family", datetime(9000, 1, 1, tzinfo=UTC),
        )  # fmt: skip
        self.server = Server(self.issuer.base, "backend", http, read_timeout=10, retries=0)

    def read(self, scenario="cms-ex1"):
        """The key of the visit, and its review as nobody has touched it."""
        known = self.clinic.sandbox.scenario(scenario)
        settings = self.here.charts[self.issuer.id]
        chart = read_chart(
            self.server, patient=known.patient, encounter=known.encounter, user=None,
            settings=settings, now=self.clinic.clock(),
        )  # fmt: skip
        prepared, *_ = visits_from(chart, settings, self.clinic.clock())
        key = key_of(self.here, SimpleNamespace(issuer=self.issuer), prepared)
        return key, review(prepared, Answers(), self.here.library)

    def capture(self, scenario="cms-ex1"):
        visit, reviewed = self.read(scenario)
        return suggested.write_suggestions(self.here, self.issuer, self.server, visit, reviewed)

    def resume(self):
        for _issuer, visit in suggested.waiting(self.here):
            suggested.resume(self.here, self.issuer, self.server, visit)


@pytest.fixture
def http():
    with requests.Session() as session:
        yield session


@pytest.fixture
def unattended(clinic, http):
    return Unattended(clinic, http)


def standing(clinic, status, scenario="cms-ex1"):
    """What stands in the EHR with this status: units by code."""
    return {
        item["code"]["coding"][0]["code"]: item["quantity"]["value"]
        for item in clinic.written(scenario)
        if item["status"] == status
    }


def ids(clinic):
    return sorted(item["id"] for item in clinic.written("cms-ex1"))


def statuses(clinic):
    return {item["status"] for item in clinic.written("cms-ex1")}


def change(clinic, code, **elements):
    """As somebody at the EHR does it."""
    (item,) = [each for each in clinic.written("cms-ex1") if each["code"]["coding"][0]["code"] == code]
    clinic.sandbox.store.put({**item, **elements})


def leave_out(person, page, code):
    """The page before signing, with the services of this code left out."""
    reference = next(
        name
        for form in page.forms
        for name, _ in form["fields"]
        if name.startswith("out:") and _code_of(person.clinic, name.removeprefix("out:")) == code
    )
    return person.press(page, "Sign off…", {reference: "Not furnished."})


def _code_of(clinic, procedure):
    filed = clinic.sandbox.store.get("Procedure", procedure.removeprefix("Procedure/"))
    return filed.resource["code"]["coding"][0]["code"]


def shorten(clinic, code, minutes):
    """The chart has the Procedure of this code shorter now."""
    encounter = {"reference": f"Encounter/{clinic.sandbox.scenario('cms-ex1').encounter}"}
    (procedure,) = [
        filed.resource
        for filed in clinic.sandbox.store.all("Procedure")
        if filed.resource.get("encounter") == encounter
        and filed.resource["code"]["coding"][0]["code"] == code
    ]
    start = datetime.fromisoformat(procedure["performedPeriod"]["start"])
    end = (start + timedelta(minutes=minutes)).isoformat()
    clinic.sandbox.store.put({**procedure, "performedPeriod": {"start": start.isoformat(), "end": end}})


# Before anybody reviewed it


def test_what_is_suggested_stands_in_the_ehr_as_planned_tagged_and_entered_by_nobody(clinic, unattended):
    done = unattended.capture()
    assert done.settled
    assert standing(clinic, "planned") == EX1
    for item in clinic.written("cms-ex1"):
        assert [(tag["system"], tag["code"]) for tag in item["meta"]["tag"]] == [(CHARGE_TAG, "suggested")]
        assert item["enterer"] == {"display": "Quarterhour"}
        assert item["note"][0]["text"].endswith("suggested by Quarterhour, not reviewed.")


def test_no_charge_becomes_billable_without_a_person(clinic, unattended):
    for _ in range(3):
        unattended.capture()
        clinic.clock.forward(seconds=WAIT)
        work_once(clinic.installation)
        unattended.resume()
        shorten(clinic, "97110", 40)
    assert statuses(clinic) == {"planned"}


def test_the_same_suggestion_again_asks_nothing_of_the_ehr(clinic, unattended):
    unattended.capture()
    before = len(clinic.sandbox.requests("P*", "/fhir/*"))
    unattended.capture()
    assert len(clinic.sandbox.requests("P*", "/fhir/*")) == before
    assert standing(clinic, "planned") == EX1


def test_a_chart_that_changed_updates_the_records_and_takes_back_what_is_no_longer_suggested(
    clinic, unattended
):
    unattended.capture()
    known = ids(clinic)
    shorten(clinic, "97112", 40)
    unattended.capture()
    assert standing(clinic, "planned") == {"97112": 3, "97110": 1}
    shorten(clinic, "97112", 4)
    shorten(clinic, "97110", 9)
    unattended.capture()
    assert standing(clinic, "planned") == {"97110": 1}
    assert standing(clinic, "aborted") == {"97112": 3}
    shorten(clinic, "97112", 40)
    shorten(clinic, "97110", 30)
    unattended.capture()
    assert standing(clinic, "planned") == {"97112": 3, "97110": 2}
    assert ids(clinic) == known  # one record a line, whatever was suggested


def test_our_own_suggestion_is_not_counted_as_charged_when_the_visit_is_reviewed(clinic, unattended):
    unattended.capture()
    assert unattended.read()[1].suggestion.total_timed_units == 3
    page = clinic.person().launch("cms-ex1")
    assert "3 timed units" in page.text
    assert "already" not in page.text
    assert "97112 × 2 (GP): Written as ChargeItem/" in page.text


def test_a_suggestion_that_others_made_a_charge_is_counted(clinic, unattended):
    unattended.capture()
    change(clinic, "97112", status="billable")
    page = clinic.person().launch("cms-ex1")
    assert "ChargeItem/" in page.text
    _visit, reviewed = unattended.read()
    assert [(each.code, each.units) for each in reviewed.visit.already_charged] == [("97112", 2)]


def test_where_the_page_still_asks_something_nothing_is_suggested(clinic, unattended):
    known = [each.id for each in clinic.sandbox.scenarios]
    blocked = next(each for each in known if unattended.read(each)[1].blocked)
    assert unattended.capture(blocked) == suggested.Standing()
    assert not [item for item in clinic.written(blocked) if item["status"] == "planned"]


def test_a_lost_answer_is_looked_for_and_not_written_twice(a_clinic, http):
    clinic = a_clinic(writing=ON.format("charge-item"), quirks=Quirks(no_conditional_create=True))
    unattended = Unattended(clinic, http)
    clinic.sandbox.faults.add(Fault("drop", method="POST", path="/fhir/ChargeItem", after=True))
    done = unattended.capture()
    assert not done.settled
    assert clinic.clock() < done.due_at
    assert suggested.waiting(clinic.installation) == []
    clinic.clock.forward(seconds=WAIT)
    assert len(suggested.waiting(clinic.installation)) == 1
    unattended.resume()
    assert suggested.waiting(clinic.installation) == []
    assert standing(clinic, "planned") == EX1
    assert len(ids(clinic)) == 2


# A person decides


@pytest.mark.parametrize("way", ["charge-item", "transaction"])
def test_sign_off_makes_the_suggested_records_billable_and_no_others(a_clinic, http, way):
    clinic = a_clinic(writing=ON.format(way))
    Unattended(clinic, http).capture()
    known = ids(clinic)
    receipt = clinic.person().sign("cms-ex1")
    assert "Written." in receipt.text
    assert "(the suggestion that stood there is charged now)" in receipt.text
    assert ids(clinic) == known
    assert standing(clinic, "billable") == EX1
    for item in clinic.written("cms-ex1"):
        assert "tag" not in item["meta"]
        assert item["enterer"]["reference"].startswith("Practitioner/")
        assert item["note"][0]["text"].endswith("signed off in Quarterhour.")


@pytest.mark.parametrize("way", ["charge-item", "transaction"])
def test_what_is_not_signed_is_aborted_what_differs_is_updated_what_is_missing_is_created(
    a_clinic, http, way
):
    clinic = a_clinic(writing=ON.format(way))
    unattended = Unattended(clinic, http)
    shorten(clinic, "97112", 4)
    unattended.capture()  # 97110 alone
    shorten(clinic, "97112", 40)
    shorten(clinic, "97110", 30)
    person = clinic.person()
    receipt = person.sign("cms-ex1")
    assert "Written." in receipt.text
    assert standing(clinic, "billable") == {"97112": 3, "97110": 2}
    assert len(ids(clinic)) == 2


def test_a_line_that_is_not_signed_is_taken_back(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    receipt = person.press(leave_out(person, person.launch("cms-ex1"), "97110"), "Sign off 1 charge")
    assert "Taking back what was suggested." in receipt.text
    assert standing(clinic, "billable") == {"97112": 2}
    assert standing(clinic, "aborted") == {"97110": 1}
    (aborted,) = [item for item in clinic.written("cms-ex1") if item["status"] == "aborted"]
    assert aborted["note"][0]["text"] == suggested.NOT_SIGNED


def test_a_suggestion_that_was_taken_back_is_no_charge_on_the_ticket(clinic, unattended):
    """Nor a credit: nothing of it was ever billed."""
    unattended.capture()
    person = clinic.person()
    receipt = person.press(leave_out(person, person.launch("cms-ex1"), "97110"), "Sign off 1 charge")
    ticket = person.open(receipt.links["Charge ticket to print"]).text
    assert "Charge 97112 2 GP" in ticket
    assert "Do not charge 97110 0 GP" in ticket
    assert "Charge 97110" not in ticket
    assert "Credit" not in ticket


def test_after_sign_off_nothing_is_suggested_any_more(clinic, unattended):
    clinic.person().sign("cms-ex1")
    known = clinic.written("cms-ex1")
    assert unattended.capture() == suggested.Standing()
    assert clinic.written("cms-ex1") == known


def test_a_signed_suggestion_can_be_corrected_like_any_charge(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    page = person.press(person.sign("cms-ex1"), "Correct", {"why": "Not furnished."})
    person.press(leave_out(person, page, "97110"), "Sign off 1 charge")
    assert standing(clinic, "billable") == {"97112": 2}
    assert standing(clinic, "aborted") == {"97110": 1}


def test_turned_down_it_is_aborted_and_not_suggested_again_until_it_says_something_else(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    page = person.press(person.launch("cms-ex1"), "Take the suggestion back", {"why": "Charged on paper."})
    assert standing(clinic, "aborted") == EX1
    assert "Taken back: ChargeItem/" in page.text
    unattended.capture()
    assert statuses(clinic) == {"aborted"}
    shorten(clinic, "97112", 40)
    unattended.capture()
    assert standing(clinic, "planned") == {"97112": 3, "97110": 1}


def test_taking_back_needs_a_reason(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    person.press(person.launch("cms-ex1"), "Take the suggestion back", {"why": "  "})
    assert standing(clinic, "planned") == EX1


def test_what_was_turned_down_can_still_be_signed(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    person.press(person.launch("cms-ex1"), "Take the suggestion back", {"why": "Wait."})
    assert "Written." in person.sign("cms-ex1").text
    assert standing(clinic, "billable") == EX1
    assert len(ids(clinic)) == 2


def test_a_person_can_write_the_page_s_charges_as_suggested_and_nothing_is_billable(clinic, person):
    page = person.press(person.launch("cms-ex1"), "Write as suggested")
    assert standing(clinic, "planned") == EX1
    assert "97112 × 2 (GP): Written as ChargeItem/" in page.text
    assert "Written." in person.sign("cms-ex1").text
    assert standing(clinic, "billable") == EX1


def test_without_the_option_the_page_offers_no_suggestions_and_nothing_is_written(a_clinic, http):
    clinic = a_clinic()
    page = clinic.person().launch("cms-ex1")
    assert "Write as suggested" not in page.text
    done = Unattended(clinic, http).capture()
    assert done.why_not == "The site does not have suggestions written before they are reviewed."
    assert clinic.written("cms-ex1") == []


def test_a_suggestion_from_before_the_option_was_switched_off_is_signed_in_its_place(
    a_clinic, http, tmp_path
):
    clinic = a_clinic(writing=ON.format("charge-item"))
    Unattended(clinic, http).capture()
    clinic.installation.writing.update(  # as a restart without the option would read it
        sandbox=type(clinic.installation.writing["sandbox"])(way="charge-item")
    )
    clinic.person().sign("cms-ex1")
    assert standing(clinic, "billable") == EX1
    assert len(ids(clinic)) == 2


# Where charges leave by another way by now


def switch(clinic, way, **settings):
    """As a restart with this way would read it."""
    known = clinic.installation.writing["sandbox"]
    clinic.installation.writing["sandbox"] = type(known)(way=way, **settings)


@pytest.fixture
def switched(clinic, unattended, tmp_path):
    """What is suggested stands in the EHR, and charges go to a file now."""
    (tmp_path / MARK).touch()
    unattended.capture()
    switch(clinic, "csv", folder=str(tmp_path))
    return clinic


def in_files(folder):
    return [
        (line["action"], line["code"], line["units"])
        for path in folder.glob("*.csv")
        for line in csv.DictReader(path.read_text().splitlines())
    ]


def test_what_was_suggested_in_the_ehr_is_taken_back_there_before_anything_leaves_for_billing(
    switched, tmp_path
):
    """And what is not signed is no charge in billing's file either."""
    person = switched.person()
    confirm = leave_out(person, person.launch("cms-ex1"), "97110")
    assert "before review is taken back there first: 97112 × 2, 97110 × 1." in confirm.text
    receipt = person.press(confirm, "Sign off 1 charge")
    assert "Handed over." in receipt.text
    assert in_files(tmp_path) == [("charge", "97112", "2")]
    assert standing(switched, "aborted") == EX1
    assert len(ids(switched)) == 2
    assert person.press(confirm, "Sign off 1 charge").url == receipt.url
    assert in_files(tmp_path) == [("charge", "97112", "2")]


@pytest.mark.parametrize("way", ["ticket", "claim"])
def test_it_is_taken_back_whatever_the_other_way_is(clinic, unattended, way):
    unattended.capture()
    switch(clinic, way)
    receipt = clinic.person().sign("cms-ex1")
    assert "97112 Neuromuscular re-education 2 GP" in receipt.text
    assert standing(clinic, "aborted") == EX1
    assert len(ids(clinic)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 403},
        {"kind": "status", "status": 503},
        {"kind": "drop", "after": False},
    ],
)
def test_while_it_cannot_be_taken_back_nothing_is_signed_and_nothing_is_lost(switched, tmp_path, fault):
    switched.sandbox.faults.add(Fault(method="PUT", path="/fhir/ChargeItem/*", times=9, **fault))
    person = switched.person()
    confirm = person.confirm("cms-ex1")
    told = person.press(confirm, "Sign off 2 charges")
    assert told.answer.status_code == 409
    assert "still has what was suggested there before it was reviewed (ChargeItem/" in told.text
    assert "Nothing was signed; what you settled is kept." in told.text
    assert "Sign off…" in person.open(told.links["See the visit"]).text
    assert in_files(tmp_path) == []
    assert standing(switched, "planned") == EX1
    switched.sandbox.faults.clear()
    switched.clock.forward(seconds=WAIT)
    assert "Handed over." in person.press(confirm, "Sign off 2 charges").text
    assert sorted(in_files(tmp_path)) == [("charge", "97110", "1"), ("charge", "97112", "2")]
    assert standing(switched, "aborted") == EX1


def test_what_others_changed_is_left_to_them_and_nothing_is_signed_beside_it(switched, tmp_path):
    person = switched.person()
    confirm = person.confirm("cms-ex1")
    change(switched, "97112", note=[{"text": "Checked."}])  # only the version tells
    told = person.press(confirm, "Sign off 2 charges")
    assert "was changed in the EHR since" in told.text
    assert "Nothing was signed" in told.text
    assert in_files(tmp_path) == []
    change(switched, "97112", status="aborted")  # as the page advised
    assert "Handed over." in person.sign("cms-ex1").text
    assert sorted(in_files(tmp_path)) == [("charge", "97110", "1"), ("charge", "97112", "2")]


# What others changed


@pytest.mark.parametrize(
    "theirs",
    [
        {"status": "billed"},
        {"status": "billable"},
        {"quantity": {"value": 7}},
        {"note": [{"text": "Checked."}]},  # only the version tells
    ],
)
def test_what_others_changed_is_left_as_it_is_and_told(clinic, unattended, theirs):
    unattended.capture()
    person = clinic.person()
    confirm = person.confirm("cms-ex1")
    change(clinic, "97112", **theirs)
    receipt = person.press(confirm, "Sign off 2 charges")
    if receipt.heading.startswith("Sign off"):  # it counts as a charge now, so the page asks again
        receipt = person.press(receipt, next(
            said for form in receipt.forms for said, _, _ in form["buttons"] if said.startswith("Sign off ")
        ))  # fmt: skip
    (item,) = [each for each in clinic.written("cms-ex1") if each["code"]["coding"][0]["code"] == "97112"]
    assert {name: item[name] for name in theirs} == theirs
    assert "was changed in the EHR since" in receipt.text
    assert not [each for each in clinic.written("cms-ex1") if each["id"] not in ids(clinic)[:2]]


def test_an_ehr_without_versions_is_compared_by_what_the_record_says(a_clinic, http):
    clinic = a_clinic(writing=ON.format("charge-item"), quirks=Quirks(no_etag=True))
    Unattended(clinic, http).capture()
    change(clinic, "97110", quantity={"value": 7})
    receipt = clinic.person().sign("cms-ex1")
    assert "it stands there as 'planned' with 7 units" in receipt.text
    assert standing(clinic, "planned") == {"97110": 7}
    assert standing(clinic, "billable") == {"97112": 2}


def test_a_suggestion_that_somebody_deleted_is_created_as_it_was_signed(clinic, unattended):
    unattended.capture()
    clinic.sandbox.store._filed["ChargeItem"].clear()
    assert "Written." in clinic.person().sign("cms-ex1").text
    assert standing(clinic, "billable") == EX1


def test_an_update_that_meets_a_newer_version_is_told_and_can_be_tried_again(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    clinic.sandbox.faults.add(Fault("status", status=412, method="PUT", path="/fhir/ChargeItem/*"))
    receipt = person.sign("cms-ex1")
    assert "Refused by the EHR" in receipt.text
    assert len(standing(clinic, "billable")) == 1
    assert "Written." in person.press(receipt, "Send again").text
    assert standing(clinic, "billable") == EX1
    assert len(ids(clinic)) == 2


@pytest.mark.parametrize("after", [True, False])
def test_an_update_whose_answer_is_lost_is_looked_at_before_it_is_sent_again(clinic, unattended, after):
    unattended.capture()
    person = clinic.person()
    clinic.sandbox.faults.add(Fault("drop", method="PUT", path="/fhir/ChargeItem/*", after=after))
    receipt = person.sign("cms-ex1")
    assert "Not known: the EHR did not answer" in receipt.text
    clinic.clock.forward(seconds=WAIT)
    assert "Written." in person.press(receipt, "Send again").text
    assert standing(clinic, "billable") == EX1
    assert len(clinic.sandbox.requests("PUT", "/fhir/ChargeItem/*")) == (2 if after else 3)


# At once


@contextmanager
def on_first(happens, method, path):
    """What happens while the first such request is under way, before the EHR looks at it."""
    todo = [happens]

    def around(application):
        def wrapped(environ, start_response):
            if todo and environ["REQUEST_METHOD"] == method and environ["PATH_INFO"].startswith(path):
                todo.pop()()
            return application(environ, start_response)

        return wrapped

    yield around
    assert not todo


@pytest.mark.parametrize("conditional", [True, False])
def test_a_sign_off_while_the_suggestion_is_under_way_ends_with_one_billable_charge_a_line(
    a_clinic, http, conditional
):
    made = {}

    def signed_meanwhile():
        made["receipt"] = made["person"].press(made["confirm"], "Sign off 2 charges")

    with on_first(signed_meanwhile, "POST", "/fhir/ChargeItem") as around:
        clinic = a_clinic(
            writing=ON.format("charge-item"),
            quirks=Quirks(no_conditional_create=not conditional),
            around_ehr=around,
        )
        unattended = Unattended(clinic, http)
        unattended.server = Server(unattended.issuer.base, "backend", http, retries=0)
        made["person"] = clinic.person()
        made["confirm"] = made["person"].confirm("cms-ex1")
        unattended.capture()
    assert "Not known" in made["receipt"].text
    assert standing(clinic, "planned") == {"97112": 2}  # it arrived after the sign-off
    clinic.clock.forward(seconds=WAIT)
    work_once(clinic.installation)
    assert standing(clinic, "billable") == {}  # its lease might not be over yet
    clinic.clock.forward(seconds=LEASE.total_seconds())
    work_once(clinic.installation)
    assert standing(clinic, "billable") == EX1
    assert len(ids(clinic)) == 2


def test_a_visit_that_is_signed_while_its_chart_is_read_gets_no_suggestion(clinic, unattended):
    visit, reviewed = unattended.read()
    clinic.person().sign("cms-ex1")
    before = clinic.written("cms-ex1")
    done = suggested.write_suggestions(
        clinic.installation, unattended.issuer, unattended.server, visit, reviewed
    )
    assert done.rows == ()
    assert clinic.written("cms-ex1") == before


def test_a_suggestion_is_no_decision(clinic, unattended):
    unattended.capture()
    person = clinic.person()
    page = person.launch("cms-ex1")
    assert "Sign off…" in [said for form in page.forms for said, _, _ in form["buttons"]]
    visit, _ = unattended.read()
    assert decisions_on(clinic.installation, visit) == ()
    person.sign("cms-ex1")
    assert [each.revision for each in decisions_on(clinic.installation, visit)] == [1]
    assert suggested.standing(clinic.installation, visit).rows == ()  # its charges are the decision's now


# What the site is told


@pytest.mark.parametrize(
    ("quirks", "says"),
    [
        (Quirks(), "works  Suggestions are written before review"),
        (Quirks(no_etag=True), "needs  ChargeItem keeps no versions"),
        (Quirks(no_charge_item=True), "needs  ChargeItem is not said to offer create and update, so nothing"),
    ],
)
def test_the_check_says_whether_suggestions_can_be_written(a_clinic, quirks, says):
    clinic = a_clinic(writing=ON.format("auto"), quirks=quirks)
    told = CliRunner().invoke(main, ["issuers", "check", "--file", str(clinic.folder / "issuers.toml")])
    assert says in told.output


def test_an_ehr_that_takes_no_charges_gets_no_suggestions_and_the_reason_is_given(a_clinic, http):
    clinic = a_clinic(writing=ON.format("auto"), quirks=Quirks(no_charge_item=True))
    done = Unattended(clinic, http).capture()
    assert done.rows == ()
    assert done.why_not.startswith("Charges leave by 'ticket', which cannot change one in place")


@pytest.mark.parametrize(("suggest", "may_sign"), [("true", False), ("false", True)])
def test_signing_needs_to_update_charges_only_where_suggestions_stand_in_the_ehr(a_clinic, suggest, may_sign):
    granted = [need.v2 for need in NEEDS if need.v2 != "user/ChargeItem.cu"]
    scopes = json.dumps(["launch", "openid", "fhirUser", "user/ChargeItem.c", *granted])
    clinic = a_clinic(writing=f'way = "charge-item"\nsuggest = {suggest}', more=f"scopes = {scopes}")
    page = clinic.person().launch("cms-ex1")
    assert ("Sign off…" in [said for form in page.forms for said, _, _ in form["buttons"]]) is may_sign
    assert ("so this visit can be reviewed but not signed off here" in page.text) is not may_sign
