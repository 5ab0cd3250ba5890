"""What is stored, on both databases: durable, once, and carried over an upgrade and a restore."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from cryptography.fernet import Fernet
from fault_matrix import OUTS, some_charges, stored
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from quarterhour.plugin import audit, database, leases, outbox
from quarterhour.plugin.leases import LEASE, LeaseLost
from quarterhour.plugin.outbox import State
from quarterhour.plugin.vault import Vault

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def a_vault():
    vault = Vault((Fernet.generate_key().decode(),))
    vault.use_index_key(b"k" * 32)
    return vault


def test_instants_come_back_as_they_went_in(bench):
    decision = stored(bench, OUTS[0], some_charges(bench, 1))
    with bench.engine.begin() as connection:
        read = connection.scalar(
            select(database.decision.c.signed_at).where(database.decision.c.id == decision)
        )
    assert read.tzinfo is not None
    assert abs(read - bench.clock()) < timedelta(minutes=1)


def test_a_hundred_sign_offs_at_once_of_one_visit_leave_one_set_of_charges(bench):
    charges = some_charges(bench, 3)

    def sign(number):
        try:
            with bench.engine.begin() as connection:
                connection.execute(
                    database.decision.insert().values(
                        id=f"{charges[0].identifier[:8]}-{number}", visit=charges[0].identifier, revision=1,
                        issuer="i", person="p", signed_at=NOW, way="charge-item", sealed=b"",
                    )
                )  # fmt: skip
                outbox.intend(connection, bench.vault, f"{charges[0].identifier[:8]}-{number}", charges, NOW)
                audit.record(connection, bench.vault, now=NOW, action="signed", who="w", issuer=None, what={})
        except IntegrityError:
            return False
        return True

    with ThreadPoolExecutor(20) as clicks:
        assert sum(clicks.map(sign, range(100))) == 1
    with bench.engine.begin() as connection:
        table = database.charge
        found = connection.scalars(
            select(table.c.identifier).where(table.c.identifier.in_([each.identifier for each in charges]))
        ).all()
        assert sorted(found) == sorted(each.identifier for each in charges)
        assert audit.broken_at(connection, bench.vault) is None


def taken(engine, name, now):
    with engine.begin() as connection:
        return leases.take(connection, name, now)


def test_a_launch_under_way_is_taken_once_whoever_asks_for_it(bench):
    states = [f"{number:064}" for number in range(3)]
    with bench.engine.begin() as connection:
        for state in states:
            row = {"state": state, "sealed": state.encode(), "expires_at": NOW}
            connection.execute(database.pending.insert().values(**row))
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: database.take_pending(bench.engine, states[1]), range(24)))
    assert sorted(each for each in taken if each is not None) == [states[1].encode()]
    with bench.engine.begin() as connection:
        left = connection.scalars(select(database.pending.c.state).order_by(database.pending.c.state)).all()
    assert left == [states[0], states[2]]


def test_after_a_launch_was_taken_what_is_decided_waits_for_the_disk_again(tmp_path):
    engine = database.connect(f"sqlite:///{tmp_path / 'quarterhour.sqlite3'}")
    database.migrate(engine)
    assert database.take_pending(engine, "0" * 64) is None
    with engine.connect() as connection:
        full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == full
    engine.dispose()


def test_a_lease_is_one_writer_s_at_a_time_and_the_next_one_fences_it_off(bench):
    first = taken(bench.engine, "an-encounter", NOW)
    assert first is not None
    assert taken(bench.engine, "an-encounter", NOW + LEASE) is None  # to the last moment
    second = taken(bench.engine, "an-encounter", NOW + LEASE + timedelta(seconds=1))
    assert (second.fence, second.owner != first.owner) == (first.fence + 1, True)
    with pytest.raises(LeaseLost), bench.engine.begin() as connection:
        leases.renew(connection, first, NOW)


def test_twenty_take_one_lease_at_once_and_one_gets_it(bench):
    with ThreadPoolExecutor(20) as takers:
        found = list(takers.map(lambda _: taken(bench.engine, "contested", NOW), range(20)))
    assert sum(lease is not None for lease in found) == 1


def test_who_lost_the_lease_settles_nothing(bench):
    """A process that slept through its lease finds another's fence, and its answer is not recorded."""
    charges = some_charges(bench, 1)
    decision = stored(bench, OUTS[0], charges)
    encounter = outbox.encounter_key(bench.vault, "https://ehr.example/fhir", charges[0].encounter)
    lease = taken(bench.engine, encounter, bench.clock())
    bench.gate.jump(130)
    assert taken(bench.engine, encounter, bench.clock()) is not None
    writer = outbox._Writer(bench.outbox(), None, decision, "w", lease)
    with pytest.raises(LeaseLost):
        writer._settle(bench.rows(decision), State.CONFIRMED)
    assert [row.state for row in bench.rows(decision)] == [State.INTENDED]
    bench.gate.jump(130)


def _config(connection):
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def test_an_upgrade_carries_charges_that_are_still_in_the_outbox_over(server_of, tmp_path):
    engine = database.connect(server_of(tmp_path))
    vault = a_vault()
    with engine.begin() as connection:
        command.upgrade(_config(connection), "0002")
        connection.execute(
            text(
                "INSERT INTO decision (id, visit, revision, issuer, person, signed_at, sealed) "
                "VALUES ('d', 'v', 1, 'i', 'p', '2026-11-20 12:00:00', :sealed)"
            ),
            {"sealed": vault.seal({})},
        )
        # As the version before wrote it: without the fields that came since.
        old = {
            "identifier": "c1", "patient": "Patient/p", "encounter": "Encounter/e", "date_of_service": "2026-11-20",
            "code": "97110", "units": 2, "modifiers": ["GP"], "services": ["Procedure/1"],
            "performers": ["Practitioner/t"], "enterer": "Practitioner/t",
            "entered_at": "2026-11-20T12:00:00Z", "rationale": "r",
        }  # fmt: skip
        for state in ("intended", "sending", "unknown"):
            connection.execute(
                text(
                    "INSERT INTO charge (identifier, decision, position, state, sealed, attempts, updated_at) "
                    "VALUES (:id, 'd', 0, :state, :sealed, 1, '2026-11-20 12:00:00')"
                ),
                {"id": state, "state": state, "sealed": vault.seal({**old, "identifier": state})},
            )
    database.migrate(engine)
    with engine.begin() as connection:
        rows = outbox.charges_of(connection, vault, "d")
        assert {(row.charge.identifier, row.state.value) for row in rows} == {
            ("intended", "intended"), ("sending", "sending"), ("unknown", "unknown")
        }  # fmt: skip
        way = connection.scalar(select(database.decision.c.way))
        assert way == "charge-item"
        command.downgrade(_config(connection), "0002")
        assert "lease" not in inspect(connection).get_table_names()
    database.migrate(engine)  # and up again, after a rollback
    with engine.begin() as connection:
        assert len(outbox.charges_of(connection, vault, "d")) == 3
    engine.dispose()


def test_the_tables_are_those_that_the_migrations_make(server_of, tmp_path):
    engine = database.connect(server_of(tmp_path))
    database.migrate(engine)
    with engine.begin() as connection:
        made = inspect(connection)
        for table in database.metadata.sorted_tables:
            assert {column["name"] for column in made.get_columns(table.name)} == set(table.columns.keys())
            indexes = {index["name"]: index["column_names"] for index in made.get_indexes(table.name)}
            for index in table.indexes:
                assert indexes[index.name] == list(index.columns.keys())
    engine.dispose()


def test_two_processes_that_start_after_an_upgrade_do_not_meet_in_it(server_of, tmp_path):
    url = server_of(tmp_path)
    engines = [database.connect(url) for _ in range(2)]
    with engines[0].begin() as connection:
        command.upgrade(_config(connection), "0008")
    with ThreadPoolExecutor(1) as second:
        with engines[0].begin() as connection:
            if engines[0].dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(database._MIGRATING)))
            # The second process begins while the first is at it.
            other = second.submit(database.migrate, engines[1])
            time.sleep(0.3)
            assert not other.done()
            command.upgrade(_config(connection), "head")
        other.result()
    for engine in engines:
        engine.dispose()


def test_what_was_settled_by_hand_before_is_no_longer_said_to_be_acknowledged(server_of, tmp_path):
    engine = database.connect(server_of(tmp_path))
    with engine.begin() as connection:
        command.upgrade(_config(connection), "0009")
        connection.execute(
            text(
                "INSERT INTO decision (id, visit, revision, issuer, person, signed_at, sealed, way) "
                "VALUES ('d', 'v', 1, 'i', 'p', '2026-11-20 12:00:00', :sealed, 'dft')"
            ),
            {"sealed": b""},
        )
        for id_, reference in (("by-message", b"message 1"), ("by-a-person", None)):
            connection.execute(
                text(
                    "INSERT INTO charge (identifier, decision, position, state, how, sealed, reference, attempts, "
                    "updated_at) VALUES (:id, 'd', 0, 'confirmed', 'acknowledged', :sealed, :reference, 1, "
                    "'2026-11-20 12:00:00')"
                ),
                {"id": id_, "sealed": b"", "reference": reference},
            )
    database.migrate(engine)
    with engine.begin() as connection:
        table = database.charge
        how = {row.identifier: row.how for row in connection.execute(select(table.c.identifier, table.c.how))}
        assert how == {"by-message": "acknowledged", "by-a-person": "by-hand"}
        command.downgrade(_config(connection), "0009")
        assert set(connection.scalars(text("SELECT how FROM charge"))) == {"acknowledged"}
    engine.dispose()


def test_a_copy_of_sqlite_taken_while_it_is_written_is_whole(tmp_path):
    url = f"sqlite:///{tmp_path / 'live.sqlite3'}"
    vault = a_vault()
    engine = database.open_database(url, vault)
    for number in range(5):
        with engine.begin() as connection:
            audit.record(connection, vault, now=NOW, action=f"before-{number}", who="w", issuer=None)
    # As docs/operations.md says: sqlite3's own backup, never a copy of the file alone.
    with (
        sqlite3.connect(tmp_path / "live.sqlite3") as source,
        sqlite3.connect(tmp_path / "kept.sqlite3") as kept,
    ):
        source.backup(kept)
    source.close()
    kept.close()
    engine.dispose()
    restored = database.open_database(f"sqlite:///{tmp_path / 'kept.sqlite3'}", vault)
    with restored.begin() as connection:
        assert len(audit.entries(connection, vault)) == 5
        assert audit.broken_at(connection, vault) is None
    restored.dispose()
