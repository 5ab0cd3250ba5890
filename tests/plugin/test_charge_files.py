"""Files in a folder: what is taken for handed over, and what only for a folder that is not there."""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from quarterhour.fhir.charge_item import Charge, identifier_for
from quarterhour.fhir.errors import Unknown, Unreachable
from quarterhour.fhir.way import WritingSettings
from quarterhour.plugin import database, outbox
from quarterhour.plugin.charge_files import MARK, csv_files, dft_files
from quarterhour.plugin.dft import DftOverMllp
from quarterhour.plugin.outbox import State

NOW = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)
KNOWN = {"patient": "Patient/1", "encounter": "Encounter/1", "date_of_service": date(2026, 11, 20)}
CHARGE = Charge(
    identifier=identifier_for("https://ehr.example/fhir", code="97110", modifiers=("GP",), **KNOWN),
    **KNOWN,
    code="97110",
    units=2,
    modifiers=("GP",),
    services=("Procedure/1",),
    performers=("Practitioner/1",),
    enterer="Practitioner/1",
    entered_at=NOW,
    rationale="23 minutes make 2 units.",
)
WAYS = {"csv": csv_files, "dft-file": dft_files}


@pytest.fixture
def folder(tmp_path):
    """As the operator made it."""
    made = tmp_path / "charges"
    made.mkdir()
    (made / MARK).touch()
    return made


@pytest.fixture(params=WAYS)
def way(request, folder):
    return WAYS[request.param](WritingSettings(folder=str(folder)))


@pytest.fixture
def decided(here):
    with here.engine.begin() as connection:
        connection.execute(
            database.decision.insert().values(
                id="d", visit="v", revision=1, issuer="i", person="p", signed_at=NOW, sealed=b"x"
            )
        )
        outbox.intend(connection, here.vault, "d", (CHARGE,), NOW)
    return here


def send(here, way):
    outbox.send(
        outbox.Outbox(here.engine, here.vault, lambda: NOW), way, "d", who="Quarterhour", by_hand=True
    )
    with here.engine.begin() as connection:
        (row,) = outbox.charges_of(connection, here.vault, "d")
    return row


def killed_before_the_rename(here, way):
    """What is stored then: announced, and noted as being sent."""
    prepared = way.prepare((CHARGE,))
    with here.engine.begin() as connection:
        connection.execute(
            database.charge.update().values(
                state=State.SENDING,
                attempts=1,
                updated_at=NOW,
                due_at=NOW,
                prepared=here.vault.seal(prepared),
            )
        )
    return prepared[0]


def handed_over(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_charge_is_handed_over_once_and_stays_so_when_it_was_fetched(decided, way, folder):
    assert send(decided, way).state is State.CONFIRMED
    (name,) = handed_over(folder)
    assert way.find(CHARGE, (name,)).reference == name
    (folder / name).unlink()
    assert way.find(CHARGE, (name,)).reference == name


@pytest.mark.parametrize("changed", [{"status": "aborted"}, {"status": "planned", "suggested": True}])
def test_what_was_suggested_and_what_takes_it_back_is_never_handed_over_as_a_charge(
    decided, way, folder, changed
):
    sealed = decided.vault.seal(replace(CHARGE, **changed))
    with decided.engine.begin() as connection:
        connection.execute(database.charge.update().values(sealed=sealed))
    row = send(decided, way)
    assert row.state is State.REFUSED
    assert "can only be changed where it stands" in row.problem
    assert handed_over(folder) == []


def test_killed_before_the_rename_it_is_handed_over_afterwards(decided, way, folder):
    name = killed_before_the_rename(decided, way)
    assert way.find(CHARGE, (name,)) is None
    assert send(decided, way).state is State.CONFIRMED
    assert handed_over(folder) == [name]


@pytest.mark.parametrize("empty", [True, False], ids=["an empty mount point", "no folder at all"])
def test_killed_before_the_rename_and_then_not_mounted_nothing_is_concluded(decided, way, folder, empty):
    name = killed_before_the_rename(decided, way)
    folder.rename(away := folder.with_name("share"))
    if empty:
        folder.mkdir()
    row = send(decided, way)
    assert row.state is State.UNKNOWN
    assert "Tell your administrator" in row.problem
    if empty:
        assert list(folder.iterdir()) == []
        folder.rmdir()
    away.rename(folder)
    assert send(decided, way).state is State.CONFIRMED
    assert handed_over(folder) == [name]


def test_into_a_folder_without_its_mark_nothing_is_written(decided, way, folder):
    (folder / MARK).unlink()
    row = send(decided, way)
    assert (row.state, row.attempts) == (State.INTENDED, 0)
    assert MARK in row.problem
    assert list(folder.iterdir()) == []
    (folder / MARK).touch()
    assert send(decided, way).state is State.CONFIRMED


def test_what_was_not_announced_in_this_folder_is_not_written_into_it(way, folder):
    """As where it was unmounted between the two, and another one with a mark is there now."""
    (name,) = way.prepare((CHARGE,))
    (folder / f".{name}.part").unlink()
    with pytest.raises(Unreachable):
        way.write((CHARGE,), (name,))
    assert handed_over(folder) == []


def test_a_rename_that_fails_may_have_happened(decided, way, folder):
    name = killed_before_the_rename(decided, way)
    (folder / name).mkdir()  # nothing can be renamed over a folder
    with pytest.raises(Unknown):
        way.write((CHARGE,), (name,))


@pytest.mark.parametrize("files", WAYS.values(), ids=WAYS)
def test_where_the_site_took_the_folder_out_of_its_settings_charges_wait(
    decided, files, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MARK).touch()
    before = set(tmp_path.iterdir())
    row = send(decided, files(WritingSettings(way="ticket")))
    assert row.state is State.INTENDED
    assert "Ask your administrator to set `folder`" in row.problem
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("taken_out", ["host", "port"])
def test_where_the_site_took_the_interface_out_of_its_settings_charges_wait(decided, taken_out):
    """Without a host they would go to whatever listens on this machine."""
    settings = replace_setting(WritingSettings(host="127.0.0.1", port=9), taken_out)
    connected = []
    row = send(decided, DftOverMllp(settings, 0.1, lambda *_, **__: connected.append(True)))
    assert row.state is State.INTENDED
    assert "Ask your administrator to set `host` and `port`" in row.problem
    assert connected == []


def replace_setting(settings, name):
    kept = {each: getattr(settings, each) for each in ("host", "port") if each != name}
    return WritingSettings(**kept)
