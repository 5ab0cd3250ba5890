"""The tables as migrations make them, and what they refuse."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, StatementError

from quarterhour.plugin import database
from quarterhour.plugin.database import open_database
from quarterhour.plugin.vault import Vault


def test_the_migrations_make_the_tables_that_the_code_expects(here):
    with here.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, database.metadata) == []


def test_bringing_up_to_date_a_second_time_keeps_everything(here, settings, now):
    with here.engine.begin() as connection:
        connection.execute(_pending(now))
    again = open_database(settings().database_url, here.vault)
    with again.begin() as connection:
        assert connection.execute(select(database.pending.c.state)).scalars().all() == ["s"]
    again.dispose()


def test_a_time_without_a_zone_is_refused_rather_than_guessed(here):
    with here.engine.begin() as connection, pytest.raises(StatementError, match="an instant needs a zone"):
        connection.execute(_pending(datetime(2026, 11, 20, 12, 0)))  # noqa: DTZ001 - that is the point


def test_a_time_comes_back_as_the_same_instant_in_utc(here):
    boston = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
    with here.engine.begin() as connection:
        connection.execute(_pending(boston))
        kept = connection.scalar(select(database.pending.c.expires_at))
    assert kept == boston
    assert kept.tzinfo is UTC


def test_times_of_different_zones_compare_as_instants(here, now):
    later = (now + timedelta(minutes=1)).astimezone(timezone(timedelta(hours=-11)))
    with here.engine.begin() as connection:
        connection.execute(_pending(later))
        before = select(database.pending.c.state).where(database.pending.c.expires_at < now)
        assert connection.execute(before).all() == []


def test_a_visit_is_decided_once(here, now):
    with here.engine.begin() as connection:
        connection.execute(_decision("one", now))
    with pytest.raises(IntegrityError), here.engine.begin() as connection:
        connection.execute(_decision("other", now))


def test_a_charge_belongs_to_a_decision(here, now):
    with pytest.raises(IntegrityError), here.engine.begin() as connection:
        connection.execute(
            database.charge.insert().values(
                identifier="i",
                decision="none",
                position=0,
                state="intended",
                sealed=b"",
                attempts=0,
                updated_at=now,
            )
        )


def test_eight_processes_that_start_at_once_agree_on_one_index_key(keys, tmp_path):
    url = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    open_database(url, Vault(keys[:1])).dispose()  # the tables; alembic is not meant to race

    def started(_):
        vault = Vault(keys[:1])
        engine = open_database(url, vault)
        engine.dispose()
        return vault.index("visit")

    with ThreadPoolExecutor(8) as processes:
        assert len(set(processes.map(started, range(8)))) == 1


def _pending(expires_at):
    return database.pending.insert().values(state="s", sealed=b"x", expires_at=expires_at)


def _decision(name, now):
    return database.decision.insert().values(
        id=name, visit="v", revision=1, issuer="i", person="p", signed_at=now, sealed=b"x"
    )
