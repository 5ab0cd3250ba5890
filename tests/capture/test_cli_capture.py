"""`quarterhour capture`: every visit of some days, once, with progress, an exit code and no names."""

import os
import signal
import time
from datetime import UTC, datetime, timedelta

import captured
import pytest
from capture_process import Command, is_alive
from click.testing import CliRunner
from sqlalchemy import func, select

from quarterhour.plugin import database
from quarterhour.plugin.cli import main
from quarterhour.sandbox.ehr import running_sandbox
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.quirks import Quirks

TODAY = datetime.now(UTC).date()
DAYS = ("--since", str(TODAY - timedelta(days=30)), "--until", str(TODAY))


@pytest.fixture
def ehr():
    """On the wall clock, as the command is."""
    with running_sandbox(clients=captured.clients(), quirks=Quirks(page_size=5)) as sandbox:
        # A dozen, without those whose charts are read several times before they are believed.
        kept = [scenario.encounter for scenario in sandbox.scenarios if not scenario.problem][:12]
        for filed in sandbox.store.all("Encounter"):
            if filed.resource["id"] not in kept:
                sandbox.store.remove("Encounter", filed.resource["id"])
        yield sandbox


@pytest.fixture
def environment(ehr, tmp_path, monkeypatch):
    def set_up(**tables):
        settings = captured.settings_in(tmp_path, ehr.base_url, **tables)
        known = {
            "PUBLIC_URL": settings.public_url,
            "ISSUERS_FILE": str(settings.issuers_file),
            "SECRET_KEYS": settings.secret_keys[0].get_secret_value(),
            "DATABASE_URL": settings.database_url,
        }
        for name, value in known.items():
            monkeypatch.setenv(f"QUARTERHOUR_{name}", value)
        return settings

    return set_up


def run(*arguments):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        return CliRunner().invoke(main, ["capture", *arguments])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def listed(settings):
    """How many visits are on the worklist, and of how many encounters."""
    table = database.known_visit
    engine = database.connect(settings.database_url)
    with engine.begin() as connection:
        row = connection.execute(
            select(func.count(), func.count(table.c.encounter.distinct())).select_from(table)
        ).one()
    engine.dispose()
    return tuple(row)


def ended(ehr, days=30):
    since = str(TODAY - timedelta(days=days))
    return [
        filed.resource
        for filed in ehr.store.all("Encounter")
        if filed.resource["status"] == "finished"
        and since <= filed.resource["period"]["start"][:10] <= str(TODAY)
    ]


def test_every_visit_of_the_days_is_on_the_worklist_once_and_nobody_is_named(ehr, environment):
    settings = environment()
    done = run("--issuer", ehr.fhir_url, *DAYS)
    assert done.exit_code == 0, done.output
    visits, encounters = listed(settings)
    assert encounters == len(ended(ehr))
    assert visits >= encounters
    for name in ("Adams", "pat-adams", "enc-cms-ex1", "100001"):
        assert name not in done.output + done.stderr


def test_only_the_days_that_were_asked_for_are_read(ehr, environment):
    settings = environment()
    day = ended(ehr)[0]["period"]["start"][:10]
    done = run("--issuer", ehr.fhir_url, "--since", day, "--until", day)
    of_day = [each for each in ended(ehr) if each["period"]["start"][:10] == day]
    assert done.output.startswith(f"Looking for the visits of {day} to {day}.")
    assert listed(settings)[1] == len(of_day)


def test_what_cannot_be_read_is_told_by_the_exit_code(ehr, environment):
    environment()
    visit = ended(ehr)[0]
    day = visit["period"]["start"][:10]
    ehr.faults.add(Fault("status", method="GET", path=f"/fhir/Encounter/{visit['id']}", status=403, times=9))
    done = run("--issuer", ehr.fhir_url, "--since", day, "--until", day)
    assert done.exit_code == 3
    assert "1 could not be read. They are on the worklist with the reason" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--issuer", "https://nobody.example/fhir", *DAYS), "is not known here"),
        (
            ("--issuer", "{iss}", "--since", "2026-11-02", "--until", "2026-11-01"),
            "--until lies before --since",
        ),
        (("--issuer", "{iss}", "--since", "yesterday"), "does not match the format"),
        (("--issuer", "{iss}"), "Missing option"),
    ],
)
def test_what_cannot_begin_says_why(ehr, environment, arguments, says):
    environment()
    done = run(*(each.format(iss=ehr.fhir_url) for each in arguments))
    assert done.exit_code in {1, 2}
    assert says in done.output
    assert ehr.requests() == []


@pytest.fixture
def started(helper, environment, tmp_path):
    """The command in a process of its own, once it has read two visits: settings, and what was started."""

    def start(ehr, *arguments):
        settings = environment(rate=240)
        names = ("PUBLIC_URL", "ISSUERS_FILE", "SECRET_KEYS", "DATABASE_URL")
        known = {f"QUARTERHOUR_{name}": os.environ[f"QUARTERHOUR_{name}"] for name in names}
        command = Command(("capture", *arguments), known, tmp_path / "said")
        pid = helper.start(command)
        while len(ehr.requests("GET", "/fhir/Coverage")) < 2:
            time.sleep(0.01)
        return settings, command, pid

    return start


def held(settings):
    """How many leases are held; and gives them back, as five minutes would."""
    engine = database.connect(settings.database_url)
    with engine.begin() as connection:
        count = connection.execute(
            database.lease.update().where(database.lease.c.until.is_not(None)).values(until=None)
        ).rowcount
    engine.dispose()
    return count


def test_killed_in_the_middle_the_same_command_goes_on_and_lists_each_visit_once(ehr, started):
    settings, _command, pid = started(ehr, "--issuer", ehr.fhir_url, *DAYS)
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.01)
    assert listed(settings)[1] < len(ended(ehr))
    held(settings)
    issuers = settings.issuers_file
    issuers.write_text(issuers.read_text().replace("visits_per_minute = 240", "visits_per_minute = 100000"))
    again = run("--issuer", ehr.fhir_url, *DAYS)
    assert again.exit_code == 0, again.output
    assert listed(settings)[1] == len(ended(ehr))


def test_a_polite_kill_ends_the_step_at_hand_and_gives_the_visit_back(ehr, started):
    settings, command, pid = started(ehr, "--issuer", ehr.fhir_url, *DAYS)
    os.kill(pid, signal.SIGTERM)
    while is_alive(pid):
        time.sleep(0.01)
    assert command.code.read_text() == "130"
    assert command.said.read_text().splitlines()[-1] == "Stopped. The same command goes on from here."
    assert held(settings) == 0
