"""A backup with charges on their way, and what a restore makes of them: SQLite's .backup, pg_dump and pg_restore."""

import sqlite3
import subprocess
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import databases
import pytest
from click.testing import CliRunner
from fault_matrix import OUTS, _clear, _count, job_for, some_charges, stored
from sqlalchemy.engine import make_url
from writer_process import Steps, work

from quarterhour.plugin import audit, outbox
from quarterhour.plugin.cli import main
from quarterhour.plugin.database import connect
from quarterhour.plugin.outbox import Outbox, Restored, State

BY_WAY = {out.way: out for out in OUTS if out.peer != "complete" and not out.over}


def backed_up(url: str, folder: Path) -> Path:
    """As docs/operations.md says, while everything runs."""
    kept = folder / "kept"
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(address.database)) as live, closing(sqlite3.connect(kept)) as copy:
            live.backup(copy)  # what the shell's .backup calls
    else:
        command = [tool("pg_dump"), "-Fc", "--file", kept, *of_server(address)]
        subprocess.run([*command, address.database], check=True)
    return kept


def restored_from(kept: Path, url: str, folder: Path) -> str:
    """In a database of its own, as on a new machine; its address."""
    address = make_url(url)
    if address.get_backend_name() == "sqlite":
        file = folder / "restored.sqlite3"
        file.write_bytes(kept.read_bytes())
        return f"sqlite:///{file}"
    fresh = databases.new_database(address.query["host"])
    command = [tool("pg_restore"), "--no-owner", "--exit-on-error", *of_server(address)]
    subprocess.run([*command, "--dbname", make_url(fresh).database, kept], check=True)
    return fresh


def tool(name: str) -> Path:
    """Of the same PostgreSQL that the tests start: the PATH may have links to some of it only."""
    return (databases.binaries() / "initdb").resolve().parent / name


def of_server(address) -> list[str]:
    return ["--host", address.query["host"], "--username", address.username]


@contextmanager
def on(bench, url):
    """The same bench with another database."""
    engine = connect(url)
    try:
        yield replace(bench, url=url, engine=engine)
    finally:
        engine.dispose()


def send(bench, out, decision, *, by_hand=False):
    work(replace(job_for(bench, out, decision), by_hand=by_hand), Steps())


@pytest.fixture
def signed_and_sent_since(bench, tmp_path):
    """Charges signed, backed up, then sent; the bench on what the backup gives, and how many the other side has."""

    @contextmanager
    def made(way):
        out = BY_WAY[way]
        _clear(bench)
        charges = some_charges(bench, 2)
        decision = stored(bench, out, charges)
        kept = backed_up(bench.url, tmp_path)
        send(bench, out, decision)
        with on(bench, restored_from(kept, bench.url, tmp_path)) as again:
            assert {row.state for row in again.rows(decision)} == {State.INTENDED}

            def there():
                return [_count(again, out, charge) for charge in charges]

            yield again, out, decision, there

    return made


def states(bench, decision):
    return {row.state for row in bench.rows(decision)}


@pytest.mark.parametrize("way", ["charge-item", "transaction", "claim"])
def test_what_was_sent_after_the_backup_is_found_and_not_sent_again(signed_and_sent_since, way):
    with signed_and_sent_since(way) as (bench, out, decision, there):
        done = outbox.restored(Outbox(bench.engine, bench.vault, bench.clock), "An operator")
        assert done.looked_for >= 2
        send(bench, out, decision)
        assert states(bench, decision) == {State.CONFIRMED}
        assert there() == [1, 1]


def test_without_that_word_an_ehr_without_conditional_create_would_have_them_twice(signed_and_sent_since):
    """Why docs/operations.md says to give it before anything is started."""
    with signed_and_sent_since("charge-item") as (bench, out, decision, there):
        send(bench, out, decision)
        assert there() == [2, 2]


@pytest.mark.parametrize("way", ["oracle", "dft"])
def test_what_cannot_be_asked_for_is_left_to_a_person_and_not_sent_again(signed_and_sent_since, way):
    with signed_and_sent_since(way) as (bench, out, decision, there):
        here = Outbox(bench.engine, bench.vault, bench.clock)
        assert outbox.restored(here, "An operator").for_a_person >= 2
        for _ in range(2):
            send(bench, out, decision, by_hand=True)
            bench.gate.jump(130)
        assert states(bench, decision) == {State.UNKNOWN}
        assert all("restored from a backup" in row.problem for row in bench.rows(decision))
        assert there() == [1, 1]
        for row in bench.rows(decision):
            assert outbox.settle_by_hand(
                here, row.charge.identifier, arrived=True, who="An operator", why="Billing has it."
            )
        assert states(bench, decision) == {State.CONFIRMED}


@pytest.mark.parametrize("way", ["dft-file", "csv"])
def test_a_file_that_was_fetched_since_is_left_to_a_person(signed_and_sent_since, way):
    with signed_and_sent_since(way) as (bench, out, decision, _there):
        for path in bench.folder.iterdir():  # whatever fetches files was here
            path.unlink()
        outbox.restored(Outbox(bench.engine, bench.vault, bench.clock), "An operator")
        send(bench, out, decision, by_hand=True)
        assert states(bench, decision) == {State.UNKNOWN}
        assert list(bench.folder.iterdir()) == []


@pytest.mark.parametrize("way", ["charge-item", "claim", "transaction"])
def test_what_was_never_sent_is_sent_once_after_the_restore(bench, tmp_path, way):
    out = BY_WAY[way]
    _clear(bench)
    charges = some_charges(bench, 2)
    decision = stored(bench, out, charges)
    kept = backed_up(bench.url, tmp_path)
    with on(bench, restored_from(kept, bench.url, tmp_path)) as again:
        outbox.restored(Outbox(again.engine, again.vault, again.clock), "An operator")
        for _ in range(2):
            send(again, out, decision)
        assert states(again, decision) == {State.CONFIRMED}
        assert [_count(again, out, charge) for charge in charges] == [1, 1]


def test_a_ticket_stays_as_it_is_for_nothing_of_it_is_sent(bench, tmp_path):
    out = BY_WAY["ticket"]
    decision = stored(bench, out, some_charges(bench, 1))
    with on(bench, restored_from(backed_up(bench.url, tmp_path), bench.url, tmp_path)) as again:
        outbox.restored(Outbox(again.engine, again.vault, again.clock), "An operator")
        assert states(again, decision) == {State.INTENDED}


def test_the_trail_of_a_backup_is_whole_and_says_that_it_was_restored(bench, tmp_path):
    stored(bench, OUTS[0], some_charges(bench, 1))
    with on(bench, restored_from(backed_up(bench.url, tmp_path), bench.url, tmp_path)) as again:
        done = outbox.restored(Outbox(again.engine, again.vault, again.clock), "An operator")
        with again.engine.begin() as connection:
            assert audit.broken_at(connection, again.vault) is None
            *_, entry = audit.entries(connection, again.vault)
        assert (entry.action, entry.who) == ("restored", "An operator")
        assert Restored(**entry.what) == done


def test_the_command_says_how_many_are_looked_for_and_how_many_wait_for_a_person(
    here, settings, monkeypatch, bench
):
    for name, value in settings().model_dump(exclude_unset=True).items():
        monkeypatch.setenv(f"QUARTERHOUR_{name.upper()}", str(value))
    monkeypatch.setenv("QUARTERHOUR_SECRET_KEYS", settings().secret_keys[0].get_secret_value())
    mine = replace(bench, engine=here.engine, vault=here.vault)
    stored(mine, BY_WAY["charge-item"], some_charges(bench, 2))
    stored(mine, BY_WAY["dft"], some_charges(bench, 1))
    told = CliRunner().invoke(main, ["outbox", "restored", "--who", "An operator"])
    assert told.output.startswith("2 charges will be looked for before they are sent; 1 wait for a person")
    assert told.exit_code == 0
