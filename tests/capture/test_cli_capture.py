"""`quarterhour capture`: every visit of some days, once, with progress, an exit code and no names."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import captured
import pytest
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
        for scenario in sandbox.scenarios:
            if scenario.problem:  # those whose charts are read several times before they are believed
                visit = sandbox.store.get("Encounter", scenario.encounter).resource
                sandbox.store.put({**visit, "status": "in-progress"})
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


def test_killed_in_the_middle_the_same_command_goes_on_and_lists_each_visit_once(ehr, environment):
    settings = environment(rate=240)
    command = [sys.executable, "-c", "from quarterhour.plugin.cli import main; main()", "capture"]
    arguments = ["--issuer", ehr.fhir_url, *DAYS]
    first = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while (
        not Path(settings.database_url.removeprefix("sqlite:///")).exists()
        or len(ehr.requests("GET", "/fhir/Coverage")) < 2
    ):
        time.sleep(0.02)
    first.kill()
    first.wait()
    before = listed(settings)[1]
    assert before < len(ended(ehr))
    engine = database.connect(settings.database_url)
    with engine.begin() as connection:  # five minutes later
        connection.execute(database.lease.update().values(until=None))
    engine.dispose()
    looked = len(ehr.requests("GET", "/fhir/Encounter"))
    assert looked
    again = run(*arguments)
    assert again.exit_code == 0, again.output
    assert listed(settings)[1] == len(ended(ehr))


def test_a_polite_kill_ends_the_step_at_hand_and_gives_the_visit_back(ehr, environment):
    settings = environment(rate=240)
    ehr.faults.add(Fault("delay", method="GET", path="/fhir/Encounter/*", seconds=0.1, times=99))
    command = [sys.executable, "-c", "from quarterhour.plugin.cli import main; main()", "capture"]
    first = subprocess.Popen(
        [*command, "--issuer", ehr.fhir_url, *DAYS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while len(ehr.requests("GET", "/fhir/Coverage")) < 2:
        time.sleep(0.02)
    first.terminate()
    said, _ = first.communicate()
    assert (first.returncode, said.splitlines()[-1]) == (130, "Stopped. The same command goes on from here.")
    engine = database.connect(settings.database_url)
    with engine.begin() as connection:
        held = connection.scalar(select(func.count()).where(database.lease.c.until.is_not(None)))
    engine.dispose()
    assert held == 0
