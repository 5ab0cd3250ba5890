"""Jobs on both databases: kept with what they serve, one at a time, tried again, never dropped."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import func, select

from quarterhour.plugin import database, jobs
from quarterhour.plugin.jobs import LASTS, LONGEST_WAIT, MOST_ATTEMPTS, Kind
from quarterhour.plugin.leases import LeaseLost
from quarterhour.plugin.vault import Vault

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
EHR, OTHER = "https://ehr.example/fhir", "https://other.example/fhir"
AT_ONCE = {EHR: timedelta(0), OTHER: timedelta(0)}
SECOND = timedelta(seconds=1)


class Kept:
    """A database of jobs, and the same steps as a worker makes, each in a transaction."""

    def __init__(self, engine, vault):
        self.engine, self.vault = engine, vault

    @contextmanager
    def begin(self):
        with self.engine.begin() as connection:
            yield connection

    def ask(self, about="Encounter/1", *, issuer=EHR, due_at=NOW):
        with self.begin() as connection:
            jobs.ask(connection, self.vault, Kind.CAPTURE, issuer, about, due_at)

    def take(self, now=NOW, spacing=AT_ONCE):
        with self.begin() as connection:
            return jobs.take(connection, self.vault, now, spacing)

    def done(self, job, now=NOW):
        with self.begin() as connection:
            jobs.done(connection, job, now)

    def failed(self, job, now=NOW, *, jitter=1.0, for_good=False):
        with self.begin() as connection:
            jobs.failed(connection, self.vault, job, now, "The EHR failed.", jitter=jitter, for_good=for_good)

    def count(self):
        with self.begin() as connection:
            return connection.scalar(select(func.count()).select_from(database.job))

    def given_up(self):
        with self.begin() as connection:
            return jobs.given_up(connection, self.vault, EHR)


@pytest.fixture(scope="module")
def opened(server_of, tmp_path_factory):
    vault = Vault((Fernet.generate_key().decode(),))
    engine = database.open_database(server_of(tmp_path_factory.mktemp("jobs")), vault)
    yield Kept(engine, vault)
    engine.dispose()


@pytest.fixture
def kept(opened):
    with opened.begin() as connection:
        for table in (database.job, database.lease, database.ehr):
            connection.execute(table.delete())
    return opened


def test_a_job_stands_or_falls_with_the_transaction_it_was_asked_in(kept):
    with kept.engine.connect() as connection, connection.begin() as transaction:
        jobs.ask(connection, kept.vault, Kind.CAPTURE, EHR, "Encounter/1", NOW)
        transaction.rollback()
    assert kept.take() is None
    kept.ask()
    assert kept.take().about == "Encounter/1"


def test_what_a_job_is_about_is_sealed(kept):
    kept.ask("Encounter/of-somebody")
    with kept.begin() as connection:
        (row,) = connection.execute(select(database.job)).all()
    assert "of-somebody" not in repr(tuple(row))


def test_a_job_is_taken_from_the_moment_it_is_due_and_by_one_only(kept):
    kept.ask(due_at=NOW)
    assert kept.take(NOW - SECOND) is None
    job = kept.take(NOW)
    assert (job.kind, job.issuer, job.attempts) == (Kind.CAPTURE, EHR, 1)
    assert kept.take(NOW) is None


def test_a_job_that_is_done_is_gone_with_its_lease(kept):
    kept.ask()
    kept.done(kept.take())
    assert kept.count() == 0
    with kept.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(database.lease)) == 0


def test_asked_for_a_hundred_times_while_it_waits_it_is_one_job(kept):
    for _ in range(100):
        kept.ask()
    kept.done(kept.take())
    assert kept.count() == 0


def test_asked_for_again_while_it_runs_it_runs_once_more_afterwards(kept):
    kept.ask()
    job = kept.take()
    kept.ask()
    kept.ask()
    assert kept.take() is None  # never twice at once
    kept.done(job, NOW + SECOND)
    again = kept.take(NOW + SECOND)
    assert again.attempts == 1
    kept.done(again, NOW + SECOND)
    assert kept.count() == 0


def test_two_things_are_two_jobs_and_so_is_one_thing_of_two_ehrs(kept):
    kept.ask("Encounter/1")
    kept.ask("Encounter/2")
    kept.ask("Encounter/1", issuer=OTHER)
    taken = [kept.take() for _ in range(4)]
    assert {(job.issuer, job.about) for job in taken if job} == {
        (EHR, "Encounter/1"), (EHR, "Encounter/2"), (OTHER, "Encounter/1")
    }  # fmt: skip
    assert taken[3] is None


def test_an_ehr_that_has_waited_longer_comes_first_whatever_the_other_has_piled_up(kept):
    for number in range(5):
        kept.ask(f"Encounter/{number}", due_at=NOW - timedelta(hours=1))
    kept.ask("Encounter/9", issuer=OTHER)
    assert [kept.take(NOW + number * SECOND).issuer for number in range(3)] == [EHR, OTHER, EHR]


def test_jobs_of_an_ehr_that_is_not_worked_on_stay_where_they_are(kept):
    kept.ask()
    assert kept.take(NOW, {OTHER: timedelta(0)}) is None
    assert kept.count() == 1


def test_jobs_of_an_ehr_begin_so_far_apart_as_its_rate_says(kept):
    kept.ask("Encounter/1")
    kept.ask("Encounter/2")
    spacing = {EHR: timedelta(seconds=2)}
    assert kept.take(NOW, spacing) is not None
    assert kept.take(NOW + SECOND, spacing) is None
    assert kept.take(NOW + 2 * SECOND, spacing) is not None


def test_a_worker_that_dies_leaves_its_job_to_the_next_one_once_the_lease_is_over(kept):
    kept.ask()
    dead = kept.take(NOW)
    assert kept.take(NOW + LASTS) is None  # to the last moment
    late = NOW + LASTS + SECOND
    second = kept.take(late)
    assert (second.about, second.attempts) == ("Encounter/1", 2)
    with pytest.raises(LeaseLost):
        kept.done(dead, late)  # it only slept: what it found is not kept
    with pytest.raises(LeaseLost):
        kept.failed(dead, late)
    kept.done(second, late)
    assert kept.count() == 0


def test_how_far_a_job_got_is_found_by_whoever_goes_on(kept):
    kept.ask()
    dead = kept.take(NOW)
    with kept.begin() as connection:
        jobs.keep(connection, kept.vault, dead, NOW, {"page": 3})
    late = NOW + LASTS + SECOND
    second = kept.take(late)
    assert kept.vault.open(second.progress) == {"page": 3}
    with pytest.raises(LeaseLost), kept.begin() as connection:
        jobs.keep(connection, kept.vault, dead, late, {"page": 4})


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 10), (2, 20), (3, 40), (9, 2560), (10, 3600), (12, 3600)]
)
def test_each_wait_is_twice_the_one_before_up_to_an_hour(attempts, seconds):
    assert jobs.wait_after(attempts, 1.0) == timedelta(seconds=seconds)


def test_jitter_makes_a_wait_shorter_by_up_to_half():
    assert jobs.wait_after(1, 0.0) == timedelta(seconds=5)
    assert jobs.wait_after(1, 0.5) == timedelta(seconds=7.5)


def test_what_failed_is_tried_again_after_its_wait(kept):
    kept.ask()
    kept.failed(kept.take(NOW), NOW, jitter=1.0)
    assert kept.take(NOW + 9 * SECOND) is None
    assert kept.take(NOW + 10 * SECOND).attempts == 2


def test_what_waits_after_a_failure_is_not_begun_earlier_for_being_asked_for_again(kept):
    kept.ask()
    kept.failed(kept.take(NOW), NOW, jitter=1.0)
    kept.ask(due_at=NOW)
    assert kept.take(NOW + 9 * SECOND) is None


def test_a_job_that_was_to_begin_later_begins_when_it_is_asked_for_earlier(kept):
    kept.ask(due_at=NOW + timedelta(hours=1))
    kept.ask(due_at=NOW)
    assert kept.take(NOW) is not None


def test_after_the_last_attempt_a_job_is_given_up_and_kept_with_its_reason(kept):
    kept.ask()
    now = NOW
    for attempt in range(1, MOST_ATTEMPTS + 1):
        job = kept.take(now)
        assert job.attempts == attempt
        assert kept.given_up() == ()
        kept.failed(job, now)
        now += LONGEST_WAIT
    assert kept.take(now + timedelta(days=9)) is None
    (letter,) = kept.given_up()
    assert (letter.about, letter.attempts, letter.problem) == (
        "Encounter/1",
        MOST_ATTEMPTS,
        "The EHR failed.",
    )


def test_what_cannot_succeed_is_given_up_at_once(kept):
    kept.ask()
    kept.failed(kept.take(), for_good=True)
    assert [letter.attempts for letter in kept.given_up()] == [1]


@pytest.mark.parametrize("how", ["a person tries it again", "it is asked for again"])
def test_what_was_given_up_begins_anew_when(kept, how):
    kept.ask()
    kept.failed(kept.take(), for_good=True)
    if how == "it is asked for again":
        kept.ask()
    else:
        (letter,) = kept.given_up()
        with kept.begin() as connection:
            assert jobs.try_again(connection, OTHER, NOW, letter.id) == 0  # another EHR's administrator
            assert jobs.try_again(connection, EHR, NOW, letter.id) == 1
    assert kept.given_up() == ()
    assert kept.take().attempts == 1


def test_an_attempt_that_was_put_back_does_not_count(kept):
    kept.ask()
    job = kept.take()
    with kept.begin() as connection:
        jobs.put_back(connection, job, NOW + SECOND)
    assert kept.take(NOW) is None
    assert kept.take(NOW + SECOND).attempts == 1


def test_an_ehr_that_asks_to_wait_is_left_alone_for_so_long_by_everybody(kept):
    kept.ask("Encounter/1")
    kept.ask("Encounter/2")
    kept.ask("Encounter/3", issuer=OTHER)
    with kept.begin() as connection:
        assert jobs.hold(connection, EHR, NOW, timedelta(seconds=30)) == NOW + timedelta(seconds=30)
    assert kept.take(NOW).issuer == OTHER
    assert kept.take(NOW + 29 * SECOND) is None
    assert kept.take(NOW + 30 * SECOND).issuer == EHR


def test_an_ehr_that_fails_as_a_whole_is_left_alone_ever_longer_until_it_answers(kept):
    with kept.begin() as connection:
        pauses = [jobs.hold(connection, EHR, NOW, None) - NOW for _ in range(8)]
        jobs.answers(connection, EHR)
        first_again = jobs.hold(connection, EHR, NOW, None) - NOW
    assert [pause.total_seconds() for pause in pauses] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert first_again.total_seconds() == 5


def test_the_queue_says_how_much_waits_and_for_how_long(kept):
    kept.ask("Encounter/1", due_at=NOW - timedelta(minutes=3))
    kept.ask("Encounter/2", due_at=NOW + timedelta(minutes=3))
    kept.ask("Encounter/3", due_at=NOW - timedelta(hours=9))
    kept.failed(kept.take(), for_good=True)
    with kept.begin() as connection:
        assert jobs.queue(connection, NOW, EHR) == jobs.Queue(2, 1, NOW - timedelta(minutes=3))
        assert jobs.queue(connection, NOW, OTHER) == jobs.Queue(0, 0, None)
        assert jobs.queue(connection, NOW).waiting == 2


def test_eight_workers_take_sixty_jobs_and_each_is_worked_once(kept):
    for number in range(60):
        kept.ask(f"Encounter/{number}")
    worked = []

    def work(_):
        empty = 0
        while empty < 3:
            job = kept.take()
            if job is None:
                empty += 1  # another was first, or nothing is left
                continue
            empty = 0
            worked.append(job.about)
            kept.done(job)

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(work, range(8)))
    while (job := kept.take()) is not None:  # what all of them were too late for
        worked.append(job.about)
        kept.done(job)
    assert sorted(worked) == sorted(f"Encounter/{number}" for number in range(60))
    assert kept.count() == 0


def test_twenty_who_ask_at_once_ask_for_one_job(kept):
    with ThreadPoolExecutor(20) as many:
        list(many.map(lambda _: kept.ask(), range(40)))
    assert kept.count() == 1
