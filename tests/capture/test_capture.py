"""What capture puts on the worklist, and what it leaves alone."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from quarterhour.core.visit import Discipline
from quarterhour.plugin import audit, database
from quarterhour.plugin.capture import TOLD_AFTER, TRIES_FOR_ALL, Stopped
from quarterhour.plugin.jobs import MOST_ATTEMPTS
from quarterhour.plugin.worker import work_job
from quarterhour.plugin.worklist import Standing, State
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

CPT = "http://www.ama-assn.org/go/cpt"


def lasting(procedure, minutes):
    """Its period, so many minutes long."""
    start = procedure["performedPeriod"]["start"]
    end = datetime.fromisoformat(start) + timedelta(minutes=minutes)
    return {"start": start, "end": end.isoformat(timespec="seconds")}


def a_charge(clinic, scenario, code, units, **changed):
    known = clinic.sandbox.scenario(scenario)
    clinic.sandbox.store.put(
        {
            "resourceType": "ChargeItem", "id": f"by-hand-{code}", "status": "billable",
            "code": {"coding": [{"system": CPT, "code": code}]},
            "subject": {"reference": f"Patient/{known.patient}"},
            "context": {"reference": f"Encounter/{known.encounter}"},
            "occurrenceDateTime": known.date_of_service.isoformat(),
            "quantity": {"value": units},
        } | changed
    )  # fmt: skip


def test_a_visit_that_ended_waits_on_the_worklist_with_its_suggestion(clinic):
    clinic.capture("cms-ex1")
    visit = clinic.only()
    assert (visit.captured, visit.standing, visit.discipline) == (True, Standing.OPEN, Discipline.PT)
    assert {line.code: line.units for line in visit.lines} == {"97112": 2, "97110": 1}
    assert all("GP" in line.modifiers for line in visit.lines)
    assert (visit.units, visit.patient, visit.therapists) == (3, "Ruth Adams", ("Practitioner/pr-reyes",))
    assert clinic.queue().waiting == 1  # the next look, as long as nobody signs it
    assert clinic.given_up() == ()


def test_captured_five_times_it_is_listed_once_and_nothing_is_marked(clinic):
    for _ in range(5):
        clinic.capture("cms-ex1")
    assert clinic.only().changes == ()


def test_nothing_of_a_visit_stands_in_the_open(clinic):
    clinic.capture("cms-ex1")
    tables = (database.known_visit, database.furnished, database.job)
    with clinic.here.engine.begin() as connection:
        stored = repr([tuple(row) for table in tables for row in connection.execute(select(table))])
    for secret in ("Adams", "enc-cms-ex1", "pat-adams", "pr-reyes", "100001"):
        assert secret not in stored


def test_what_was_read_is_on_record_as_quarterhour_s_own_reading(clinic):
    clinic.capture("cms-ex1")
    with clinic.here.engine.begin() as connection:
        (entry,) = audit.entries(connection, clinic.here.vault)
        assert audit.broken_at(connection, clinic.here.vault) is None
    assert (entry.action, entry.who) == ("captured", "Quarterhour")
    assert entry.what["patient"] == "Patient/pat-adams"
    assert entry.what["encounter"] == "Encounter/enc-cms-ex1"


def test_two_disciplines_of_one_encounter_are_two_visits_whatever_else_its_day_has(clinic):
    clinic.capture("two-disciplines-pt")
    clinic.capture("two-disciplines-ot")
    assert sorted(one.discipline for one in clinic.listed().values()) == ["OT", "PT"]


@pytest.mark.parametrize("status", ["planned", "arrived", "in-progress", "cancelled", "entered-in-error"])
def test_a_visit_that_did_not_end_is_not_listed(clinic, status):
    clinic.put("Encounter", "enc-cms-ex1", status=status)
    clinic.capture("cms-ex1")
    assert clinic.listed() == {}
    assert (clinic.queue().waiting, clinic.queue().given_up) == (0, 0)


def test_a_visit_without_documentation_is_listed_as_such(clinic):
    for procedure in clinic.procedures("cms-ex1"):
        clinic.put("Procedure", procedure["id"], status="entered-in-error")
    clinic.capture("cms-ex1")
    assert clinic.only().standing is Standing.UNDOCUMENTED
    assert clinic.states() == [State.UNDOCUMENTED]


def test_charges_without_documentation_are_listed_as_such(clinic):
    for procedure in clinic.procedures("cms-ex1"):
        clinic.put("Procedure", procedure["id"], status="entered-in-error")
    a_charge(clinic, "cms-ex1", "97110", 2)
    clinic.capture("cms-ex1")
    assert clinic.states() == [State.UNEXPLAINED]


@pytest.mark.parametrize(("days", "state"), [(2, State.WAITING), (3, State.LATE)])
def test_a_visit_that_nobody_signs_for_more_than_three_days_is_late(clinic, days, state):
    clinic.capture("cms-ex1")  # of Friday; it is Saturday
    clinic.clock.forward(days=days)
    assert clinic.states() == [state]


def test_the_site_says_after_how_many_days_a_visit_is_late(a_capture):
    clinic = a_capture(capture="late_after_days = 1")
    clinic.capture("cms-ex1")
    assert clinic.states() == [State.WAITING]
    clinic.clock.forward(days=1)
    assert clinic.states() == [State.LATE]


# --- when the chart changes -------------------------------------------------------------------------------


def test_a_chart_that_changed_is_counted_again_and_the_change_is_marked(clinic):
    clinic.capture("cms-ex1")
    longer = next(one for one in clinic.procedures("cms-ex1") if one["performedPeriod"])
    code = longer["code"]["coding"][0]["code"]
    clinic.put("Procedure", longer["id"], performedPeriod=lasting(longer, 9))
    clinic.capture("cms-ex1")
    visit = clinic.only()
    assert visit.changes == (f"{code}: 24 min → 9 min",)
    assert visit.units == 2  # 9 and 23 are 32 minutes
    clinic.put("Procedure", longer["id"], performedPeriod=longer["performedPeriod"])
    clinic.capture("cms-ex1")
    assert clinic.only().changes == ()  # as it was when it was first seen


def test_a_service_that_came_and_one_that_went_are_marked(clinic):
    clinic.capture("cms-ex1")
    first, second = clinic.procedures("cms-ex1")
    clinic.put("Procedure", first["id"], status="entered-in-error")
    manual = {"coding": [{"system": CPT, "code": "97140"}]}
    clinic.put("Procedure", second["id"], code=manual)
    clinic.capture("cms-ex1")
    assert sorted(clinic.only().changes) == [
        "97110: 23 min → nothing", "97112: 24 min → nothing", "97140: nothing → 23 min"
    ]  # fmt: skip


def test_a_visit_whose_documentation_came_later_is_listed_once_and_to_be_signed(clinic):
    procedures = clinic.procedures("cms-ex1")
    for procedure in procedures:
        clinic.put("Procedure", procedure["id"], status="entered-in-error")
    clinic.capture("cms-ex1")
    for procedure in procedures:
        clinic.put("Procedure", procedure["id"], status="completed")
    clinic.capture("cms-ex1")
    assert (clinic.only().standing, clinic.only().units) == (Standing.OPEN, 3)


def test_what_was_charged_elsewhere_is_closed(clinic):
    clinic.capture("cms-ex1")
    a_charge(clinic, "cms-ex1", "97112", 2)
    clinic.capture("cms-ex1")
    assert (clinic.only().standing, clinic.only().units) == (Standing.OPEN, 1)  # a part of it only
    a_charge(clinic, "cms-ex1", "97110", 1)
    clinic.capture("cms-ex1")
    assert clinic.states() == [State.CLOSED]


def test_a_visit_that_was_cancelled_after_its_capture_is_off_the_list(clinic):
    clinic.capture("cms-ex1")
    clinic.put("Encounter", "enc-cms-ex1", status="entered-in-error")
    clinic.capture("cms-ex1")
    assert clinic.listed() == {}


def test_a_visit_that_waits_is_looked_at_again_the_next_day_by_itself(clinic):
    clinic.capture("cms-ex1")
    for code, units in (("97112", 2), ("97110", 1)):
        a_charge(clinic, "cms-ex1", code, units)  # of which nobody tells us
    clinic.clock.forward(hours=23)
    assert clinic.work() == 0
    clinic.clock.forward(hours=1)
    assert clinic.work() == 1
    assert clinic.states() == [State.CLOSED]
    clinic.clock.forward(days=2)
    assert clinic.work() == 0  # nothing is left to wait for


# --- when it cannot be read -------------------------------------------------------------------------------


def fail(clinic, times=1, path="/fhir/*", **kind):
    known = {"kind": "status", "status": 500} | kind
    clinic.sandbox.faults.add(Fault(method="GET", path=path, times=times, **known))


@pytest.mark.parametrize(
    "kind",
    [
        {"status": 500}, {"status": 503}, {"status": 409}, {"status": 422},
        {"kind": "drop"}, {"kind": "drop", "after": True}, {"kind": "truncate"}, {"kind": "html"},
        {"kind": "foreign"}, {"status": 429, "retry_after": "7"}, {"status": 429}, {"status": 401},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "path", ["/fhir/Encounter/*", "/fhir/Procedure", "/fhir/Coverage", "/fhir/ChargeItem"]
)
def test_a_read_that_failed_once_leaves_no_trace_in_the_suggestion(clinic, kind, path):
    fail(clinic, path=path, **kind)
    clinic.capture("cms-ex1")
    clinic.clock.forward(minutes=2)
    clinic.work()
    visit = clinic.only()
    assert (visit.standing, visit.units, visit.problem) == (Standing.OPEN, 3, None)
    assert not {"wrong-patient", "not-read"} & {id_ for id_, _ in visit.findings}
    assert clinic.sandbox.faults.waiting == 0
    assert clinic.given_up() == ()


def test_a_part_that_stays_unreadable_is_taken_as_it_is_and_asked_for_some_more(clinic):
    fail(clinic, times=10_000, path="/fhir/Coverage", status=500)
    clinic.ask("Encounter/enc-cms-ex1")
    for attempt in range(1, TRIES_FOR_ALL + 1):
        assert clinic.work() == 1
        assert bool(clinic.listed()) == (attempt >= TOLD_AFTER)
        clinic.clock.forward(hours=1)
    assert clinic.only().standing is Standing.OPEN
    assert clinic.only().units is None  # whose policy counts is not known
    assert clinic.given_up() == ()
    assert clinic.work() == 0
    clinic.sandbox.faults.clear()
    clinic.clock.forward(hours=23)
    clinic.work()
    assert clinic.only().units == 3


def test_a_part_that_is_read_at_a_later_attempt_completes_what_is_listed(clinic):
    fail(clinic, times=TOLD_AFTER, path="/fhir/Coverage", status=500)
    clinic.ask("Encounter/enc-cms-ex1")
    for _ in range(TOLD_AFTER):
        clinic.work()
        clinic.clock.forward(hours=1)
    assert clinic.only().units is None
    assert "HTTP 500" in clinic.only().problem
    clinic.work()
    assert (clinic.only().units, clinic.only().problem) == (3, None)


def test_a_visit_that_cannot_be_read_is_listed_with_the_reason_and_never_lost(clinic):
    fail(clinic, times=10_000, path="/fhir/Procedure", status=500)
    clinic.ask("Encounter/enc-cms-ex1")
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert clinic.work() == 1
        assert bool(clinic.listed()) == (attempt >= TOLD_AFTER)
        clinic.clock.forward(hours=1)
    visit = clinic.only()
    assert (visit.standing, visit.problem) == (
        Standing.UNREAD, "The EHR failed (HTTP 500). Try again in a few minutes."
    )  # fmt: skip
    (letter,) = clinic.given_up()
    assert letter.about == "Encounter/enc-cms-ex1"
    assert clinic.work() == 0
    clinic.sandbox.faults.clear()
    clinic.capture("cms-ex1")
    assert (clinic.only().standing, clinic.only().units) == (Standing.OPEN, 3)
    assert clinic.given_up() == ()


def test_a_visit_that_does_not_exist_ends_on_the_list_with_the_reason(clinic):
    clinic.ask("Encounter/forged")
    for _ in range(MOST_ATTEMPTS):
        clinic.work()
        clinic.clock.forward(hours=1)
    assert clinic.states() == [State.UNREAD]
    assert "no such Encounter" in clinic.only().problem


def test_a_visit_without_any_date_is_told_at_once(clinic):
    clinic.put("Encounter", "enc-cms-ex1", period=None)
    for procedure in clinic.procedures("cms-ex1"):
        clinic.put("Procedure", procedure["id"], performedPeriod=None)
    clinic.capture("cms-ex1")
    assert clinic.states() == [State.UNREAD]
    assert "have a date" in clinic.only().problem
    assert len(clinic.given_up()) == 1


def test_a_visit_on_the_list_that_cannot_be_read_again_stays_with_a_word_about_it(clinic):
    clinic.capture("cms-ex1")
    fail(clinic, times=10_000, path="/fhir/Procedure", status=500)
    clinic.capture("cms-ex1")
    for _ in range(TOLD_AFTER):
        clinic.clock.forward(minutes=5)
        clinic.work()
    visit = clinic.only()
    assert (visit.standing, visit.units) == (Standing.OPEN, 3)
    assert "HTTP 500" in visit.problem


@pytest.mark.parametrize(
    "how",
    [
        {"status": 429, "retry_after": "60", "path": "/fhir/Encounter/*"},  # it is busy
        {"status": 500, "path": "/fhir/.well-known/*"},  # it gives no access
        {"status": 401, "path": "/fhir/Encounter/*"},  # it takes no access back
    ],
    ids=str,
)
def test_an_ehr_that_is_away_costs_no_visit_an_attempt(clinic, how):
    clinic.ask("Encounter/enc-cms-ex1", "Encounter/enc-cms-ex2")
    fail(clinic, times=10_000, **how)
    for _ in range(2 * MOST_ATTEMPTS):
        clinic.work()
        clinic.clock.forward(minutes=6)
    assert (clinic.listed(), clinic.given_up()) == ({}, ())
    clinic.sandbox.faults.clear()
    clinic.work()
    assert len(clinic.listed()) == 2


def test_what_an_ehr_asks_us_to_wait_is_waited_for_by_all_its_visits(clinic):
    clinic.ask("Encounter/enc-cms-ex1", "Encounter/enc-cms-ex2", "Encounter/enc-cms-ex3")
    fail(clinic, status=429, retry_after="30", path="/fhir/Encounter/*")
    assert clinic.work() == 1
    asked = len(clinic.sandbox.requests("GET", "/fhir/*"))
    clinic.clock.forward(seconds=29)
    assert clinic.work() == 0
    assert len(clinic.sandbox.requests("GET", "/fhir/*")) == asked
    clinic.clock.forward(seconds=1)
    assert clinic.work() == 3


@pytest.mark.parametrize("after", ["1764326400", "1764326400000"])  # the time of day, where seconds belong
def test_an_ehr_that_asks_us_to_wait_for_decades_is_asked_again_after_an_hour(clinic, after):
    clinic.ask("Encounter/enc-cms-ex1", "Encounter/enc-cms-ex2")
    fail(clinic, status=429, retry_after=after, path="/fhir/Encounter/*")
    assert clinic.work() == 1
    clinic.clock.forward(minutes=59, seconds=59)
    assert clinic.work() == 0
    clinic.clock.forward(seconds=1)
    assert clinic.work() == 2


def test_visits_begin_no_faster_than_the_site_s_rate(a_capture):
    clinic = a_capture(rate=60)
    clinic.ask("Encounter/enc-cms-ex1", "Encounter/enc-cms-ex2")
    assert clinic.work() == 1
    clinic.clock.forward(seconds=0.9)
    assert clinic.work() == 0
    clinic.clock.forward(seconds=0.1)
    assert clinic.work() == 1


def test_a_permission_that_ran_out_is_renewed_in_the_middle_of_a_visit(a_capture):
    clinic = a_capture(quirks=Quirks(token_seconds=60))
    clinic.capture("cms-ex1")
    clinic.clock.forward(minutes=5)
    clinic.capture("cms-ex2")
    assert len(clinic.listed()) == 2


def test_told_to_stop_it_gives_the_visit_back_and_another_goes_on(clinic):
    clinic.ask("Encounter/enc-cms-ex1")
    steps = iter(["go on"])

    def go_on():
        if next(steps, None) is None:
            raise Stopped

    assert work_job(clinic.here, go_on) is not None
    assert clinic.listed() == {}
    clinic.clock.forward(milliseconds=1)
    job = work_job(clinic.here)
    assert job.attempts == 1  # the one that was stopped does not count
    assert clinic.only().units == 3


# --- suggestions that stand in the EHR before anybody looked -------------------------------------------------


def statuses(clinic):
    return sorted(
        (item["code"]["coding"][0]["code"], item["status"]) for item in clinic.sandbox.charge_items("cms-ex1")
    )


def test_a_site_s_suggestions_are_written_as_planned_and_kept_as_the_chart_is(a_capture):
    clinic = a_capture(writing='way = "charge-item"\nsuggest = true')
    clinic.capture("cms-ex1")
    assert statuses(clinic) == [("97110", "planned"), ("97112", "planned")]
    clinic.capture("cms-ex1")
    assert statuses(clinic) == [("97110", "planned"), ("97112", "planned")]
    assert (clinic.only().standing, clinic.only().units) == (Standing.OPEN, 3)  # our own are no charges
    shorter = next(one for one in clinic.procedures("cms-ex1") if one["id"] == "proc-cms-ex1-2")
    clinic.put("Procedure", shorter["id"], status="entered-in-error")
    clinic.capture("cms-ex1")
    assert statuses(clinic) == [("97110", "aborted"), ("97112", "planned")]
    clinic.put("Encounter", "enc-cms-ex1", status="cancelled")
    clinic.capture("cms-ex1")
    assert statuses(clinic) == [("97110", "aborted"), ("97112", "aborted")]


def test_without_the_option_nothing_is_written(clinic):
    clinic.capture("cms-ex1")
    assert clinic.sandbox.charge_items("cms-ex1") == []
    assert clinic.sandbox.requests("POST", "/fhir*") == []
