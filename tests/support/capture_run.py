"""A crowd of visits captured from a sandbox that fails at random, by workers that are killed at random."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import captured
import requests
from capture_process import Clock, Helper, Told, Workers
from sqlalchemy import func, or_, select

from quarterhour.plugin import database, jobs
from quarterhour.plugin.installation import Installation, install
from quarterhour.plugin.jobs import Kind
from quarterhour.plugin.outbox import encounter_key
from quarterhour.plugin.worklist import Standing, Summary
from quarterhour.sandbox.ehr import CLINIC_ZONE, Sandbox, running_sandbox
from quarterhour.sandbox.faults import Fault
from quarterhour.sandbox.store import Resource
from quarterhour.sandbox.synthetic import crowd


def faults(read_timeout: float) -> tuple[Fault, ...]:
    """D's matrix, as far as it applies to what is read (tests/support/fault_matrix.py)."""
    late = read_timeout * 1.25
    return (
        Fault("delay", seconds=late),
        Fault("delay", seconds=late, after=True),
        *_FAULTS,
    )


_FAULTS = (
    Fault("drop"),
    Fault("drop", after=True),
    Fault("status", status=409),
    Fault("status", status=412),
    Fault("status", status=422),
    Fault("status", status=429, retry_after="1"),
    Fault("status", status=500),
    Fault("status", status=500, after=True),
    Fault("status", status=503),
    Fault("status", status=503, after=True),
    Fault("truncate"),
    Fault("html"),
    Fault("foreign"),
)
POLICY_OF = {"payer-medicare": "cms-part-b", "payer-optum": "optum-0048", "payer-acme": None}


@dataclass
class Outcome:
    """What a run came to. ``memory`` is the peak of the largest worker, in MB."""

    encounters: int
    listed: int = 0  # lines on the worklist
    lost: int = 0  # encounters without a line
    doubled: int = 0  # encounters with more than one
    unread: int = 0
    wrong: int = 0  # lines that say something else than the chart does
    given_up: int = 0
    requests: int = 0
    faults: int = 0
    kills: int = 0
    vanished: int = 0  # workers that ended by themselves
    seconds: float = 0.0
    memory: float = 0.0
    bare: float = 0.0  # seconds that one visit's requests take when nothing else is done with them


def run(
    folder: Path,
    helper: Helper,
    *,
    encounters: int,
    kills: int,
    seed: int,
    workers: int = 2,
    share: float = 0.01,
    read_timeout: float = 2.0,
    database_url: str = "",
    bare: bool = False,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """Captures them all, counted on the database's side when nothing is left to do."""
    outcome = Outcome(encounters)
    clock = Clock(folder / "clock")
    clock.forward(0)
    today = clock().astimezone(CLINIC_ZONE).date()
    charts = [each for each, _ in crowd(encounters, seed, today)]
    with ExitStack() as stack:
        sandbox = stack.enter_context(running_sandbox(clients=captured.clients(), clock=clock))
        for filed in sandbox.store.all("Encounter"):  # the scenarios' visits are not of the crowd
            sandbox.store.remove("Encounter", filed.resource["id"])
        for resource in charts:
            sandbox.store.put(resource)
        settings = captured.settings_in(
            folder, sandbox.base_url, database_url=database_url, read_timeout=read_timeout, rate=1_000_000
        )
        here = stack.enter_context(closing(install(settings, clock)))
        iss = next(iter(here.issuers)).iss
        with here.engine.begin() as connection:
            days = f"{today - timedelta(days=30)}/{today}"
            jobs.ask(connection, here.vault, Kind.RANGE, iss, days, clock())
        working = Workers(helper, Told(folder, sandbox.base_url, database_url, clock), workers)
        stack.callback(working.close)
        sandbox.faults.by_chance(share, faults(read_timeout), seed)
        began = time.monotonic()
        _until_done(here, clock, working, outcome, kills, random.Random(seed), 2 * read_timeout, progress)
        outcome.seconds = time.monotonic() - began
        working.look()
        outcome.memory, outcome.vanished = working.most_memory / 1024, working.vanished
        outcome.requests, outcome.faults = len(sandbox.requests()), sandbox.faults.chances
        _compare(here, iss, charts, outcome)
        if bare:
            sandbox.faults.by_chance(0.0, (), seed)
            outcome.bare = _bare(here, sandbox, outcome)
    return outcome


def _bare(here: Installation, sandbox: Sandbox, outcome: Outcome) -> float:
    """The same requests once more, one after another over one connection, each answer read as JSON."""
    asked = [one for one in sandbox.requests("GET", "/fhir/*") if one.status == requests.codes.ok][-2000:]
    with requests.Session() as http:
        http.trust_env = False
        http.headers["Authorization"] = f"Bearer {here.access(next(iter(here.issuers))).token}"
        began = time.monotonic()
        for one in asked:
            query = f"?{one.query}" if one.query else ""
            http.get(f"{sandbox.base_url}{one.path}{query}", timeout=30).json()
        each = (time.monotonic() - began) / len(asked)
    return each * outcome.requests / outcome.encounters


def _until_done(
    here: Installation,
    clock: Clock,
    working: Workers,
    outcome: Outcome,
    kills: int,
    rng: random.Random,
    patience: float,
    progress: Callable[[Outcome], None],
) -> None:
    """Kills whom it has to when so many visits are listed; lets the time pass that everybody only waits for."""
    killed_at = sorted(rng.randrange(outcome.encounters) for _ in range(kills))
    changed, before = time.monotonic(), (-1, -1)
    while True:
        time.sleep(0.05)
        with database.reading(here.engine) as connection:
            listed = connection.scalar(select(func.count(database.known_visit.c.encounter.distinct())))
            left = jobs.left(connection, next(iter(here.issuers)).iss, clock())
            walking = connection.scalar(select(_JOB.c.id).where(_JOB.c.kind == Kind.RANGE))
        outcome.listed = listed
        while killed_at and listed >= killed_at[0]:
            killed_at.pop(0)
            outcome.kills += 1
            working.kill(rng.randrange(len(working.alive)))
        if not left and walking is None:
            return
        if (listed, left) != before:
            before, changed = (listed, left), time.monotonic()
            progress(outcome)
        elif (paused := _paused(here, clock)) > SOON:
            clock.forward(min(paused, LONGEST_STEP))  # all of them leave the EHR alone
        elif time.monotonic() - changed > patience or _only_waits(here, clock):
            # Whatever is left waits for its time, or for the lease of a worker that was killed.
            clock.forward(_until_next(here, clock))
            changed = time.monotonic()


_JOB = database.job
SOON, LONGEST_STEP = 0.2, 60.0  # seconds; a longer step would end the leases of those who work


def _paused(here: Installation, clock: Clock) -> float:
    """For how many seconds no job of the EHR is begun."""
    with database.reading(here.engine) as connection:
        until = connection.scalar(select(func.max(database.ehr.c.next_at)))
    return 0.0 if until is None else (until - clock()).total_seconds()


def _only_waits(here: Installation, clock: Clock) -> bool:
    """Whether nothing is held by anybody and nothing is due."""
    job, lease, ehr = database.job, database.lease, database.ehr
    now = clock()
    with database.reading(here.engine) as connection:
        held = connection.scalar(select(lease.c.name).where(lease.c.until >= now).limit(1))
        paused = connection.scalar(select(ehr.c.next_at).where(ehr.c.next_at > now))
        due = connection.scalar(
            select(job.c.id).where(job.c.due_at <= now, job.c.given_up_at.is_(None)).limit(1)
        )
    return held is None and (due is None or paused is not None)


def _until_next(here: Installation, clock: Clock) -> float:
    """Seconds until the next job can be taken that cannot be now."""
    job, lease, ehr = database.job, database.lease, database.ehr
    now = clock()
    tried = or_(job.c.attempts > 0, job.c.due_at <= now)
    with database.reading(here.engine) as connection:
        moments = [
            connection.scalar(select(func.min(job.c.due_at)).where(tried, job.c.due_at > now)),
            connection.scalar(select(func.min(lease.c.until)).where(lease.c.until >= now)),
            connection.scalar(select(func.min(ehr.c.next_at)).where(ehr.c.next_at > now)),
        ]
    later = [one for one in moments if one is not None]
    return max(0.0, (min(later) - now).total_seconds()) + 0.01 if later else 0.0


def _compare(here: Installation, iss: str, charts: list[Resource], outcome: Outcome) -> None:
    """Each line with the chart that it was read from."""
    expected = _documented(charts)
    table = database.known_visit
    with here.engine.begin() as connection:
        rows = connection.execute(select(table.c.encounter, table.c.sealed)).all()
        outcome.given_up = jobs.queue(connection, here.clock()).given_up
    lines: dict[str, list[Summary]] = {}
    for row in rows:
        lines.setdefault(row.encounter, []).append(here.vault.open(row.sealed, Summary))
    outcome.listed = len(rows)
    for encounter, facts in expected.items():
        found = lines.pop(encounter_key(here.vault, iss, encounter), [])
        outcome.lost += not found
        outcome.doubled += len(found) > 1
        outcome.unread += any(one.standing is Standing.UNREAD for one in found)
        said = [
            {name: says for name, says in one.chart.items() if not name.startswith("charged")}
            for one in found
        ]
        outcome.wrong += any(one != facts for one in said)
    outcome.doubled += len(lines)  # of no encounter at all


def _documented(charts: list[Resource]) -> dict[str, dict[str, str]]:
    """By encounter, what the worklist has to say of its chart."""
    payers = {
        each["beneficiary"]["reference"]: each["payor"][0]["reference"].removeprefix("Organization/")
        for each in charts
        if each["resourceType"] == "Coverage"
    }
    expected: dict[str, dict[str, str]] = {}
    for each in charts:
        if each["resourceType"] == "Encounter":
            policy = POLICY_OF[payers[each["subject"]["reference"]]]
            expected[f"Encounter/{each['id']}"] = {"policy": policy} if policy else {}
    for each in charts:
        if each["resourceType"] != "Procedure":
            continue
        code = each["code"]["coding"][0]["code"]
        expected[each["encounter"]["reference"]][code] = _minutes(each)
    return expected


def _minutes(procedure: Resource) -> str:
    period = procedure.get("performedPeriod")
    if period is None:
        return "no minutes"
    minutes = (datetime.fromisoformat(period["end"]) - datetime.fromisoformat(period["start"])).seconds // 60
    by_assistant = procedure["performer"][0]["actor"]["reference"] == "Practitioner/pr-cole"
    return f"{minutes} min by an assistant" if by_assistant else f"{minutes} min"
