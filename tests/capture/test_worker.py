"""The worker as `quarterhour serve` runs it: by itself, beside others, and ending politely."""

import threading
import time

import pytest
from sqlalchemy import func, select

from quarterhour.plugin import database
from quarterhour.plugin.jobs import MOST_ATTEMPTS
from quarterhour.plugin.worker import work, work_job
from quarterhour.sandbox.faults import Fault


def until(true, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def working(clinic):
    """Two workers, told to stop at the end."""
    stop = threading.Event()
    workers = [threading.Thread(target=work, args=(clinic.here, stop)) for _ in range(2)]
    for worker in workers:
        worker.start()
    yield clinic, stop, workers
    stop.set()
    for worker in workers:
        worker.join()


def test_what_is_asked_for_is_done_without_anybody_looking(working):
    clinic, _stop, _workers = working
    clinic.ask("Encounter/enc-cms-ex1")
    until(clinic.listed)
    assert clinic.only().units == 3


def test_told_to_stop_they_end_within_the_step_at_hand_and_hold_nothing(working):
    clinic, stop, workers = working
    clinic.sandbox.faults.add(Fault("delay", method="GET", path="/fhir/Encounter/*", seconds=0.2, times=4))
    clinic.ask("Encounter/enc-cms-ex1")
    until(lambda: clinic.sandbox.requests("GET", "/fhir/Encounter/*") or clinic.sandbox.requests.under_way)
    stop.set()
    for worker in workers:
        worker.join(timeout=5)
        assert not worker.is_alive()
    clinic.clock.forward(milliseconds=1)
    job = work_job(clinic.here)  # by another, at once
    assert job is not None or clinic.listed()
    assert clinic.only().units == 3


def test_an_error_of_our_own_at_one_visit_ends_no_other_and_is_shown(clinic):
    """What is stored of one visit cannot be opened any more; the others are read."""
    clinic.capture("cms-ex1")
    with clinic.here.engine.begin() as connection:
        connection.execute(database.known_visit.update().values(sealed=b"of another key"))
    clinic.ask("Encounter/enc-cms-ex1", "Encounter/enc-cms-ex2")
    for _ in range(MOST_ATTEMPTS):
        clinic.work()
        clinic.clock.forward(hours=1)
    with clinic.here.engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(database.known_visit)) == 2
    (letter,) = clinic.given_up()
    assert letter.about == "Encounter/enc-cms-ex1"
    assert letter.problem == "Quarterhour failed at it (SealBroken)."


def test_a_worker_that_slept_through_its_lease_keeps_nothing_of_what_it_read(clinic):
    clinic.ask("Encounter/enc-cms-ex1")
    others = []

    def sleep():
        clinic.clock.forward(minutes=6)
        others.append(work_job(clinic.here))  # somebody else takes it meanwhile

    work_job(clinic.here, sleep)
    assert [other.attempts for other in others if other] == [2]
    assert clinic.only().units == 3
    assert clinic.queue().given_up == 0
