"""The audit trail: who did what, when, on which visit, under which terms. Append-only and hash-chained.

45 CFR 164.312(b) asks to record and examine activity
(https://www.ecfr.gov/current/title-45/section-164.312#p-164.312(b)).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from . import database
from .vault import Vault

FIRST = "0" * 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it is read back."""

    number: int
    at: datetime
    action: str
    visit: str | None
    who: str
    what: Any


def record(
    connection: Connection,
    vault: Vault,
    *,
    now: datetime,
    action: str,
    who: str,
    visit: str | None = None,
    what: Mapping[str, Any] | None = None,
) -> None:
    """Adds one entry, within the caller's transaction: what is done and its entry stand or fall together.

    ``who`` is the person's reference in the EHR; ``what`` anything msgspec encodes. Both are sealed.
    """
    if connection.dialect.name == "postgresql":
        # Entries follow one another; SQLite's BEGIN IMMEDIATE already sees to that.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7142026)")
    last = connection.execute(
        select(database.audit.c.number, database.audit.c.hash)
        .order_by(database.audit.c.number.desc())
        .limit(1)
    ).first()
    number = (last.number if last else 0) + 1
    plain = msgspec.json.encode({"who": who, "what": what})
    connection.execute(
        database.audit.insert().values(
            number=number,
            at=now,
            action=action,
            visit=visit,
            sealed=vault.seal_bytes(plain),
            hash=_chained(last.hash if last else FIRST, number, now, action, visit, plain, vault),
        )
    )


def entries(connection: Connection, vault: Vault, visit: str | None = None) -> list[Entry]:
    """The trail of a visit, or all of it, oldest first."""
    query = select(database.audit).order_by(database.audit.c.number)
    if visit is not None:
        query = query.where(database.audit.c.visit == visit)
    found = []
    for row in connection.execute(query):
        opened = vault.open(row.sealed)
        found.append(
            Entry(
                number=row.number,
                at=row.at,
                action=row.action,
                visit=row.visit,
                who=opened["who"],
                what=opened["what"],
            )
        )
    return found


def broken_at(connection: Connection, vault: Vault) -> int | None:
    """The number of the first entry that was edited, or that follows one removed or moved; None: all well.

    Entries cut off at the end leave a shorter whole chain: compare the last number with a kept one.
    """
    before = FIRST
    expected = 1
    for row in connection.execute(select(database.audit).order_by(database.audit.c.number)):
        plain = vault.open_bytes(row.sealed)
        hashed = _chained(before, row.number, row.at, row.action, row.visit, plain, vault)
        if row.number != expected or row.hash != hashed:
            return expected
        before, expected = row.hash, expected + 1
    return None


def _chained(
    before: str, number: int, at: datetime, action: str, visit: str | None, plain: bytes, vault: Vault
) -> str:
    """Over what is said, not how it is sealed, so that keys can rotate.

    Keyed, so that whoever can write the table but has no key cannot make the chain whole again.
    """
    digest = hashlib.sha256(plain).hexdigest()
    instant = at.astimezone(UTC).isoformat(timespec="microseconds")
    return vault.index("audit", before, str(number), instant, action, visit or "", digest)
