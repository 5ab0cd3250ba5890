"""The path of a visit, step by step: launch, read, review; sign_off.py goes on from there."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, bindparam, delete, select, update

from ..fhir.chart import (
    SIDE_BY_SIDE,
    Begun,
    Chart,
    begin_chart,
    chart_without_last,
    finish_chart,
    prepare_reads,
)
from ..fhir.encounters import RecentEncounters, recent_encounters
from ..fhir.normalise import PreparedVisit, visits_from
from ..fhir.views import PractitionerRole
from ..launch.authorize import Pending, begin
from ..launch.discovery import discover
from ..launch.errors import LaunchRefused
from ..launch.exchange import complete, prepare, state_in, unknown_state
from ..launch.http import waiting_for
from . import audit, database, rights, sessions
from .installation import Installation
from .review import Answers
from .roles import Roles, read_role, roles_of
from .sessions import RELAUNCH, Opened, opened, server_for

log = structlog.get_logger()

# Built once: building a statement takes longer than carrying it out.
_DRAFT = select(database.draft.c.sealed, database.draft.c.updated_at).where(
    database.draft.c.visit == bindparam("visit"), database.draft.c.person == bindparam("person")
)
_KEEP = (
    update(database.launch)
    .where(database.launch.c.id == bindparam("launch_id"))
    .values(chart=bindparam("chart"), roles=bindparam("roles"))
)
_KEEP_FIRST = _KEEP.where(database.launch.c.chart.is_(None))
_CHOOSE = _KEEP.where(database.launch.c.encounter.is_(None)).values(encounter=bindparam("encounter"))
_LAUNCHED = database.launch.insert()

ENCOUNTER_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")  # https://hl7.org/fhir/R4/datatypes.html#id

Meanwhile = Callable[[Opened, tuple[PreparedVisit, ...]], None]

__all__ = ["RELAUNCH", "Opened", "opened"]


# --- launch ---------------------------------------------------------------------------------------------


def start_launch(here: Installation, iss: str, launch: str | None, browser: str) -> str:
    """From a launch to the address of the EHR's authorization page. No request before ``iss`` is known."""
    issuer = here.issuers.match(iss)
    http = here.connections.to(issuer)
    now = here.clock()
    endpoints = discover(issuer, http, now, here.discovered, listed=here.issuers)
    started, address = begin(
        issuer,
        endpoints,
        launch=launch,
        redirect_uri=f"{here.settings.public_url}/callback",
        browser=here.vault.index("browser", browser),
        now=now,
        iss=iss,
    )
    sessions.purge(here)
    with here.engine.begin() as connection:
        connection.execute(delete(database.pending).where(database.pending.c.expires_at < now))
        connection.execute(
            database.pending.insert().values(
                state=here.vault.index("state", started.state),
                sealed=here.vault.seal_bytes(started.to_json().encode()),
                expires_at=started.expires_at,
            )
        )
    # While the browser is at the authorization page: connections and threads for the reads, and the signing keys.
    prepare_reads(http)
    prepare(issuer, endpoints, http=http, now=now, reads=SIDE_BY_SIDE)
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
        reads=SIDE_BY_SIDE,
    )
    rights.refuse_patients(session.id.user_kind)
    launch_id = secrets.token_urlsafe(24)[:32]
    person = here.vault.index("person", session.id.issuer, session.id.sub)
    context = session.context
    launch = Opened(launch_id, issuer, session, person, encounter=context.encounter)
    begun = None
    with suppress(LaunchRefused):  # told by the page
        begun = begin_reading(here, launch)
        # It goes on while the launch is kept and the browser follows the redirect.
        here.read_ahead.keep(launch_id, begun)
    log.info("launch_completed", issuer=issuer.id)
    with here.engine.begin() as connection:
        connection.execute(
            _LAUNCHED,
            {
                "id": launch_id,
                "browser": here.vault.index("browser", browser),
                "issuer": issuer.iss,
                "person": person,
                "session": here.vault.seal_bytes(session.to_json().encode()),
                "started_at": now,
                "seen_at": now,
            },
        )
        audit.record(
            connection,
            here.vault,
            now=now,
            action="launched",
            who=launch.who,
            issuer=issuer.iss,
            what={
                "sub": session.id.sub,
                "tenant": context.tenant,
                "patient": context.patient,
                "encounter": context.encounter,
                "scopes": context.scopes,
            },
        )
        if begun:
            record_read(connection, here, launch)
    return launch_id


def record_refusal(here: Installation, why: str, request_id: str) -> None:
    """A launch that was refused, on record: by the name of the error, as its words may come from anybody."""
    with here.engine.begin() as connection:
        audit.record(
            connection,
            here.vault,
            now=here.clock(),
            action="launch-refused",
            who="",
            issuer=None,
            what={"why": why, "request_id": request_id},
        )


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
    # A code works once at the EHR, so a power cut that brings a spent state back opens nothing.
    sealed = database.take_pending(here.engine, here.vault.index("state", state_in(params)))
    if sealed is None:
        raise unknown_state()
    return Pending.from_json(here.vault.open_bytes(sealed))


# --- read -----------------------------------------------------------------------------------------------


def read_visits(here: Installation, launch: Opened) -> tuple[PreparedVisit, ...]:
    """Reads the launch's visit and keeps what was read with the launch.

    Raises ``LaunchRefused`` where the launch has no patient or no visit yet, ``NotAllowed`` where the
    granted scopes do not let it be read.
    """
    visits, roles = read_on_record(here, launch)
    keep_read(here, launch, visits, roles)
    return visits


def read_on_record(here: Installation, launch: Opened) -> tuple[tuple[PreparedVisit, ...], Roles]:
    """As ``read_again``, with its audit entry."""
    with here.engine.begin() as connection:
        record_read(connection, here, launch)
    return read_again(here, launch)


def read_again(here: Installation, launch: Opened) -> tuple[tuple[PreparedVisit, ...], Roles]:
    """The visits as the EHR has them now, and who the person is; nothing is kept."""
    return _read(here, launch, begin_reading(here, launch))


def begin_reading(here: Installation, launch: Opened) -> Begun:
    """Sends the first reads of the launch's visit off. Raises as ``read_visits``."""
    context = launch.session.context
    if context.patient is None:
        raise _no_patient(launch)
    rights.refuse_without_permission(launch.issuer, context.scopes)
    if launch.encounter is None:
        raise LaunchRefused("No visit was chosen yet.", advice="Choose one of the patient's visits.")
    server = server_for(here, launch)
    with waiting_for(here.connections.to(launch.issuer), launch.issuer.iss):
        return begin_chart(
            server,
            patient=context.patient,
            encounter=launch.encounter,
            user=context.fhir_user,
            settings=here.charts[launch.issuer.id],
            now=here.clock(),
        )


def _read(
    here: Installation, launch: Opened, begun: Begun, meanwhile: Meanwhile | None = None
) -> tuple[tuple[PreparedVisit, ...], Roles]:
    expected = made = None
    with waiting_for(here.connections.to(launch.issuer), launch.issuer.iss):
        role = read_role(begun.reading.server, launch.session.context.fhir_user)
        if meanwhile is not None and (expected := chart_without_last(begun)) is not None:
            visits, roles = made = _made_of(here, launch, expected, role)
            meanwhile(replace(launch, roles=roles), visits)
        chart = finish_chart(begun)
    return made if made and chart is expected else _made_of(here, launch, chart, role)


def _made_of(
    here: Installation, launch: Opened, chart: Chart, role: tuple[PractitionerRole, ...]
) -> tuple[tuple[PreparedVisit, ...], Roles]:
    withheld = tuple(rights.withheld(launch.issuer, launch.session.context.scopes))
    visits = tuple(
        replace(visit, findings=(*withheld, *visit.findings))
        for visit in visits_from(chart, here.charts[launch.issuer.id], now=here.clock())
    )
    return visits, roles_of(launch.issuer, launch.session.id, (*chart.roles, *role), now=here.clock())


def record_read(connection: Connection, here: Installation, launch: Opened) -> None:
    """On record that this person has the EHR asked for the visit's chart, before it is."""
    audit.record(
        connection,
        here.vault,
        now=here.clock(),
        action="read",
        who=launch.who,
        issuer=launch.issuer.iss,
        what={"patient": launch.session.context.patient, "encounter": launch.encounter},
    )


def keep_read(
    here: Installation,
    launch: Opened,
    visits: tuple[PreparedVisit, ...],
    roles: Roles,
    *,
    choosing: bool = False,
) -> None:
    """With the launch, for its next pages; when choosing, with the visit too, and only if it has none."""
    values = {
        "launch_id": launch.id,
        "chart": here.vault.seal(visits),
        "roles": here.vault.seal(sorted(roles)),
    }
    if choosing:
        values["encounter"] = here.vault.seal(launch.encounter)
    with database.relaxed(here.engine) as connection:
        if connection.execute(_CHOOSE if choosing else _KEEP, values).rowcount == 0:
            raise LaunchRefused(
                "This session has ended, or another page of it has chosen its visit.", advice=RELAUNCH
            )


def _kept(
    here: Installation, launch: Opened, visits: tuple[PreparedVisit, ...], roles: Roles
) -> dict[str, Any]:
    return {"launch_id": launch.id, "chart": here.vault.seal(visits), "roles": here.vault.seal(sorted(roles))}


def with_visits(
    here: Installation,
    launch: Opened,
    later: Callable[[Callable[[], None]], None],
    meanwhile: Meanwhile | None = None,
) -> tuple[Opened, tuple[PreparedVisit, ...]]:
    """The visits as they were read for this launch, read now if they were not; and the launch, with its roles.

    ``later`` is handed what nobody has to wait for: keeping what was read ahead. ``meanwhile`` is handed the visits
    as they probably will be, while the EHR still owes the rest; if they are so, the same tuple is what comes back.
    """
    if launch.chart is not None:
        return launch, here.vault.open(launch.chart, tuple[PreparedVisit, ...])
    begun = here.read_ahead.take(launch.id)
    if begun is None:
        visits, roles = read_on_record(here, launch)
        keep_read(here, launch, visits, roles)
    else:
        visits, roles = _read(here, launch, begun, meanwhile)
        later(partial(_keep_first, here, launch, visits, roles))
    return replace(launch, roles=roles), visits


def _keep_first(here: Installation, launch: Opened, visits: tuple[PreparedVisit, ...], roles: Roles) -> None:
    """Keeps what was read ahead, unless something newer was kept meanwhile, or the session has ended."""
    with database.relaxed(here.engine) as connection:
        connection.execute(_KEEP_FIRST, _kept(here, launch, visits, roles))


def encounters_of(here: Installation, launch: Opened) -> RecentEncounters:
    """The visits that a launch without one can go on with. Raises as ``read_visits``."""
    patient = launch.session.context.patient
    if patient is None:
        raise _no_patient(launch)
    rights.refuse_without_permission(launch.issuer, launch.session.context.scopes)
    settings = here.charts[launch.issuer.id]
    return recent_encounters(server_for(here, launch), patient=patient, settings=settings, now=here.clock())


def choose_encounter(here: Installation, launch: Opened, encounter: str) -> None:
    """Settles, once for this launch, which visit it is about; the EHR must know it as the patient's.

    Once only, so that no second tab can put another visit under a page that is already open.
    """
    if launch.encounter is not None:
        raise LaunchRefused(
            "This session already has its visit.",
            advice="To work on another visit, open Quarterhour again from your EHR.",
        )
    if not ENCOUNTER_ID.fullmatch(encounter):
        raise LaunchRefused("That is no visit of this patient.", advice="Choose one from the list.")
    chosen = replace(launch, encounter=encounter)
    keep_read(here, chosen, *read_on_record(here, chosen), choosing=True)  # reading refuses another patient's


def _no_patient(launch: Opened) -> LaunchRefused:
    return LaunchRefused(
        f"{launch.issuer.name} opened Quarterhour without saying for which patient.",
        advice="Open a patient's visit in the EHR first, then Quarterhour from there. If you did, tell the "
        "administrator of the EHR that the app Quarterhour needs the patient in its launch context.",
    )


# --- review ---------------------------------------------------------------------------------------------


def key_of(here: Installation, launch: Opened, prepared: PreparedVisit) -> str:
    """What a draft and a decision are found by."""
    return visit_key(here, launch.issuer.iss, prepared)


def visit_key(here: Installation, iss: str, prepared: PreparedVisit) -> str:
    """Issuer, patient, encounter, date, discipline: the same however the visit was read."""
    visit = prepared.visit
    return here.vault.index(
        "visit",
        iss,
        prepared.patient,
        prepared.encounter,
        visit.date_of_service.isoformat(),
        visit.discipline or "",
        visit.provider.tin or "",
    )


def draft_of(here: Installation, launch: Opened, key: str) -> tuple[Answers, datetime | None]:
    """What this person settled so far of a visit, and when that was kept."""
    with database.reading(here.engine) as connection:
        return draft_in(connection, here, launch, key)


def draft_in(
    connection: Connection, here: Installation, launch: Opened, key: str
) -> tuple[Answers, datetime | None]:
    """As ``draft_of``, among other reads."""
    row = connection.execute(_DRAFT, {"visit": key, "person": launch.person}).first()
    return (here.vault.open(row.sealed, Answers), row.updated_at) if row else (Answers(), None)


def keep_draft(here: Installation, launch: Opened, key: str, answers: Answers) -> None:
    """Keeps what was settled, in place of what was kept before; of two at once the last one stands."""
    table = database.draft
    kept = {"sealed": here.vault.seal(answers), "updated_at": here.clock()}
    with here.engine.begin() as connection:
        draft = database.insert(connection, table).values(visit=key, person=launch.person, **kept)
        connection.execute(
            draft.on_conflict_do_update(index_elements=[table.c.visit, table.c.person], set_=kept)
        )
