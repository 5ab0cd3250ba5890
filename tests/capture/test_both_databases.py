"""Capture and the worklist's rows on SQLite and PostgreSQL, with several workers at once."""

import threading
import time

import captured
import databases
import pytest

from quarterhour.plugin.worker import work
from quarterhour.plugin.worklist import Standing

VISITS = ("cms-ex1", "cms-ex2", "cms-ex3", "cms-ex4", "untimed", "group")


@pytest.fixture(scope="module")
def postgres():
    with databases.running_postgres() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def clinic(request, tmp_path):
    url = ""
    if request.param == "postgresql":
        url = databases.new_database(request.getfixturevalue("postgres"))
    with captured.a_capture_in(tmp_path, database_url=url) as opened:
        yield opened


def test_visits_asked_for_again_and_again_by_many_are_each_listed_once(clinic):
    encounters = [clinic.encounter(one) for one in VISITS]
    stop = threading.Event()
    workers = [threading.Thread(target=work, args=(clinic.here, stop)) for _ in range(3)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 30
    while len(clinic.listed()) < len(VISITS) or clinic.queue().oldest_due_at:
        assert time.monotonic() < deadline
        clinic.ask(*encounters[: len(VISITS) - len(clinic.listed())])
        clinic.clock.forward(seconds=1)
        time.sleep(0.02)
    stop.set()
    for worker in workers:
        worker.join()
    listed = clinic.listed().values()
    assert [one.standing for one in listed if one.patient in {"Ruth Adams", "Walter Brennan"}] == [
        Standing.OPEN
    ] * 2
    assert clinic.given_up() == ()
    assert all(one.changes == () for one in listed)


def test_a_visit_that_changed_or_went_is_the_same_row_or_none(clinic):
    clinic.capture("cms-ex1")
    first = next(one for one in clinic.procedures("cms-ex1") if one["id"] == "proc-cms-ex1-2")
    clinic.put("Procedure", first["id"], status="entered-in-error")
    clinic.capture("cms-ex1")
    assert clinic.only().changes == ("97110: 23 min → nothing",)
    clinic.put("Encounter", "enc-cms-ex1", status="cancelled")
    clinic.capture("cms-ex1")
    assert clinic.listed() == {}
