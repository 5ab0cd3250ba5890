"""What sign-off stores in one go, on both databases, and that nothing of it can be edited unseen."""

import threading
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from fault_matrix import _clear, some_charges
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from quarterhour.plugin import audit, database, outbox, sign_off, suggested


@pytest.fixture
def signed(bench):
    """Stores a decision with two charges; its row and its charges."""

    def store(visit=None, **changed):
        _clear(bench)
        charges = some_charges(bench, 2)
        row = {
            "id": uuid.uuid4().hex,
            "visit": visit or uuid.uuid4().hex,
            "revision": 1,
            "issuer": "https://ehr.example/fhir",
            "person": "p",
            "signed_at": bench.clock(),
            "way": "charge-item",
            "replaces": None,
        } | changed
        made = sign_off.made_ready(bench.vault, row, {"suggestion": "{}"}, charges, who="Practitioner/t1")
        with bench.engine.begin() as connection:
            sign_off.store(connection, bench.vault, made)
        return row, charges

    return store


def broken_at(bench):
    with bench.engine.begin() as connection:
        return audit.broken_at(connection, bench.vault)


def last_number(bench):
    with bench.engine.begin() as connection:
        return int(audit.head(connection).partition(":")[0])


def count(bench, table, **where):
    query = select(func.count()).select_from(table)
    for name, value in where.items():
        query = query.where(table.c[name] == value)
    with bench.engine.begin() as connection:
        return connection.scalar(query)


def edit(bench, statement):
    with bench.engine.begin() as connection:
        connection.execute(statement)


@pytest.fixture(autouse=True)
def _leaves_the_trail_whole(bench):
    """The database is shared: whatever a test edited it puts back."""
    yield
    assert broken_at(bench) is None


def test_a_decision_is_stored_with_its_charges_and_one_entry_that_refers_to_it(bench, signed):
    row, charges = signed()
    assert count(bench, database.charge, decision=row["id"]) == 2
    with bench.engine.begin() as connection:
        (entry,) = audit.entries(connection, bench.vault, row["visit"])
    assert (entry.action, entry.who, entry.at) == ("signed", "Practitioner/t1", row["signed_at"])
    assert entry.what["decision"] == row["id"]
    assert set(entry.what["charges"]) == {charge.identifier for charge in charges}
    assert "suggestion" not in entry.what


def test_a_second_decision_of_the_same_revision_stores_nothing_at_all(bench, signed):
    row, _ = signed()
    before = last_number(bench)
    with pytest.raises(IntegrityError):
        signed(visit=row["visit"])
    assert count(bench, database.decision, visit=row["visit"]) == 1
    assert last_number(bench) == before
    assert broken_at(bench) is None


def test_a_correction_s_entry_names_what_it_replaces(bench, signed):
    row, _ = signed()
    later, _ = signed(visit=row["visit"], revision=2, replaces=row["id"])
    with bench.engine.begin() as connection:
        _, entry = audit.entries(connection, bench.vault, row["visit"])
    assert (entry.action, entry.what["replaces"], entry.what["decision"]) == (
        "corrected", row["id"], later["id"]
    )  # fmt: skip


def test_an_edited_decision_is_found_although_it_is_sealed_with_the_right_key(bench, signed):
    row, _ = signed()
    number = last_number(bench)
    table = database.decision
    one = table.c.id == row["id"]
    with bench.engine.begin() as connection:
        kept = connection.scalar(select(table.c.sealed).where(one))
    edit(bench, update(table).where(one).values(sealed=bench.vault.seal({"suggestion": "{} "})))
    signed()
    assert broken_at(bench) == number
    edit(bench, update(table).where(one).values(sealed=bench.vault.reseal(kept)))
    assert broken_at(bench) is None  # what is said counts, not how it is sealed


@pytest.mark.parametrize("what", ["units", "gone", "garbage"])
def test_an_edited_or_removed_charge_is_found(bench, signed, what):
    _row, (charge, _) = signed()
    table = database.charge
    one = table.c.identifier == charge.identifier
    with bench.engine.begin() as connection:
        kept = dict(connection.execute(select(table).where(one)).one()._mapping)
    if what == "gone":
        edit(bench, delete(table).where(one))
    else:
        forged = charge.to_json().replace(b'"units":1', b'"units":9')
        sealed = bench.vault.seal_bytes(forged) if what == "units" else b"garbage"
        edit(bench, update(table).where(one).values(sealed=sealed))
    assert broken_at(bench) == last_number(bench)
    edit(bench, delete(table).where(one))
    edit(bench, table.insert().values(kept))


def test_what_becomes_of_a_charge_is_no_edit_of_what_was_signed(bench, signed):
    row, (charge, _) = signed()
    edit(
        bench,
        update(database.charge)
        .where(database.charge.c.identifier == charge.identifier)
        .values(state="confirmed", attempts=3, due_at=bench.clock() + timedelta(days=1)),
    )
    assert broken_at(bench) is None
    assert row


def test_a_sign_off_waits_for_a_suggestion_that_is_just_being_stored_and_takes_it_over(bench):
    visit, before, after = (uuid.uuid4().hex for _ in range(3))
    (charge,) = some_charges(bench, 1)
    decided = {"visit": visit, "issuer": "i", "person": "p", "signed_at": bench.clock(), "way": "charge-item"}
    signed = threading.Event()

    def sign():
        with bench.engine.begin() as connection:
            suggested.hold(connection, visit)
            assert suggested.stands(connection, visit)
            connection.execute(
                database.decision.insert().values(id=after, revision=1, sealed=b"x", **decided)
            )
            suggested.take_over(connection, bench, visit, after, (charge,), "Practitioner/t1", bench.clock())
        signed.set()

    signing = threading.Thread(target=sign)
    with bench.engine.begin() as connection:
        suggested.hold(connection, visit)
        connection.execute(database.decision.insert().values(id=before, revision=0, sealed=b"x", **decided))
        planned = replace(charge, status="planned", suggested=True)
        outbox.intend(connection, bench.vault, before, (planned,), bench.clock())
        signing.start()
        assert not signed.wait(0.1)
    signing.join(10)
    assert signed.is_set()
    assert bench.rows(before) == ()
    (row,) = bench.rows(after)
    assert (row.charge.status, row.state, row.attempts) == ("billable", outbox.State.INTENDED, 0)
