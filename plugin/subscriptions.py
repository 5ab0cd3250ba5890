"""Subscriptions at EHRs: made and taken back, what they tell us, and what they did not tell us.

A notification is a hint and no more. Whoever has the secret can have us read a visit that we may read anyway;
its id is looked for at the configured EHR under our own access, and nothing that a notification says is stored
as true. Events are numbered, so each is taken once, and a number that is missing is asked for
(https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/errors.html). What cannot be asked for, or is not numbered,
is found by a search for what changed.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, delete, insert, or_, select, update

from ..fhir import subscriptions as at_ehr
from ..fhir.errors import (
    BadAnswer,
    Dropped,
    EhrError,
    NotAuthorized,
    NotFound,
    RateLimited,
    Refused,
    ServerFailed,
    TimedOut,
)
from ..fhir.server import Server
from ..fhir.subscriptions import CRITERIA, HEARTBEAT_SECONDS, Kind, Notice
from ..launch.issuers import Issuer
from . import audit, database, jobs
from .capture import GoOn, backend_server
from .installation import Installation
from .jobs import Job

log = structlog.get_logger()

TO_COME_BY_ITSELF = timedelta(seconds=10)  # so long a missing number may still arrive out of order
CHECK_EVERY = timedelta(minutes=5)
SILENT_AFTER = 3 * timedelta(seconds=HEARTBEAT_SECONDS)
MOST_MISSING = 1000  # more than that is found by one search instead
ACTIVE, UNKNOWN, GONE = "active", "unknown", "gone"
DOUBTFUL = (TimedOut, Dropped, BadAnswer, ServerFailed)
PASSING = (NotAuthorized, RateLimited, ServerFailed)


class Secrets(msgspec.Struct, frozen=True):
    """What only the EHR and we know: where its notifications come in, and what they carry."""

    path: str
    token: str

    @property
    def header(self) -> str:
        """The line that the EHR sends along."""
        return f"Authorization: Bearer {self.token}"


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as it stands here. ``ahead`` are events that came before one that is missing."""

    id: str
    issuer: str
    kind: Kind
    criteria: str
    ehr_id: str | None
    status: str
    through: int
    ahead: tuple[int, ...]
    made_at: datetime
    checked_at: datetime | None
    heard_at: datetime | None
    event_at: datetime | None
    problem: str | None

    def is_silent(self, now: datetime) -> bool:
        """Whether not even a heartbeat came for too long; R4's own kind has none."""
        return self.kind == "topic" and now - (self.heard_at or self.made_at) > SILENT_AFTER

    def needs_a_person(self, now: datetime) -> bool:
        """Whether the EHR may not be telling us what it should."""
        return self.status != ACTIVE or self.is_silent(now) or self.problem is not None


class NotSubscribed(Exception):
    """The EHR did not make the subscription, or it is there already; the message says what to do."""


# --- made and taken back ----------------------------------------------------------------------------------


def subscribe(here: Installation, issuer: Issuer, kind: Kind | None, criteria: str | None) -> Subscription:
    """Has the EHR tell us of visits that end: by the topic that it lists, else by R4's search.

    ``kind`` and ``criteria`` are the operator's word, where the EHR does not say, or says too much. One that
    stands in error is taken back first. Raises ``NotSubscribed``, ``EhrError``, ``LaunchRefused``.
    """
    server = backend_server(here, issuer)
    if issuer.backend and issuer.backend.scopes is None and "subscriptions" not in issuer.backend.also_for:
        raise NotSubscribed(
            f"Quarterhour asks {issuer.name} for no access to subscriptions. "
            f'Put "subscriptions" into also_for of [issuers.{issuer.id}.backend], and have the EHR grant it.'
        )
    kind, criteria = _chosen(server, issuer, kind, criteria)
    for old in known(here, issuer):
        if old.status == ACTIVE:
            raise NotSubscribed(
                f"{issuer.name} has an active subscription of ours already. "
                f"To make another, first: quarterhour subscriptions delete --issuer {issuer.iss}"
            )
        unsubscribe(here, issuer, old)
    made = Secrets(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
    id_ = secrets.token_hex(16)
    table = database.subscription
    # Before the EHR hears of it: its greeting comes before its answer.
    with here.engine.begin() as connection:
        connection.execute(
            insert(table).values(
                id=id_,
                issuer=issuer.iss,
                path=here.vault.index("subscription", made.path),
                sealed=here.vault.seal(made),
                kind=kind,
                criteria=criteria,
                status="requested",
                through=0,
                made_at=here.clock(),
            )
        )
    try:
        ehr_id = at_ehr.create(server, at_ehr.subscription(kind, criteria, endpoint(here, made), made.header))
    except DOUBTFUL as error:
        _set(here, id_, status=UNKNOWN, problem=here.vault.seal(in_words(error)))
    except EhrError:
        with here.engine.begin() as connection:
            connection.execute(delete(table).where(table.c.id == id_))
        raise
    else:
        _set(here, id_, ehr_id=ehr_id)
    with here.engine.begin() as connection:
        # What ended before it began is found by a search; whether it came to life, by a look.
        now = here.clock()
        jobs.ask(connection, here.vault, jobs.Kind.LOOK, issuer.iss, issuer.iss, now)
        jobs.ask(connection, here.vault, jobs.Kind.CATCH_UP, issuer.iss, id_, now + TO_COME_BY_ITSELF)
        _record(connection, here, issuer, "subscription-made", {"kind": kind, "criteria": criteria})
    return _one(here, id_)


def unsubscribe(here: Installation, issuer: Issuer, one: Subscription) -> None:
    """Takes it back at the EHR, then forgets it. Raises ``EhrError``, ``LaunchRefused``; then it stays."""
    server = backend_server(here, issuer)
    ehr_id = one.ehr_id or at_ehr.found_at(server, endpoint(here, _secrets(here, one.id)))
    if ehr_id is not None:
        try:
            server.delete(f"Subscription/{ehr_id}")
        except NotFound:
            log.info("subscription_was_gone", issuer=issuer.id)
    with here.engine.begin() as connection:
        received, table = database.received_event, database.subscription
        connection.execute(delete(received).where(received.c.subscription == one.id))
        connection.execute(delete(table).where(table.c.id == one.id))
        _record(connection, here, issuer, "subscription-taken-back", {"kind": one.kind})


def endpoint(here: Installation, made: Secrets) -> str:
    """Where the EHR sends its notifications."""
    return f"{here.settings.public_url}/subscriptions/{made.path}"


def _chosen(server: Server, issuer: Issuer, kind: Kind | None, criteria: str | None) -> tuple[Kind, str]:
    if kind == "criteria":
        return kind, criteria or CRITERIA
    if kind == "topic" and criteria:
        return kind, criteria
    offered = at_ehr.offered(server)
    topic = at_ehr.topic_of(offered.topics)
    if topic:
        return "topic", topic
    if kind == "topic" or (offered.topics and not offered.creates):
        listed = ", ".join(offered.topics) or "none"
        raise NotSubscribed(
            f"{issuer.name} lists no topic that we know for the end of a visit (it lists: {listed}). "
            "Name the one to use with --topic."
        )
    if not offered.creates:
        raise NotSubscribed(
            f"{issuer.name} offers no subscriptions. Set poll_minutes in [issuers.{issuer.id}.capture], "
            "so that it is asked what changed."
        )
    return "criteria", CRITERIA


# --- looked at --------------------------------------------------------------------------------------------


def known(here: Installation, issuer: Issuer | None = None) -> tuple[Subscription, ...]:
    """The subscriptions at one EHR, or at all, the oldest first."""
    table = database.subscription
    query = select(table.c.id).order_by(table.c.made_at)
    if issuer is not None:
        query = query.where(table.c.issuer == issuer.iss)
    with here.engine.begin() as connection:
        return tuple(_read(connection, here, id_) for id_ in connection.scalars(query).all())


def _one(here: Installation, id_: str) -> Subscription:
    with here.engine.begin() as connection:
        return _read(connection, here, id_)


def _read(connection: Connection, here: Installation, id_: str) -> Subscription:
    table = database.subscription
    row = connection.execute(select(table).where(table.c.id == id_)).one()
    return Subscription(
        id=row.id,
        issuer=row.issuer,
        kind=row.kind,
        criteria=row.criteria,
        ehr_id=row.ehr_id,
        status=row.status,
        through=row.through,
        ahead=tuple(sorted(_received(connection, id_))),
        made_at=row.made_at,
        checked_at=row.checked_at,
        heard_at=row.heard_at,
        event_at=row.event_at,
        problem=here.vault.open(row.problem, str) if row.problem else None,
    )


# --- what comes in ----------------------------------------------------------------------------------------


def addressed(here: Installation, path: str, authorization: str | None) -> str | None:
    """The id of the subscription whose address and secret these are; None for all others.

    The address is found by its keyed hash and the secret compared in constant time, so neither can be felt for.
    """
    table = database.subscription
    with here.engine.begin() as connection:
        row = connection.execute(
            select(table.c.id, table.c.sealed).where(table.c.path == here.vault.index("subscription", path))
        ).first()
    if row is None:
        return None
    expected = f"Bearer {here.vault.open(row.sealed, Secrets).token}".encode()
    return row.id if hmac.compare_digest(expected, (authorization or "").encode()) else None


def take_in(here: Installation, id_: str, told: Notice | str | None) -> None:
    """Stores what a notification tells, and asks for what follows from it, in one transaction.

    ``told`` is a Notice, the reference of an Encounter alone, or None for one that only says that something
    happened. Nothing is asked of the EHR here.
    """
    now = here.clock()
    table = database.subscription
    with here.engine.begin() as connection:
        row = connection.execute(select(table).where(table.c.id == id_).with_for_update()).first()
        if row is None:  # taken back a moment ago
            return
        notice = told if isinstance(told, Notice) else Notice("event-notification", nameless=told is None)
        encounters = (told,) if isinstance(told, str) else notice.encounters
        before = _received(connection, id_)
        fresh = {number for number in notice.numbers if number > row.through} - before
        repeated = bool(notice.numbers) and not fresh
        through, ahead = _contiguous(row.through, before | fresh)
        _keep(connection, id_, through, ahead & fresh, now)
        if not repeated:
            for encounter in sorted(encounters):  # in one order always, so that no two wait for each other
                jobs.ask(connection, here.vault, jobs.Kind.CAPTURE, row.issuer, encounter, now)
            if notice.nameless:
                jobs.ask(connection, here.vault, jobs.Kind.LOOK, row.issuer, row.issuer, now)
        # What does not fit may be a loss, a number out of order, or the EHR counting anew: it is asked which.
        if repeated or ahead or notice.count not in {None, through} or notice.status not in {None, ACTIVE}:
            jobs.ask(connection, here.vault, jobs.Kind.CATCH_UP, row.issuer, id_, now + TO_COME_BY_ITSELF)
        is_event = bool(notice.numbers or encounters or notice.nameless)
        connection.execute(
            update(table)
            .where(table.c.id == id_)
            .values(through=through, heard_at=now, **({"event_at": now} if is_event else {}))
        )


def overwhelmed(here: Installation, id_: str) -> None:
    """A notification of this subscription was not looked at: the EHR is asked later what it told."""
    table = database.subscription
    with here.engine.begin() as connection:
        iss = connection.scalar(select(table.c.issuer).where(table.c.id == id_))
        if iss is not None:
            due_at = here.clock() + TO_COME_BY_ITSELF
            jobs.ask(connection, here.vault, jobs.Kind.CATCH_UP, iss, id_, due_at)
            jobs.ask(connection, here.vault, jobs.Kind.LOOK, iss, iss, due_at)


# --- what did not come in ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Looked:
    """What the EHR says of a subscription. ``status`` None: it has none such."""

    asked_at: datetime
    ehr_id: str | None
    status: Notice | None
    events: Notice | None  # what was missing, as far as the EHR still has it


def look(here: Installation, issuer: Issuer, one: Subscription) -> Looked:
    """Asks the EHR how it sees a subscription, and for what is missing. Raises ``EhrError``, ``LaunchRefused``."""
    asked_at = here.clock()
    server = backend_server(here, issuer)
    ehr_id = one.ehr_id or at_ehr.found_at(server, endpoint(here, _secrets(here, one.id)))
    if ehr_id is None:
        return Looked(asked_at, None, None, None)
    try:
        status = at_ehr.status_of(server, one.kind, ehr_id)
    except NotFound:
        return Looked(asked_at, ehr_id, None, None)
    first, last = one.through + 1, status.count or 0
    few = 0 < last - one.through <= MOST_MISSING
    missing = [number for number in range(first, last + 1) if number not in one.ahead] if few else []
    events = at_ehr.events_of(server, ehr_id, missing[0], missing[-1]) if missing else None
    return Looked(asked_at, ehr_id, status, events)


def settle(
    connection: Connection, here: Installation, id_: str, before: Subscription, looked: Looked
) -> None:
    """Stores what a look found and asks for what was missing, within the caller's transaction.

    ``before`` is the subscription as the look began; what has come in since then stays.
    """
    table, now = database.subscription, here.clock()
    row = connection.execute(select(table).where(table.c.id == id_).with_for_update()).first()
    if row is None:
        return
    status, through = looked.status, row.through
    is_whole = status is not None and status.status == ACTIVE and before.kind == "topic"
    if status is not None and status.count is not None:
        # A number that the EHR has not reached, and that came in before it was asked, never was one of its own.
        received = database.received_event
        connection.execute(
            delete(received).where(
                received.c.subscription == id_,
                received.c.number > status.count,
                received.c.at < looked.asked_at,
            )
        )
        if status.count < before.through == row.through:
            is_whole, through = False, status.count  # the EHR counts anew
        elif status.count > row.through:
            events = looked.events or Notice("query-event")
            told = _received(connection, id_) | set(events.numbers)
            missing = (
                status.count - row.through - sum(row.through < number <= status.count for number in told)
            )
            is_whole = is_whole and not missing and not events.nameless
            for encounter in sorted(events.encounters):
                jobs.ask(connection, here.vault, jobs.Kind.CAPTURE, row.issuer, encounter, now)
            through = status.count
    through, _ahead = _contiguous(through, _received(connection, id_))
    _keep(connection, id_, through, set(), now)
    if not is_whole:
        jobs.ask(connection, here.vault, jobs.Kind.LOOK, row.issuer, row.issuer, now)
    problem = _problem(before, looked)
    connection.execute(
        update(table)
        .where(table.c.id == id_)
        .values(
            through=through,
            ehr_id=looked.ehr_id,
            status=(status.status or UNKNOWN) if status else GONE,
            checked_at=now,
            problem=here.vault.seal(problem) if problem else None,
        )
    )
    if problem:
        log.warning("subscription_in_trouble", issuer=row.issuer, status=status.status if status else GONE)


def catch_up(here: Installation, issuer: Issuer, job: Job, go_on: GoOn) -> None:
    """The job of ``Kind.CATCH_UP``; its end is in the transaction of what it found.

    Raises ``EhrError`` or ``LaunchRefused`` where the EHR could not be asked. Each time that it cannot be asked or
    will not say, what changed is searched for.
    """
    one = next((one for one in known(here, issuer) if one.id == job.about), None)
    looked: Looked | Refused | None
    try:
        looked = look(here, issuer, one) if one else None
    except EhrError as error:
        with here.engine.begin() as connection:
            jobs.ask(connection, here.vault, jobs.Kind.LOOK, issuer.iss, issuer.iss, here.clock())
        if not isinstance(error, Refused) or isinstance(error, PASSING):
            raise
        looked = error
    go_on()
    with here.engine.begin() as connection:
        if one and isinstance(looked, Looked):
            settle(connection, here, one.id, one, looked)
        elif one and isinstance(looked, Refused):
            _note_refusal(connection, here, one.id, looked)
        jobs.done(connection, job, here.clock())


def _note_refusal(connection: Connection, here: Installation, id_: str, error: EhrError) -> None:
    table = database.subscription
    says = f"The EHR does not say how the subscription stands. {in_words(error)}"
    values = {"checked_at": here.clock(), "problem": here.vault.seal(says)}
    connection.execute(update(table).where(table.c.id == id_).values(**values))


def check(here: Installation, issuer: Issuer, one: Subscription) -> Subscription:
    """A look at once, for a person. Raises ``EhrError``, ``LaunchRefused``."""
    looked = look(here, issuer, one)
    with here.engine.begin() as connection:
        settle(connection, here, one.id, one, looked)
    return _one(here, one.id)


def ask_for_checks(here: Installation) -> None:
    """Asks for a look at every subscription that was not looked at for a while; workers call it now and then."""
    table, now = database.subscription, here.clock()
    late = now - CHECK_EVERY
    with here.engine.begin() as connection:
        rows = connection.execute(
            select(table.c.id, table.c.issuer).where(
                or_(table.c.checked_at <= late, table.c.checked_at.is_(None) & (table.c.made_at <= late))
            )
        ).all()
        for row in rows:
            jobs.ask(connection, here.vault, jobs.Kind.CATCH_UP, row.issuer, row.id, now)


def _problem(before: Subscription, looked: Looked) -> str | None:
    status = looked.status
    if status is None:
        where = "has no such subscription any more" if before.ehr_id else "does not know of the subscription"
        return f"The EHR {where}. Make it anew: quarterhour subscriptions create."
    said = " ".join(status.errors)
    if status.status != ACTIVE:
        reason = f" It says: {said}" if said else ""
        return f"The EHR says that the subscription is {status.status or 'in no state'}.{reason}"
    return None


# --- event numbers ----------------------------------------------------------------------------------------


def _contiguous(through: int, numbers: set[int]) -> tuple[int, set[int]]:
    """How far the numbers go without a gap from ``through`` on, and those beyond the gap."""
    while through + 1 in numbers:
        through += 1
    return through, {number for number in numbers if number > through}


def _received(connection: Connection, id_: str) -> set[int]:
    table = database.received_event
    return set(connection.scalars(select(table.c.number).where(table.c.subscription == id_)))


def _keep(connection: Connection, id_: str, through: int, new: set[int], now: datetime) -> None:
    """Stores numbers that are ahead of a gap; those that are dealt with need no row."""
    table = database.received_event
    if new:
        connection.execute(insert(table), [{"subscription": id_, "number": n, "at": now} for n in new])
    connection.execute(delete(table).where(table.c.subscription == id_, table.c.number <= through))


# --- the rest ---------------------------------------------------------------------------------------------


def in_words(error: EhrError) -> str:
    """An error with what the EHR said."""
    return " ".join([str(error), *(f"The EHR says: {words}" for words in error.words)])


def _secrets(here: Installation, id_: str) -> Secrets:
    table = database.subscription
    with here.engine.begin() as connection:
        sealed = connection.execute(select(table.c.sealed).where(table.c.id == id_)).scalar_one()
    return here.vault.open(sealed, Secrets)


def _set(here: Installation, id_: str, **values: Any) -> None:
    table = database.subscription
    with here.engine.begin() as connection:
        connection.execute(update(table).where(table.c.id == id_).values(**values))


def _record(
    connection: Connection, here: Installation, issuer: Issuer, action: str, what: dict[str, Any]
) -> None:
    audit.record(
        connection,
        here.vault,
        now=here.clock(),
        action=action,
        who="Quarterhour",
        issuer=issuer.iss,
        what=what,
    )
