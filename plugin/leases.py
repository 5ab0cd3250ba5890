"""Leases: the right to work on one thing, held by one worker at a time, whatever process it runs in.

A lease ends by itself when its holder dies. Each new holder gets the next number of the fence, and every
step of a holder's work checks that the lease is still its own, in the transaction of that step: a process
that slept through its lease changes nothing any more.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from . import database

LEASE = timedelta(minutes=2)


class LeaseLost(Exception):
    """Somebody else holds it now; this worker must not touch what it is about any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on what ``name`` stands for, a keyed hash, for as long as it is renewed."""

    name: str
    owner: str
    fence: int


def take(connection: Connection, name: str, now: datetime, lasts: timedelta = LEASE) -> Lease | None:
    """The lease of that name, where nobody holds it; within the caller's transaction."""
    table = database.lease
    owner = secrets.token_hex(16)
    taken = connection.execute(
        update(table)
        .where(table.c.name == name, or_(table.c.until.is_(None), table.c.until < now))
        .values(owner=owner, fence=table.c.fence + 1, until=now + lasts)
        .returning(table.c.fence)
    ).scalar()
    if taken is not None:
        return Lease(name, owner, taken)
    if connection.scalar(select(table.c.fence).where(table.c.name == name)) is not None:
        return None
    try:
        with connection.begin_nested():
            connection.execute(table.insert().values(name=name, owner=owner, fence=1, until=now + lasts))
    except IntegrityError:  # another process was first
        return None
    return Lease(name, owner, 1)


def renew(connection: Connection, lease: Lease, now: datetime, lasts: timedelta = LEASE) -> None:
    """Within the caller's transaction, so that it and what it does stand or fall together.

    Raises ``LeaseLost``.
    """
    table = database.lease
    renewed = connection.execute(update(table).where(_is(lease)).values(until=now + lasts))
    if renewed.rowcount != 1:
        raise LeaseLost


def release(connection: Connection, lease: Lease) -> None:
    """Gives it back, if it is still held; the fence stays."""
    connection.execute(update(database.lease).where(_is(lease)).values(until=None))


def forget(connection: Connection, lease: Lease) -> None:
    """Gives it back for good: what it was about is no more. Raises ``LeaseLost``."""
    if connection.execute(delete(database.lease).where(_is(lease))).rowcount != 1:
        raise LeaseLost


def fence_off(connection: Connection, name: str) -> None:
    """Whoever holds it loses it, in the caller's transaction."""
    table = database.lease
    connection.execute(update(table).where(table.c.name == name).values(fence=table.c.fence + 1, until=None))


def is_held(connection: Connection, name: str, now: datetime) -> bool:
    """Whether somebody works on it; the lease stays as it is until the transaction ends."""
    table = database.lease
    row = connection.execute(select(table.c.until).where(table.c.name == name).with_for_update()).first()
    return row is not None and row.until is not None and row.until >= now


def _is(lease: Lease) -> ColumnElement[bool]:
    table = database.lease
    return (table.c.name == lease.name) & (table.c.owner == lease.owner) & (table.c.fence == lease.fence)
