"""What calls of CDS services leave in the database, and what is counted of it, on both kinds."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select

from quarterhour.launch.cds_client import Caller
from quarterhour.launch.issuers import CdsClient
from quarterhour.plugin import cds, database, jobs
from quarterhour.plugin.cds_feedback import overridden, take_feedback
from quarterhour.plugin.health import problems
from quarterhour.plugin.installation import install
from quarterhour.plugin.jobs import Kind
from quarterhour.plugin.metrics import text_of


@pytest.fixture
def here(server_of, settings, tmp_path, now):
    with closing(install(settings(database_url=server_of(tmp_path)), lambda: now)) as opened:
        yield opened


def caller(here, now, jti="one"):
    issuer = next(iter(here.issuers))
    client = CdsClient(iss="https://ehr.example", jku="https://ehr.example/jwks")
    return Caller(issuer, client, jti, now + timedelta(minutes=5))


def test_of_many_calls_with_one_token_at_a_time_one_is_the_first(here, now):
    with ThreadPoolExecutor(8) as calls:
        first = list(calls.map(lambda _: cds.first_use(here, caller(here, now)), range(24)))
    assert sorted(first) == [False] * 23 + [True]
    assert cds.first_use(here, caller(here, now, "another"))


def test_what_has_expired_is_cleared_away(here, now):
    with here.engine.begin() as connection:
        connection.execute(insert(database.cds_token).values(jti="old", until=now - timedelta(seconds=1)))
    cds.first_use(here, caller(here, now))
    with here.engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(database.cds_token)) == 1


def test_feedback_is_kept_and_counted(here, now):
    issuer = next(iter(here.issuers))
    rows = [
        {"card": card, "finding": finding, "issuer": issuer.iss, "service": "s", "given_at": now}
        for card in ("a", "b")
        for finding in ("kx-threshold", "unreviewed-units")
    ]
    with here.engine.begin() as connection:
        connection.execute(insert(database.cds_card), rows)
    told = {"feedback": [{"card": "a", "outcome": "overridden"}]}
    assert take_feedback(here, caller(here, now), "s", json.dumps(told).encode()) == 1
    assert {(one.finding, one.given, one.overridden) for one in overridden(here)} == {
        ("kx-threshold", 2, 1),
        ("unreviewed-units", 2, 1),
    }
    assert b'quarterhour_cds_cards{finding="kx-threshold",outcome="unheard"} 1.0' in text_of(
        here.metrics, here.engine, now
    )


def test_queues_are_counted_by_kind_with_the_age_of_the_oldest(here, now):
    with here.engine.begin() as connection:
        for number, ago in enumerate((30, 90)):
            due_at = now - timedelta(seconds=ago)
            jobs.ask(
                connection, here.vault, Kind.CAPTURE, "https://ehr.example", f"Encounter/{number}", due_at
            )
    lines = text_of(here.metrics, here.engine, now).decode().splitlines()
    assert 'quarterhour_jobs{kind="capture",state="waiting"} 2.0' in lines
    assert 'quarterhour_jobs_oldest_seconds{kind="capture"} 90.0' in lines
    assert 'quarterhour_jobs{kind="look",state="given-up"} 0.0' in lines


def test_it_is_ready(here):
    assert problems(here) == ()
