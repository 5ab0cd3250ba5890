"""The life of a finished launch: found again by its browser, renewed at the EHR, ended.

Times are the server's: the cookie and the page decide nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from requests import Response, codes
from sqlalchemy import Connection, bindparam, delete, or_, select, update

from ..fhir.server import Server
from ..launch.context import Session
from ..launch.errors import EhrUnavailable, LaunchRefused, SessionEnded
from ..launch.exchange import refresh, revoke
from ..launch.http import waiting_for
from ..launch.issuers import Issuer
from . import audit, database
from .installation import Installation
from .roles import Role, Roles

log = structlog.get_logger()

RELAUNCH = "Open Quarterhour again from the visit in your EHR; what you settled so far is kept."
SEEN_EVERY = timedelta(seconds=15)  # else each look at a page would be a write that waits for the disk
WAITED_FOR = timedelta(seconds=30)  # somebody else's renewal; then the page does without
PAUSE = timedelta(
    seconds=5
)  # after a renewal that failed: a token endpoint that is away costs a time-out each time
_BY_ID = select(database.launch).where(database.launch.c.id == bindparam("launch_id"))
REVOKING = timedelta(seconds=10)
LOOK_AGAIN = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Opened:
    """A finished launch that this browser owns: the only key to a patient's visits.

    ``encounter`` is the launch's, or the one that was chosen where the launch had none. ``roles`` is None
    until they were looked up.
    """

    id: str
    issuer: Issuer
    session: Session
    person: str  # index of (issuer, sub)
    encounter: str | None = None
    roles: Roles | None = None
    chart: bytes | None = field(default=None, repr=False)  # sealed: the visits, once they were read

    @property
    def who(self) -> str:
        """The signed-in person's reference in the EHR, for the audit trail and as the charge's enterer."""
        return self.session.context.fhir_user or f"{self.session.id.issuer}#{self.session.id.sub}"


def opened(here: Installation, launch_id: str, browser: str | None) -> Opened:
    """The launch of that id, if it is this browser's and still open. Raises ``SessionEnded``.

    A token about to expire is renewed. One that cannot be renewed is left as it is: what was read can still be
    looked at and settled, and whoever needs the EHR is told by ``server_for``.
    """
    now = here.clock()
    table = database.launch
    with here.engine.begin() as connection:
        row = connection.execute(_BY_ID, {"launch_id": launch_id}).first()
        # An id that does not exist and one of another browser get the same answer.
        if row is None or browser is None or row.browser != here.vault.index("browser", browser):
            raise SessionEnded("This page belongs to no session of this browser.", advice=RELAUNCH)
        ended = _ended(here, row.started_at, row.seen_at, now)
        if ended:
            connection.execute(delete(table).where(table.c.id == launch_id))
        elif now - row.seen_at > SEEN_EVERY:
            connection.execute(update(table).where(table.c.id == launch_id).values(seen_at=now))
    if ended:
        raise SessionEnded("Your session has ended.", advice=RELAUNCH)
    session = Session.from_json(here.vault.open_bytes(row.session))
    launch = Opened(
        id=launch_id,
        issuer=here.issuers.match(row.issuer),
        session=session,
        person=row.person,
        encounter=here.vault.open(row.encounter, str) if row.encounter else session.context.encounter,
        roles=frozenset(here.vault.open(row.roles, list[Role])) if row.roles else None,
        chart=row.chart,
    )
    if session.refresh_token is None or not session.expires_soon(now):
        return launch
    try:
        return replace(launch, session=renewed(here, launch))
    except EhrUnavailable:
        return launch
    except SessionEnded:
        if _failed_just_now(here, launch) is None:  # it was not the EHR: the launch has been ended meanwhile
            raise
        return launch


def _ended(here: Installation, started_at: datetime, seen_at: datetime, now: datetime) -> bool:
    idle = timedelta(minutes=here.settings.idle_minutes)
    whole = timedelta(hours=here.settings.session_hours)
    return now - seen_at > idle or now - started_at > whole


def _expired(session: Session, now: datetime) -> bool:
    return session.expires_at is not None and session.expires_at <= now


def purge(here: Installation) -> None:
    """Removes the launches that have ended, their tokens and what was read for them."""
    now = here.clock()
    table = database.launch
    with here.engine.begin() as connection:
        connection.execute(
            delete(table).where(
                or_(
                    table.c.seen_at < now - timedelta(minutes=here.settings.idle_minutes),
                    table.c.started_at < now - timedelta(hours=here.settings.session_hours),
                )
            )
        )


def end(here: Installation, launch: Opened) -> bool:
    """Signs out: tells the EHR where it has a way, and forgets the launch here. Drafts stay.

    True where the EHR confirmed that the tokens are void.
    """
    with here.engine.begin() as connection:
        connection.execute(delete(database.launch).where(database.launch.c.id == launch.id))
        audit.record(
            connection, here.vault, now=here.clock(), action="ended", who=launch.who, issuer=launch.issuer.iss
        )
    return revoke(launch.session, launch.issuer, http=here.connections.to(launch.issuer), now=here.clock())


@dataclass(frozen=True, slots=True)
class Active:
    """A launch that is open, for whoever administers: of a person, not about a patient."""

    launch: Opened
    started_at: datetime
    seen_at: datetime


def active(here: Installation, issuer: Issuer) -> list[Active]:
    """The launches of an EHR that are open, the newest first."""
    now = here.clock()
    table = database.launch
    query = select(table).where(table.c.issuer == issuer.iss).order_by(table.c.started_at.desc())
    with here.engine.begin() as connection:
        rows = connection.execute(query).all()
    found = []
    for row in rows:
        if _ended(here, row.started_at, row.seen_at, now):
            continue
        # One that another version of Quarterhour began opens nothing any more.
        with suppress(SessionEnded):
            session = Session.from_json(here.vault.open_bytes(row.session))
            found.append(Active(Opened(row.id, issuer, session, row.person), row.started_at, row.seen_at))
    return found


def end_others(here: Installation, administrator: Opened, others: Sequence[Opened]) -> int:
    """Ends other people's launches at once, then tells the EHR; how many of them it confirmed.

    On record under the administrator's name. Drafts stay. An EHR that is slow is not waited for longer than
    ``REVOKING``: what it was not told runs out by itself.
    """
    with here.engine.begin() as connection:
        connection.execute(
            delete(database.launch).where(database.launch.c.id.in_([launch.id for launch in others]))
        )
        audit.record(
            connection,
            here.vault,
            now=here.clock(),
            action="sessions-ended",
            who=administrator.who,
            issuer=administrator.issuer.iss,
            what={"of": sorted({launch.who for launch in others}), "sessions": len(others)},
        )
    patience = time.monotonic() + REVOKING.total_seconds()
    confirmed = 0
    for launch in others:
        if time.monotonic() < patience:
            http = here.connections.to(launch.issuer)
            confirmed += revoke(launch.session, launch.issuer, http=http, now=here.clock())
    return confirmed


# --- tokens -----------------------------------------------------------------------------------------------


def server_for(here: Installation, launch: Opened) -> Server:
    """The EHR as this launch may use it. Raises as ``no_access`` says where its permission has run out."""
    refusal = no_access(here, launch)
    if refusal is not None:
        raise refusal
    return RenewingServer(
        launch.issuer.base,
        launch.session.access_token,
        here.connections.to(launch.issuer),
        connect_timeout=launch.issuer.connect_timeout,
        read_timeout=launch.issuer.read_timeout,
        renew=(lambda: renewed(here, launch).access_token) if launch.session.refresh_token else None,
        clock=here.clock,
    )


def no_access(here: Installation, launch: Opened) -> LaunchRefused | None:
    """Why the EHR cannot be asked under this launch: its token has expired, and could not be renewed.

    ``EhrUnavailable`` where waiting may help, ``SessionEnded`` where only a new launch does. None: it can.
    """
    if not _expired(launch.session, here.clock()):
        return None
    return _failed_just_now(here, launch) or SessionEnded(
        "The EHR's permission for this session has run out.", advice=RELAUNCH
    )


class RenewingServer(Server):
    """A server that renews its token once when the EHR says 401, and repeats that request once.

    A 401 was not carried out, so a write is as safe to repeat as a read.
    """

    def __init__(self, *args: Any, renew: Callable[[], str] | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._renew = renew
        self._renewing = threading.Lock()

    def _once(self, *args: Any, signed: bool, **kwargs: Any) -> Response:
        response = super()._once(*args, signed=signed, **kwargs)
        if response.status_code != codes.unauthorized or not signed:
            return response
        # Not the token as it is now: what was sent ahead may have gone out with the one before.
        used = str(response.request.headers["Authorization"]).removeprefix("Bearer ")
        if not self._renew_from(used):
            return response
        return super()._once(*args, signed=signed, **kwargs)

    def _renew_from(self, used: str) -> bool:
        """Whether there is another token now than the one used; threads of one read wait for the first.

        Where it cannot be renewed, the EHR's 401 stands.
        """
        with self._renewing:
            if self._token == used and self._renew is not None:
                renew, self._renew = self._renew, None
                with suppress(LaunchRefused):
                    self._token = renew()
            return bool(self._token != used)


def renewed(here: Installation, launch: Opened) -> Session:
    """The launch's session with tokens newer than the ones ``launch`` has.

    One caller at a time asks the EHR, whichever thread or process it is in: the others wait for its
    answer, since a refresh token that rotates can be used once. Raises ``SessionEnded`` where only a new
    launch helps, ``EhrUnavailable`` where waiting may.
    """
    with waiting_for(here.connections.to(launch.issuer), launch.issuer.iss):
        return _renewed(here, launch)


def _renewed(here: Installation, launch: Opened) -> Session:
    patience = time.monotonic() + WAITED_FOR.total_seconds()
    while True:
        session = _stored(here, launch)
        if session.access_token != launch.session.access_token:
            return session
        failed = _failed_just_now(here, launch)
        if failed is not None:
            raise failed
        lease = _taken(here, launch)
        if lease is not None:
            break
        if time.monotonic() > patience:
            raise EhrUnavailable(
                f"{launch.issuer.name} did not renew its permission in time.", advice=RELAUNCH
            )
        time.sleep(LOOK_AGAIN)
    table = database.launch
    try:
        # Once more under the lease: whoever had it before may have renewed in between.
        session = _stored(here, launch)
        if session.access_token != launch.session.access_token:
            return session
        return _asked_for(here, launch, session)
    finally:
        with here.engine.begin() as connection:
            mine = (table.c.id == launch.id) & (table.c.renewing_until == lease)
            connection.execute(update(table).where(mine).values(renewing_until=None))


def renewing(issuer: Issuer) -> timedelta:
    """How long one caller may renew alone: longer than its request can take, so that later it has died.

    Connecting, sending and the whole of the answer have these times; and some seconds are for what is ours.
    """
    return timedelta(seconds=2 * (issuer.connect_timeout + issuer.read_timeout) + 10)


def _asked_for(here: Installation, launch: Opened, session: Session) -> Session:
    """The session renewed by the EHR, and kept in the place of the one that it came of."""
    http = here.connections.to(launch.issuer)
    try:
        new = refresh(session, launch.issuer, http=http, now=here.clock())
    except (EhrUnavailable, SessionEnded) as error:
        _remember(here, launch, error)
        raise
    log.info("renewed", issuer=launch.issuer.id)
    table = database.launch
    with here.engine.begin() as connection:
        stored = _stored_in(connection, here, launch)
        if stored.access_token != session.access_token:
            return stored  # newer than ours: its tokens are those that the EHR still takes
        sealed = here.vault.seal_bytes(new.to_json().encode())
        connection.execute(update(table).where(table.c.id == launch.id).values(session=sealed))
    return new


def _remember(here: Installation, launch: Opened, error: LaunchRefused) -> None:
    now = here.clock()
    for id_, (until, _) in tuple(here.not_renewed.items()):
        if until <= now:
            here.not_renewed.pop(id_, None)
    here.not_renewed[launch.id] = (now + PAUSE, _anew(error))


def _failed_just_now(here: Installation, launch: Opened) -> LaunchRefused | None:
    """Why the last renewal in this process failed, while it is not to be asked for again."""
    until, error = here.not_renewed.get(launch.id, (here.clock(), None))
    return _anew(error) if error is not None and here.clock() < until else None


def _anew(error: LaunchRefused) -> LaunchRefused:
    """The same error without its traceback, which would keep tokens in memory."""
    return type(error)(error.message, advice=error.advice)


def _stored(here: Installation, launch: Opened) -> Session:
    """The session as it is kept now. Raises ``SessionEnded`` where there is none any more."""
    with here.engine.begin() as connection:
        return _stored_in(connection, here, launch)


def _stored_in(connection: Connection, here: Installation, launch: Opened) -> Session:
    """The same, and nobody else changes it until the transaction ends."""
    table = database.launch
    query = select(table.c.session).where(table.c.id == launch.id).with_for_update()
    sealed = connection.scalar(query)
    if sealed is None:
        raise SessionEnded("Your session has ended.", advice=RELAUNCH)
    return Session.from_json(here.vault.open_bytes(sealed))


def _taken(here: Installation, launch: Opened) -> datetime | None:
    """Until when this caller is the one that renews; None: somebody else is."""
    table = database.launch
    now = here.clock()
    until = now + renewing(launch.issuer)
    with here.engine.begin() as connection:
        taken = connection.execute(
            update(table)
            .where(
                table.c.id == launch.id,
                or_(table.c.renewing_until.is_(None), table.c.renewing_until < now),
            )
            .values(renewing_until=until)
        )
    return until if taken.rowcount == 1 else None
