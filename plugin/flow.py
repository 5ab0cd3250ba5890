"""The path of a visit, step by step: launch, read, review; sign-off and writing back follow in sign_off.py."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update

from ..core.findings import Finding, Severity, Status
from ..fhir.chart import read_chart
from ..fhir.normalise import PreparedVisit, visits_from
from ..fhir.server import Server
from ..launch.authorize import Pending, begin
from ..launch.context import Session
from ..launch.discovery import discover
from ..launch.errors import AuthorizationRefused, LaunchRefused, SessionEnded
from ..launch.exchange import complete, prepare, state_in, unknown_state
from ..launch.issuers import Issuer
from ..launch.scopes import Need, missing
from . import audit, database
from .installation import Installation
from .review import Answers

CONNECTIONS = 8  # what one chart is read over, side by side
RELAUNCH = "Open Quarterhour again from the visit in your EHR; what you settled so far is kept."


@dataclass(frozen=True, slots=True)
class Opened:
    """A finished launch that this browser owns: the only key to a patient's visits."""

    id: str
    issuer: Issuer
    session: Session
    person: str  # index of (issuer, sub)

    @property
    def who(self) -> str:
        """The signed-in person's reference in the EHR, for the audit trail and as the charge's enterer."""
        return self.session.context.fhir_user or f"{self.session.id.issuer}#{self.session.id.sub}"


# --- launch ---------------------------------------------------------------------------------------------


def start_launch(here: Installation, iss: str, launch: str | None, browser: str) -> str:
    """From a launch to the address of the EHR's authorization page. No request before ``iss`` is known."""
    issuer = here.issuers.match(iss)
    http = here.connections.to(issuer)
    now = here.clock()
    endpoints = discover(issuer, http, now, here.discovered)
    started, address = begin(
        issuer,
        endpoints,
        launch=launch,
        redirect_uri=f"{here.settings.public_url}/callback",
        browser=here.vault.index("browser", browser),
        now=now,
        iss=iss,
    )
    with here.engine.begin() as connection:
        connection.execute(delete(database.pending).where(database.pending.c.expires_at < now))
        connection.execute(
            database.pending.insert().values(
                state=here.vault.index("state", started.state),
                sealed=here.vault.seal_bytes(started.to_json().encode()),
                expires_at=started.expires_at,
            )
        )
    # While the browser is at the authorization page: connections for the reads, and the signing keys.
    prepare(issuer, endpoints, http=http, now=now, reads=CONNECTIONS)
    return address


def finish_launch(here: Installation, params: Mapping[str, list[str]], browser: str) -> str:
    """From the EHR's redirect to the id of a finished launch. The state is spent, whatever comes of it."""
    started = _take_pending(here, params)
    issuer = here.issuers.match(started.iss)
    now = here.clock()
    session = complete(
        started,
        issuer,
        params,
        browser=here.vault.index("browser", browser),
        http=here.connections.to(issuer),
        now=now,
    )
    launch_id = secrets.token_urlsafe(24)[:32]
    person = here.vault.index("person", session.id.issuer, session.id.sub)
    with here.engine.begin() as connection:
        connection.execute(
            database.launch.insert().values(
                id=launch_id,
                browser=here.vault.index("browser", browser),
                issuer=issuer.iss,
                person=person,
                session=here.vault.seal_bytes(session.to_json().encode()),
                started_at=now,
                seen_at=now,
            )
        )
        audit.record(
            connection,
            here.vault,
            now=now,
            action="launched",
            who=session.context.fhir_user or session.id.sub,
            what={
                "issuer": issuer.iss,
                "sub": session.id.sub,
                "patient": session.context.patient,
                "encounter": session.context.encounter,
                "scopes": session.context.scopes,
            },
        )
    return launch_id


def pending_of(here: Installation, params: Mapping[str, list[str]]) -> Pending | None:
    """The launch a callback belongs to, without spending it; for the page that says what to do."""
    with here.engine.begin() as connection:
        sealed = connection.scalar(
            select(database.pending.c.sealed).where(
                database.pending.c.state == here.vault.index("state", state_in(params)),
                database.pending.c.expires_at >= here.clock(),
            )
        )
    return Pending.from_json(here.vault.open_bytes(sealed)) if sealed else None


def _take_pending(here: Installation, params: Mapping[str, list[str]]) -> Pending:
    with here.engine.begin() as connection:
        sealed = connection.scalar(
            delete(database.pending)
            .where(database.pending.c.state == here.vault.index("state", state_in(params)))
            .returning(database.pending.c.sealed)
        )
    if sealed is None:
        raise unknown_state()
    return Pending.from_json(here.vault.open_bytes(sealed))


def opened(here: Installation, launch_id: str, browser: str | None) -> Opened:
    """The launch of that id, if it is this browser's and still open. Raises ``SessionEnded``."""
    now = here.clock()
    with here.engine.begin() as connection:
        row = connection.execute(select(database.launch).where(database.launch.c.id == launch_id)).first()
        # An id that does not exist and one of another browser get the same answer.
        if row is None or browser is None or row.browser != here.vault.index("browser", browser):
            raise SessionEnded("This page belongs to no session of this browser.", advice=RELAUNCH)
        idle = now - row.seen_at > timedelta(minutes=here.settings.idle_minutes)
        if idle or now - row.started_at > timedelta(hours=here.settings.session_hours):
            connection.execute(delete(database.launch).where(database.launch.c.id == launch_id))
            ended = True
        else:
            connection.execute(
                update(database.launch).where(database.launch.c.id == launch_id).values(seen_at=now)
            )
            ended = False
    session = Session.from_json(here.vault.open_bytes(row.session))
    if ended or (session.expires_at is not None and session.expires_at <= now):
        raise SessionEnded("Your session has ended.", advice=RELAUNCH)
    return Opened(launch_id, here.issuers.match(row.issuer), session, row.person)


# --- read -----------------------------------------------------------------------------------------------


def server_for(here: Installation, launch: Opened) -> Server:
    """The EHR as this launch may use it."""
    issuer = launch.issuer
    return Server(
        issuer.base,
        launch.session.access_token,
        here.connections.to(issuer),
        connect_timeout=issuer.connect_timeout,
        read_timeout=issuer.read_timeout,
    )


def read_visits(here: Installation, launch: Opened, *, keep: bool = True) -> tuple[PreparedVisit, ...]:
    """Reads the launch's encounter and keeps what was read with the launch."""
    context = launch.session.context
    if context.patient is None:
        raise LaunchRefused(
            "The EHR opened Quarterhour without saying for which patient.",
            advice="Open a patient's visit first, then Quarterhour from there.",
        )
    if context.encounter is None:
        raise LaunchRefused(
            "The EHR opened Quarterhour without saying for which visit.",
            advice="Open the visit in the EHR, then Quarterhour from there.",
        )
    _refuse_without_permission(launch)
    settings = here.charts[launch.issuer.id]
    chart = read_chart(
        server_for(here, launch),
        patient=context.patient,
        encounter=context.encounter,
        user=context.fhir_user,
        settings=settings,
        now=here.clock(),
    )
    visits = tuple(
        replace(visit, findings=(*_withheld(launch), *visit.findings))
        for visit in visits_from(chart, settings, now=here.clock())
    )
    if keep:
        keep_visits(here, launch, visits)
    return visits


def keep_visits(here: Installation, launch: Opened, visits: tuple[PreparedVisit, ...]) -> None:
    context = launch.session.context
    with here.engine.begin() as connection:
        connection.execute(
            update(database.launch)
            .where(database.launch.c.id == launch.id)
            .values(chart=here.vault.seal(visits))
        )
        audit.record(
            connection,
            here.vault,
            now=here.clock(),
            action="read",
            who=launch.who,
            what={"patient": context.patient, "encounter": context.encounter},
        )


def _refuse_without_permission(launch: Opened) -> None:
    """Raises ``AuthorizationRefused`` where the EHR did not grant what no review can be without."""
    lacking = [need for need in missing(launch.session.context.scopes) if need.without == "no-review"]
    if lacking:
        names = ", ".join(need.resource for need in lacking)
        raise AuthorizationRefused(
            f"{launch.issuer.name} did not grant Quarterhour to read {names}, and without it no visit can be "
            "reviewed.",
            advice=f"Show your administrator this page: the EHR has to grant {_scopes(lacking)}.",
            error="insufficient_scope",
        )


def _withheld(launch: Opened) -> Iterator[Finding]:
    """What the EHR did not grant, told before anything is signed."""
    for need in missing(launch.session.context.scopes):
        verb = "read" if set(need.interactions) <= set("rs") else "write"
        yield Finding(
            "scope-withheld",
            Status.NOT_CHECKED,
            Severity.WARNING,
            f"{launch.issuer.name} did not grant Quarterhour to {verb} {need.resource} ({need.v2}), which it "
            f"needs for this: {need.reason}",
        )


def _scopes(needs: Iterable[Need]) -> str:
    return ", ".join(need.v2 for need in needs)


def visits_of(here: Installation, launch: Opened) -> tuple[PreparedVisit, ...]:
    """The visits as they were read for this launch; read now if they were not."""
    with here.engine.begin() as connection:
        sealed = connection.scalar(select(database.launch.c.chart).where(database.launch.c.id == launch.id))
    return here.vault.open(sealed, tuple[PreparedVisit, ...]) if sealed else read_visits(here, launch)


# --- review ---------------------------------------------------------------------------------------------


def key_of(here: Installation, launch: Opened, prepared: PreparedVisit) -> str:
    """What a draft and a decision are found by: issuer, patient, encounter, date, discipline."""
    visit = prepared.visit
    return here.vault.index(
        "visit",
        launch.issuer.iss,
        prepared.patient,
        prepared.encounter,
        visit.date_of_service.isoformat(),
        visit.discipline or "",
        visit.provider.tin or "",
    )


def draft_of(here: Installation, launch: Opened, key: str) -> tuple[Answers, datetime | None]:
    """What this person settled so far of a visit, and when that was kept."""
    table = database.draft
    with here.engine.begin() as connection:
        row = connection.execute(
            select(table.c.sealed, table.c.updated_at).where(
                table.c.visit == key, table.c.person == launch.person
            )
        ).first()
    return (here.vault.open(row.sealed, Answers), row.updated_at) if row else (Answers(), None)


def keep_draft(here: Installation, launch: Opened, key: str, answers: Answers) -> None:
    """Keeps what was settled, in place of what was kept before."""
    table = database.draft
    with here.engine.begin() as connection:
        connection.execute(delete(table).where(table.c.visit == key, table.c.person == launch.person))
        connection.execute(
            table.insert().values(
                visit=key,
                person=launch.person,
                sealed=here.vault.seal(answers),
                updated_at=here.clock(),
            )
        )
