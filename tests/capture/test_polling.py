"""Asking the EHR what changed: page by page, nothing missed, and never ahead of what was read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from quarterhour.plugin import database, jobs, polling
from quarterhour.plugin.capture import Stopped
from quarterhour.plugin.jobs import MOST_ATTEMPTS, Kind
from quarterhour.plugin.worker import work_job
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

EVERY = "poll_minutes = 5"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clinic(a_capture):
    """Ten visits on pages of four, so that a look has several of them."""
    opened = a_capture(capture=EVERY, quirks=Quirks(page_size=4))
    store = opened.sandbox.store
    visits = [filed.resource for filed in store.all("Encounter")]
    kept = [f"Encounter/{visit['id']}" for visit in visits if visit["status"] == "finished"][:10]
    for kind in ("Encounter", "Procedure"):
        for filed in store.all(kind):
            own = filed.resource.get("encounter", {}).get("reference", f"{kind}/{filed.resource['id']}")
            if own not in kept:
                store.remove(kind, filed.resource["id"])
    return opened


def watermark(clinic):
    with clinic.here.engine.begin() as connection:
        return connection.scalar(select(database.ehr.c.watermark))


def asked_for(clinic):
    """The visits that are to be captured."""
    table = database.job
    with clinic.here.engine.begin() as connection:
        rows = connection.execute(select(table.c.sealed).where(table.c.kind == Kind.CAPTURE)).all()
    return {clinic.here.vault.open(row.sealed, str) for row in rows}


def ended(clinic):
    """The visits of the EHR; all of them ended."""
    return {f"Encounter/{filed.resource['id']}" for filed in clinic.sandbox.store.all("Encounter")}


def looks(clinic, kind="Encounter"):
    """The requests for what changed, the oldest first."""
    return [one for one in clinic.sandbox.requests("GET", f"/fhir/{kind}") if "_lastUpdated" in one.query]


def look(clinic):
    """One look at the EHR, without the captures that it asks for."""
    polling.schedule(clinic.here)
    spacing = {clinic.issuer.iss: timedelta(0)}
    with clinic.here.engine.begin() as connection:
        job = jobs.take(connection, clinic.here.vault, clinic.clock(), spacing)
    assert job.kind is Kind.LOOK
    polling.look(clinic.here, clinic.issuer, job, lambda: None)


def test_without_the_setting_nobody_is_polled(a_capture):
    clinic = a_capture()
    polling.schedule(clinic.here)
    assert clinic.work() == 0
    assert clinic.sandbox.requests() == []


def test_every_visit_that_ended_is_asked_for_from_every_page(clinic):
    look(clinic)
    assert asked_for(clinic) == ended(clinic)
    assert len(looks(clinic)) == 3


def test_it_is_on_the_list_within_one_interval_with_nothing_opened_by_anyone(clinic):
    clinic.put("Encounter", "enc-cms-ex1", status="in-progress")
    polling.schedule(clinic.here)
    clinic.work()
    before = len(clinic.listed())
    clinic.clock.forward(minutes=5)
    clinic.put("Encounter", "enc-cms-ex1", status="finished")
    clinic.clock.forward(seconds=1)
    clinic.work()
    assert len(clinic.listed()) == before + 1


def test_a_look_covers_what_changed_since_the_one_before_and_a_little_more(clinic):
    look(clinic)
    assert watermark(clinic) == clinic.clock()
    clinic.clock.forward(minutes=5)
    clinic.work()
    first, last = looks(clinic)[0], looks(clinic)[-1]
    assert (
        "_lastUpdated=ge2026-11-20T16%3A50%3A00Z" in first.query
    )  # noon in Boston, a day and ten minutes before
    assert "_lastUpdated=ge2026-11-21T16%3A50%3A00Z" in last.query


def test_a_service_that_changed_asks_for_its_visit(clinic):
    clinic.clock.forward(hours=1)
    look(clinic)
    with clinic.here.engine.begin() as connection:
        connection.execute(database.job.delete())
    clinic.clock.forward(hours=1)
    clinic.put("Procedure", "proc-cms-ex1-1", note=[{"text": "Three sets instead of two."}])
    look(clinic)
    assert asked_for(clinic) == {"Encounter/enc-cms-ex1"}


def test_an_ehr_that_lets_no_services_be_searched_that_way_is_still_polled_for_visits(clinic):
    clinic.sandbox.faults.add(Fault("status", status=400, method="GET", path="/fhir/Procedure", times=99))
    look(clinic)
    assert asked_for(clinic) == ended(clinic)
    assert watermark(clinic) == clinic.clock()


def drop_captures(clinic):
    """Nothing but looks is left to be done."""
    with clinic.here.engine.begin() as connection:
        connection.execute(database.job.delete().where(database.job.c.kind == Kind.CAPTURE))


@pytest.mark.parametrize("status", [400, 404, 410])
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_list_of_services_that_breaks_off_moves_no_watermark_and_is_read_anew(clinic, status, interrupted):
    """Within one attempt, or where the next one goes on: pages that nobody read are not passed over."""
    polling.schedule(clinic.here)
    gone = Fault("status", status=status, method="GET", path="/fhir/Procedure")

    def the_next_page_is_gone():
        if len(looks(clinic, "Procedure")) == (2 if interrupted else 1):
            clinic.sandbox.faults.add(*[gone] * (1 if interrupted else 2))
            if interrupted:
                raise Stopped

    work_job(clinic.here, the_next_page_is_gone)
    for _ in range(2):
        assert watermark(clinic) is None
        drop_captures(clinic)
        clinic.clock.forward(seconds=20)
        work_job(clinic.here)
    assert clinic.sandbox.faults.waiting == 0
    assert watermark(clinic) is not None
    begun = [one for one in looks(clinic, "Procedure") if "_offset" not in one.query]
    assert len(begun) == 2


def test_a_page_that_fails_moves_no_watermark_and_the_next_attempt_goes_on_with_it(clinic):
    polling.schedule(clinic.here)
    only_pages = "/fhir/Encounter"
    asked = []

    def stop_at_third():
        asked.append(1)
        if len(asked) == 3:
            raise Stopped

    work_job(clinic.here, stop_at_third)
    assert watermark(clinic) is None
    assert len(asked_for(clinic)) == 8  # two pages of four
    requests = len(clinic.sandbox.requests("GET", only_pages))
    clinic.sandbox.faults.add(Fault("status", status=500, method="GET", path=only_pages))
    clinic.clock.forward(seconds=1)
    while len(asked_for(clinic)) < len(ended(clinic)):
        work_job(clinic.here)
        clinic.clock.forward(seconds=20)
    first_again = clinic.sandbox.requests("GET", only_pages)[requests]
    assert "_offset=8" in first_again.query
    clinic.work()
    assert watermark(clinic) is not None


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_page_that_is_not_there_any_more_starts_the_list_again(clinic, status):
    polling.schedule(clinic.here)
    pages = []

    def stop_at_second():
        pages.append(1)
        if len(pages) == 2:
            raise Stopped

    work_job(clinic.here, stop_at_second)
    clinic.sandbox.faults.add(Fault("status", status=status, method="GET", path="/fhir/Encounter"))
    for _ in range(3):
        clinic.clock.forward(seconds=20)
        clinic.work()
    assert clinic.given_up() == ()
    assert asked_for(clinic) == ended(clinic)
    assert watermark(clinic) is not None


@pytest.mark.parametrize("status", [404, 409, 422])
def test_a_page_that_is_refused_after_others_were_read_is_tried_once_more_before_the_list_begins_again(
    clinic, status
):
    polling.schedule(clinic.here)

    def stop_at_second():
        if len(looks(clinic)) == 2:
            raise Stopped

    def refused_at_third():
        if len(looks(clinic)) == 3:
            clinic.sandbox.faults.add(Fault("status", status=status, method="GET", path="/fhir/Encounter"))

    work_job(clinic.here, stop_at_second)
    for _ in range(3):
        drop_captures(clinic)
        clinic.clock.forward(seconds=20)
        work_job(clinic.here, refused_at_third)
    assert clinic.sandbox.faults.waiting == 0
    assert watermark(clinic) is not None
    assert len([one for one in looks(clinic) if "_offset" not in one.query]) == 1
    assert len([one for one in looks(clinic) if "_offset=8" in one.query]) == 2


def test_a_visit_that_cannot_be_read_in_the_list_is_asked_for_all_the_same(clinic):
    clinic.put("Encounter", "enc-cms-ex1", status=["finished"])
    look(clinic)
    assert "Encounter/enc-cms-ex1" in asked_for(clinic)


def test_an_entry_that_does_not_say_which_visit_it_is_stops_the_watermark(clinic):
    """The EHR's own fault; an administrator sees it, and nothing passes for having been seen."""
    nameless = {**clinic.sandbox.store.get("Encounter", "enc-cms-ex1").resource, "id": 7}
    clinic.sandbox.store.put(nameless)
    polling.schedule(clinic.here)
    for _ in range(MOST_ATTEMPTS):
        clinic.work()
        clinic.clock.forward(hours=1)
    assert watermark(clinic) is None
    assert "does not say which visit" in clinic.given_up()[0].problem


@pytest.fixture
def away(clinic):
    """The EHR answered every look by an error until the look was given up; nobody did anything about it."""
    clinic.sandbox.faults.add(Fault("status", status=503, method="GET", path="/fhir/Encounter", times=999))
    polling.schedule(clinic.here)
    for _ in range(MOST_ATTEMPTS):
        clinic.work()
        clinic.clock.forward(hours=1)
    return clinic


def test_a_look_that_was_given_up_is_tried_once_an_interval_and_still_told(away):
    (before,) = away.given_up()
    for _ in range(3):
        asked = len(looks(away))
        polling.schedule(away.here)
        away.work()
        (now,) = away.given_up()
        assert (now.asked_at, now.problem, now.attempts) == (before.asked_at, before.problem, MOST_ATTEMPTS)
        assert now.given_up_at == away.clock() - timedelta(milliseconds=1)
        tried = len(looks(away))
        assert tried > asked
        away.clock.forward(minutes=4, seconds=59)
        polling.schedule(away.here)
        away.work()
        assert len(looks(away)) == tried  # the interval is not over
        away.clock.forward(seconds=1)


def test_an_ehr_that_comes_back_is_looked_through_with_nobody_asking_for_it(away):
    away.sandbox.faults.clear()
    polling.schedule(away.here)
    away.work()
    assert away.given_up() == ()
    assert watermark(away) is not None
    assert len(away.listed()) == len(ended(away))
    looked = len(looks(away))
    away.clock.forward(minutes=5)
    away.work()
    assert len(looks(away)) > looked


@pytest.mark.parametrize("fault", [Fault("status", status=500), Fault("drop")], ids=["500", "dropped"])
def test_an_ehr_whose_list_fails_is_left_alone_for_a_while(clinic, fault):
    clinic.ask("Encounter/enc-cms-ex1")
    polling.schedule(clinic.here)
    clinic.sandbox.faults.add(replace(fault, method="GET", path="/fhir/Encounter", times=9))
    with clinic.here.engine.begin() as connection:
        connection.execute(
            update(database.job).where(database.job.c.kind == Kind.LOOK).values(due_at=LONG_AGO)
        )
    assert clinic.work() == 1
    assert clinic.listed() == {}
    clinic.sandbox.faults.clear()
    clinic.clock.forward(seconds=4)
    assert clinic.work() == 0
    clinic.clock.forward(seconds=1)
    clinic.work()
    assert len(clinic.listed()) == 1


def test_looks_follow_one_another_at_the_site_s_interval_and_never_pile_up(clinic):
    for _ in range(3):
        polling.schedule(clinic.here)
    clinic.work()
    looked = len(looks(clinic, "Procedure"))
    clinic.clock.forward(minutes=4)
    polling.schedule(clinic.here)
    clinic.work()
    assert len(looks(clinic, "Procedure")) == looked
    clinic.clock.forward(minutes=1)
    clinic.work()
    assert len(looks(clinic, "Procedure")) > looked
