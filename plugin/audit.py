"""The audit trail: who did what, when, on which visit, under which terms. Append-only and hash-chained.

45 CFR 164.312(b) asks to record and examine activity
(https://www.ecfr.gov/current/title-45/section-164.312#p-164.312(b)).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from . import database
from .vault import SealBroken, Vault

FIRST = "0" * 64
_LAST = (
    select(database.audit.c.number, database.audit.c.hash).order_by(database.audit.c.number.desc()).limit(1)
)
_ADD = database.audit.insert()


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
    last = connection.execute(_LAST).first()
    number = (last.number if last else 0) + 1
    plain = msgspec.json.encode({"who": who, "what": what})
    connection.execute(
        _ADD,
        {
            "number": number,
            "at": now,
            "action": action,
            "visit": visit,
            "sealed": vault.seal_bytes(plain),
            "hash": _chained(last.hash if last else FIRST, number, now, action, visit, plain, vault),
        },
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
    rows = connection.execute(select(database.audit).order_by(database.audit.c.number))
    return broken_in(rows, vault, kept)


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
        hashed = _chained(before, row.number, row.at, row.action, row.visit, plain, vault)
    except (
        SealBroken,
        AttributeError,
        TypeError,
        ValueError,
    ):  # what was sealed, or the time, is none any more
        return False
    return row.number == expected and hmac.compare_digest(str(row.hash), hashed)


def _chained(
    before: str, number: int, at: datetime, action: str, visit: str | None, plain: bytes, vault: Vault
) -> str:
    """Over what is said, not how it is sealed, so that keys can rotate.

    Keyed, so that whoever can write the table but has no key cannot make the chain whole again.
    """
    digest = hashlib.sha256(plain).hexdigest()
    instant = at.astimezone(UTC).isoformat(timespec="microseconds")
    return vault.index("audit", before, str(number), instant, action, visit or "", digest)
