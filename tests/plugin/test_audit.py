"""The trail: what was said comes back, and every edit, removal and move is found."""

from datetime import timedelta

import pytest
from click.testing import CliRunner
from sqlalchemy import delete, select, update

from quarterhour.plugin import audit, database
from quarterhour.plugin.cli_audit import audit as command

A = "https://a.example/fhir"


@pytest.fixture
def trail(here, now):
    """Five entries on two visits."""
    with here.engine.begin() as connection:
        for number in range(1, 6):
            audit.record(
                connection,
                here.vault,
                now=now + timedelta(minutes=number),
                action="signed",
                who=f"Practitioner/{number}",
                issuer=A if number < 4 else None,
                visit="v1" if number % 2 else "v2",
                what={"number": number},
            )
    return here


def broken_at(here):
    with here.engine.begin() as connection:
        return audit.broken_at(connection, here.vault)


def test_an_untouched_trail_is_whole(trail):
    assert broken_at(trail) is None


def test_an_empty_trail_is_whole(here):
    assert broken_at(here) is None


def test_the_trail_says_who_did_what_when_oldest_first_and_by_visit(trail, now):
    with trail.engine.begin() as connection:
        every = audit.entries(connection, trail.vault)
        of_visit = audit.entries(connection, trail.vault, "v2")
    assert [entry.number for entry in every] == [1, 2, 3, 4, 5]
    assert [entry.number for entry in of_visit] == [2, 4]
    assert (every[2].who, every[2].what, every[2].at) == (
        "Practitioner/3",
        {"number": 3},
        now + timedelta(minutes=3),
    )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("action", "launched"),
        ("visit", "v3"),
        ("visit", None),
        ("issuer", "https://b.example/fhir"),
        ("issuer", None),
        ("hash", "0" * 64),
    ],
)
def test_an_edited_entry_is_found(trail, column, value):
    with trail.engine.begin() as connection:
        connection.execute(update(database.audit).where(database.audit.c.number == 3).values({column: value}))
    assert broken_at(trail) == 3


def test_an_entry_of_no_ehr_cannot_be_given_to_one(trail):
    """As all are that were written before entries had an EHR."""
    with trail.engine.begin() as connection:
        connection.execute(update(database.audit).where(database.audit.c.number == 5).values(issuer=A))
    assert broken_at(trail) == 5


def test_a_changed_time_is_found(trail, now):
    with trail.engine.begin() as connection:
        later = {"at": now + timedelta(minutes=3, microseconds=1)}
        connection.execute(update(database.audit).where(database.audit.c.number == 3).values(later))
    assert broken_at(trail) == 3


def test_a_changed_statement_is_found_although_it_is_sealed_with_the_right_key(trail):
    with trail.engine.begin() as connection:
        forged = {"sealed": trail.vault.seal({"who": "Practitioner/9", "what": {"number": 3}})}
        connection.execute(update(database.audit).where(database.audit.c.number == 3).values(forged))
    assert broken_at(trail) == 3


@pytest.mark.parametrize("number", [1, 3])
def test_a_removed_entry_is_found(trail, number):
    with trail.engine.begin() as connection:
        connection.execute(delete(database.audit).where(database.audit.c.number == number))
    assert broken_at(trail) == number


def test_entries_that_changed_places_are_found(trail):
    table = database.audit
    with trail.engine.begin() as connection:
        for before, after in ((2, 99), (3, 2), (99, 3)):
            connection.execute(update(table).where(table.c.number == before).values(number=after))
    assert broken_at(trail) == 2


def test_whoever_writes_the_table_without_the_key_cannot_make_it_whole_again(trail, settings, keys):
    """The hash of each entry is keyed with the index key, which is itself sealed."""
    with trail.engine.begin() as connection:
        hashes = connection.execute(select(database.audit.c.hash)).scalars().all()
    assert len(set(hashes)) == 5
    trail.vault.use_index_key(b"another" * 4)
    assert broken_at(trail) == 1


def test_resealing_under_a_new_key_leaves_the_chain_whole(trail):
    with trail.engine.begin() as connection:
        for row in connection.execute(select(database.audit)).all():
            resealed = {"sealed": trail.vault.reseal(row.sealed)}
            connection.execute(
                update(database.audit).where(database.audit.c.number == row.number).values(resealed)
            )
    assert broken_at(trail) is None


def test_an_entry_stands_or_falls_with_what_it_tells_of(here, now):
    with here.engine.connect() as connection, connection.begin() as work:
        audit.record(connection, here.vault, now=now, action="signed", who="Practitioner/1", issuer=A)
        work.rollback()
    with here.engine.begin() as connection:
        assert audit.entries(connection, here.vault) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_the_command_says_whether_the_trail_is_whole_and_where_it_is_not(
    trail, settings, monkeypatch, damaged
):
    for name, value in settings().model_dump(exclude_unset=True).items():
        monkeypatch.setenv(f"QUARTERHOUR_{name.upper()}", str(value))
    monkeypatch.setenv("QUARTERHOUR_SECRET_KEYS", settings().secret_keys[0].get_secret_value())
    if damaged:
        with trail.engine.begin() as connection:
            connection.execute(delete(database.audit).where(database.audit.c.number == 4))
    result = CliRunner().invoke(command, ["verify"])
    assert (result.exit_code, result.output) == (
        (1, "Error: The trail is broken at entry 4.\n") if damaged else (0, "5 entries, unbroken.\n")
    )
