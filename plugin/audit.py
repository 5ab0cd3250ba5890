"""The audit trail: who did what, when, on which visit, under which terms. Append-only and hash-chained.

45 CFR 164.312(b) asks to record and examine activity
(https://www.ecfr.gov/current/title-45/section-164.312#p-164.312(b)).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, or_, select

from . import database
from .vault import SealBroken, Vault

FIRST = "0" * 64
A_PART = 1000  # entries read at a time
_LAST = (
    select(database.audit.c.number, database.audit.c.hash).order_by(database.audit.c.number.desc()).limit(1)
)
_ADD = database.audit.insert()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it is read back."""

    number: int
    at: datetime
    action: str
    issuer: str | None
    visit: str | None
    who: str
    what: Any


@dataclass(frozen=True, slots=True)
class Draft:
    """What an entry will say, sealed before the transaction that it belongs to has begun."""

    now: datetime
    action: str
    issuer: str | None
    visit: str | None
    plain: bytes
    sealed: bytes


def record(
    connection: Connection,
    vault: Vault,
    *,
    now: datetime,
    action: str,
    who: str,
    issuer: str | None,
    visit: str | None = None,
    what: Mapping[str, Any] | None = None,
) -> None:
    """Adds one entry, within the caller's transaction: what is done and its entry stand or fall together.

    ``who`` is the person's reference in the EHR; ``what`` anything msgspec encodes. Both are sealed. ``issuer``
    is the EHR whose administrators may read it in the browser; None is for what belongs to no EHR.
    """
    entry = drafted(vault, now=now, action=action, who=who, issuer=issuer, visit=visit, what=what)
    add(connection, vault, entry, last(connection))


def drafted(
    vault: Vault,
    *,
    now: datetime,
    action: str,
    who: str,
    issuer: str | None,
    visit: str | None = None,
    what: Mapping[str, Any] | None = None,
) -> Draft:
    """An entry made ready, for a transaction that is to be short; ``add`` puts it on the trail."""
    plain = msgspec.json.encode({"who": who, "what": what})
    return Draft(now, action, issuer, visit, plain, vault.seal_bytes(plain))


def last(connection: Connection) -> tuple[int, str]:
    """The number and hash that the next entry follows; nobody else adds one until the transaction ends."""
    if connection.dialect.name == "postgresql":
        # Entries follow one another; SQLite's BEGIN IMMEDIATE already sees to that. In one round trip.
        driver: Any = connection.connection.driver_connection
        with driver.pipeline():
            driver.execute("SELECT pg_advisory_xact_lock(7142026)")
            found = driver.execute("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    else:
        found = connection.execute(_LAST).first()
    return (found[0], found[1]) if found else (0, FIRST)


def add(connection: Connection, vault: Vault, entry: Draft, after: tuple[int, str]) -> None:
    """Puts it behind the last entry, as ``last`` gave it in the same transaction."""
    number, before = after[0] + 1, after[1]
    connection.execute(
        _ADD,
        {
            "number": number,
            "at": entry.now,
            "action": entry.action,
            "issuer": entry.issuer,
            "visit": entry.visit,
            "sealed": entry.sealed,
            "hash": _chained(
                before, number, entry.now, entry.action, entry.issuer, entry.visit, entry.plain, vault
            ),
        },
    )


def entries(connection: Connection, vault: Vault, visit: str | None = None) -> list[Entry]:
    """The trail of a visit, or all of it, oldest first."""
    return list(told(connection, vault, visit))


def told(connection: Connection, vault: Vault, visit: str | None = None) -> Iterator[Entry]:
    """The same entry by entry: a trail may be longer than memory."""
    query = select(database.audit).order_by(database.audit.c.number)
    if visit is not None:
        query = query.where(database.audit.c.visit == visit)
    for row in connection.execute(query.execution_options(yield_per=A_PART)):
        yield _opened(row, vault)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which entries are looked for. ``issuers`` may hold None, for those of no EHR."""

    issuers: Collection[str | None]
    action: str = ""
    who: str = ""  # a part of it
    since: datetime | None = None
    before: datetime | None = None  # this instant not included


def found(
    connection: Connection, vault: Vault, asked: Asked, *, first: int, most: int
) -> tuple[list[Entry], int]:
    """The entries from the ``first`` of those that fit, newest first, at most so many; and how many fit.

    ``who`` is sealed, so looking for it opens every entry that fits otherwise, one after another.
    """
    table = database.audit
    fits = [or_(*(table.c.issuer == issuer for issuer in asked.issuers))]
    if asked.action:
        fits.append(table.c.action == asked.action)
    if asked.since:
        fits.append(table.c.at >= asked.since)
    if asked.before:
        fits.append(table.c.at < asked.before)
    query = select(table).where(*fits).order_by(table.c.number.desc())
    if not asked.who:
        count = connection.scalar(select(func.count()).select_from(table).where(*fits)) or 0
        page = connection.execute(query.limit(most).offset(first))
        return [_opened(row, vault) for row in page], count
    count, entries = 0, []
    for row in connection.execute(query.execution_options(yield_per=A_PART)):
        entry = _opened(row, vault)
        if asked.who in entry.who:
            if first <= count < first + most:
                entries.append(entry)
            count += 1
    return entries, count


def actions(connection: Connection, issuers: Collection[str | None]) -> list[str]:
    """The actions that entries of these EHRs are about."""
    table = database.audit
    query = select(table.c.action).where(or_(*(table.c.issuer == issuer for issuer in issuers))).distinct()
    return sorted(connection.scalars(query))


def _opened(row: Any, vault: Vault) -> Entry:
    opened = vault.open(row.sealed)
    return Entry(
        number=row.number,
        at=row.at,
        action=row.action,
        issuer=row.issuer,
        visit=row.visit,
        who=opened["who"],
        what=opened["what"],
    )


def head(connection: Connection) -> str:
    """The last entry's number and hash, to be kept somewhere else: with it a cut-off end is found too."""
    last = connection.execute(
        select(database.audit.c.number, database.audit.c.hash)
        .order_by(database.audit.c.number.desc())
        .limit(1)
    ).first()
    return f"{last.number}:{last.hash}" if last else f"0:{FIRST}"


def broken_at(connection: Connection, vault: Vault, kept: str | None = None) -> int | None:
    """The number of the first entry that was edited, or that follows one removed or moved; None: all well.

    Entries cut off at the end leave a shorter whole chain: ``kept``, an earlier ``head``, tells. Raises
    ValueError for a ``kept`` that is no head.
    """
    rows = connection.execute(select(database.audit).order_by(database.audit.c.number)).all()
    found = [broken_in(rows, vault, kept), _edited(connection, vault, rows)]
    return min((number for number in found if number is not None), default=None)


# What an entry says of a decision, so that it need not repeat it: its id, and digests of it and its charges.
Decided = Mapping[str, Any]


def decided(decision: str, plain: bytes, charges: Iterable[tuple[str, bytes]]) -> Decided:
    """By digests of what was sealed: what was decided cannot be edited without the trail telling."""
    return {
        "decision": decision,
        "digest": _digest(plain),
        "charges": {identifier: _digest(charge) for identifier, charge in charges},
    }


def _digest(plain: bytes) -> str:
    return hashlib.sha256(plain).hexdigest()


def _edited(connection: Connection, vault: Vault, rows: Iterable[Any]) -> int | None:
    """The first entry whose decision, or a charge of it, is no longer what it was when it was signed."""
    for row in rows:
        if row.action not in {"signed", "corrected"}:
            continue
        try:
            what = vault.open(row.sealed)["what"] or {}
        except (SealBroken, TypeError, ValueError):
            continue  # ``broken_in`` tells
        if "digest" in what and not _is_as_signed(connection, vault, what):
            return int(row.number)
    return None


def _is_as_signed(connection: Connection, vault: Vault, what: Decided) -> bool:
    decision, charge = database.decision, database.charge
    kept = connection.scalar(select(decision.c.sealed).where(decision.c.id == what["decision"]))
    charges = connection.execute(
        select(charge.c.identifier, charge.c.sealed).where(charge.c.decision == what["decision"])
    ).all()
    try:
        return (
            kept is not None
            and _digest(vault.open_bytes(kept)) == what["digest"]
            and {row.identifier: _digest(vault.open_bytes(row.sealed)) for row in charges} == what["charges"]
        )
    except (SealBroken, AttributeError, TypeError):
        return False


def broken_in(rows: Iterable[Any], vault: Vault, kept: str | None = None) -> int | None:
    """As ``broken_at``, of these rows, which stand in the order of their numbers."""
    number, _, kept_hash = (kept or f"0:{FIRST}").partition(":")
    if not (number.isascii() and number.isdigit() and len(kept_hash) == len(FIRST)):
        raise ValueError("A head is a number, a colon and 64 letters, as `quarterhour audit head` prints it.")
    before = FIRST
    expected = 1
    hashes = {0: FIRST}
    for row in rows:
        if not _is_whole(row, before, expected, vault):
            return expected
        before = hashes[expected] = row.hash
        expected += 1
    return None if hashes.get(int(number)) == kept_hash else min(int(number), expected)


def _is_whole(row: Any, before: str, expected: int, vault: Vault) -> bool:
    try:
        plain = vault.open_bytes(row.sealed)
        hashed = _chained(before, row.number, row.at, row.action, row.issuer, row.visit, plain, vault)
    except (
        SealBroken,
        AttributeError,
        TypeError,
        ValueError,
    ):  # what was sealed, or the time, is none any more
        return False
    return row.number == expected and hmac.compare_digest(str(row.hash), hashed)


def _chained(
    before: str,
    number: int,
    at: datetime,
    action: str,
    issuer: str | None,
    visit: str | None,
    plain: bytes,
    vault: Vault,
) -> str:
    """Over what is said, not how it is sealed, so that keys can rotate.

    Keyed, so that whoever can write the table but has no key cannot make the chain whole again.
    """
    digest = hashlib.sha256(plain).hexdigest()
    instant = at.astimezone(UTC).isoformat(timespec="microseconds")
    # Entries from before they had an issuer have none in their hash either.
    of = () if issuer is None else (issuer,)
    return vault.index("audit", before, str(number), instant, action, visit or "", digest, *of)
