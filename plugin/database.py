"""The tables: launches, drafts, decisions with their charges, and the audit trail.

Whatever tells about a patient or opens an EHR is in a ``sealed`` column (see vault.py); the other
columns are keyed hashes, states and times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import IntegrityError

from .vault import Vault


class Instant(TypeDecorator[datetime]):
    """An aware instant, stored in UTC; SQLite keeps no zone of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses a time without a zone rather than guessing one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """The instant in UTC."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


metadata = MetaData()

keyring = Table(
    "keyring",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

# A launch that is under way at the EHR's authorization page.
pending = Table(
    "pending",
    metadata,
    Column("state", String(64), primary_key=True),  # index of the state; the state itself is sealed
    Column("sealed", LargeBinary, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
)

# A finished launch: one tab, one patient. Everything a browser asks for names one, and owns it by cookie.
launch = Table(
    "launch",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("browser", String(64), nullable=False),  # index of the cookie's value
    Column("issuer", String(500), nullable=False),
    Column("person", String(64), nullable=False),  # index of (issuer, sub)
    Column("session", LargeBinary, nullable=False),  # sealed: tokens, identity, context
    Column("chart", LargeBinary),  # sealed: the visits as they were read
    Column("encounter", LargeBinary),  # sealed: the one chosen here, where the launch had none
    Column("roles", LargeBinary),  # sealed: the person's; null: not looked up yet
    Column("renewing_until", Instant),  # one renewal of the token at a time
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
)

# What a person has settled so far. Found again after a relaunch, whatever became of the tab.
draft = Table(
    "draft",
    metadata,
    Column("visit", String(64), primary_key=True),  # index of (issuer, patient, encounter, date, ...)
    Column("person", String(64), primary_key=True, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

# A visit that was captured, or looked at here: what the worklist shows of it.
known_visit = Table(
    "known_visit",
    metadata,
    Column("visit", String(64), primary_key=True),
    Column("issuer", String(500), nullable=False, index=True),
    Column("person", String(64), nullable=False, index=True),  # who looked at it last; empty: nobody yet
    Column("seen_at", Instant, nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),  # a worklist.Summary
    Column("patient", String(64), index=True),  # index of (issuer, "Patient/..."); none before they were kept
    Column("encounter", String(64), index=True),  # index of (issuer, "Encounter/...")
    Column("closed", Integer, nullable=False, default=0),  # 1: nothing is left to do about it
)

# Who furnished the services of a visit: they see it on the worklist before anybody opened it.
furnished = Table(
    "furnished",
    metadata,
    Column("visit", String(64), primary_key=True),
    Column("performer", String(64), primary_key=True, index=True),  # index of (issuer, "Practitioner/...")
)

# What is to be done by whichever worker is free: asked for in the transaction of what it serves. A job is
# removed when it is done; one that was given up stays until somebody tries it again.
job = Table(
    "job",
    metadata,
    Column("id", String(64), primary_key=True),  # index of (kind, issuer, about); also its lease's name
    Column("kind", String(20), nullable=False),
    Column("issuer", String(500), nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # what it is about, "Encounter/..."
    Column("asked", Integer, nullable=False),  # how often it was asked for
    Column("attempts", Integer, nullable=False),
    Column("asked_at", Instant, nullable=False),  # first asked for
    Column("due_at", Instant, nullable=False, index=True),  # not before
    Column("given_up_at", Instant),
    Column("problem", LargeBinary),  # sealed: why the last attempt failed
    Column("progress", LargeBinary),  # sealed: where an unfinished one goes on
)

# How far each EHR was looked through, and from when on it may be asked again.
ehr = Table(
    "ehr",
    metadata,
    Column("issuer", String(500), primary_key=True),
    Column("next_at", Instant),  # no job of this EHR is begun before
    Column(
        "failures", Integer, nullable=False, default=0
    ),  # how often it failed as a whole, one after another
    Column("watermark", Instant),  # everything that changed before was seen
)

# A subscription at an EHR, from before it was asked for until it was taken back.
subscription = Table(
    "subscription",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("issuer", String(500), nullable=False, index=True),
    Column("path", String(64), nullable=False, unique=True),  # index of where its notifications come in
    Column("sealed", LargeBinary, nullable=False),  # a subscriptions.Secrets
    Column("kind", String(10), nullable=False),  # "topic" or "criteria"
    Column("criteria", String(500), nullable=False),  # the topic, or R4's search
    Column("ehr_id", String(64)),  # None: the EHR did not say
    Column("status", String(20), nullable=False),  # as the EHR said it last, of its own access and ours
    Column("through", BigInteger, nullable=False),  # every event up to this number was dealt with
    Column("made_at", Instant, nullable=False),
    Column("checked_at", Instant),  # when the EHR was asked last
    Column("heard_at", Instant),  # when it last sent anything, heartbeats included
    Column("event_at", Instant),  # when it last told of a visit
    Column("problem", LargeBinary),  # sealed: what was wrong at the last look
)

# Events that came in ahead of one that did not come yet.
received_event = Table(
    "received_event",
    metadata,
    Column("subscription", String(32), ForeignKey("subscription.id", ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("at", Instant, nullable=False),
)

# Tokens that CDS clients have used: none counts twice, whichever process it comes to.
cds_token = Table(
    "cds_token",
    metadata,
    Column("jti", String(64), primary_key=True),  # index of (issuer, jti)
    Column("until", Instant, nullable=False, index=True),  # from then on it is refused for its age
)

# The cards that were given at an EHR's moments, a row a finding that they were about; nothing of a patient.
cds_card = Table(
    "cds_card",
    metadata,
    Column("card", String(36), primary_key=True),  # its uuid
    Column("finding", String(60), primary_key=True),
    Column("issuer", String(500), nullable=False),
    Column("service", String(60), nullable=False),
    Column("given_at", Instant, nullable=False, index=True),
    Column("outcome", String(12)),  # "accepted" or "overridden"; None: nothing was heard
    Column("reason", String(40)),  # one of ours, or "other"
    Column("sealed", LargeBinary),  # what the person wrote, and another's code
    Column("told_at", Instant),
)

decision = Table(
    "decision",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("visit", String(64), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("issuer", String(500), nullable=False),
    Column("person", String(64), nullable=False, index=True),
    Column("signed_at", Instant, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # what was signed, and the terms it rests on
    Column("way", String(20), nullable=False),  # by which its charges leave: a WayName
    Column("replaces", String(32)),  # the decision that this one corrects
    # By these the decisions on other visits are found whose charges come off a visit: same_day.py.
    Column("day", String(64)),  # index of (issuer, "Patient/...", date)
    Column("place", Integer),  # how many decisions that day has with this one
    Column("encounter", String(64), index=True),  # index of (issuer, "Encounter/...")
    Column("services", Text),  # the beginnings of the indexes of (issuer, "Procedure/..."), a space between
    UniqueConstraint("visit", "revision"),  # a second click finds the first one's decision
    Index("ix_decision_day", "day", "place", unique=True),  # of two at once, one has to look again
)

# The outbox: written with the decision, in one transaction, before the EHR hears of it.
charge = Table(
    "charge",
    metadata,
    Column("identifier", String(36), primary_key=True),  # also ChargeItem.identifier
    Column("decision", String(32), ForeignKey("decision.id"), nullable=False, index=True),
    Column("position", Integer, nullable=False),
    Column("state", String(12), nullable=False, index=True),
    Column("how", String(20)),  # a word of fhir.charge_item.HOW
    Column("sealed", LargeBinary, nullable=False),  # the charge, ready to be written
    Column("reference", LargeBinary),  # sealed: where it is now, "ChargeItem/..."
    Column("problem", LargeBinary),  # sealed: the EHR's words
    Column("prepared", LargeBinary),  # sealed: what tells ours from what was there before
    Column("due_at", Instant),  # nothing is tried before
    Column("attempts", Integer, nullable=False, default=0),
    Column("updated_at", Instant, nullable=False),
)

# One worker at a time on one thing, whatever process it runs in. The fence counts the holders.
lease = Table(
    "lease",
    metadata,
    Column("name", String(64), primary_key=True),  # index of (issuer, encounter), or a job's id
    Column("owner", String(32), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("until", Instant),  # None: given back
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("action", String(40), nullable=False, index=True),
    Column("issuer", String(500), index=True),  # whose administrators may read it; none: the installation's
    Column("visit", String(64), index=True),
    Column("sealed", LargeBinary, nullable=False),  # who, and what
    Column("hash", String(64), nullable=False),  # over this entry and the one before it
)


def connect(url: str) -> Engine:
    """The database as it is; no connection is made before it is needed."""
    engine = create_engine(url, **_options(url))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sqlite_connection)
        event.listen(engine, "begin", _sqlite_begin)
    return engine


def reading(engine: Engine) -> Connection:
    """A connection for reads that belong together; it holds up no writer, and closing it ends them."""
    return engine.connect().execution_options(reading=True)


@contextmanager
def relaxed(engine: Engine) -> Iterator[Connection]:
    """A transaction that a power cut may undo, so that nobody waits for the disk; a crash of ours does not.

    For what is made again from elsewhere: a chart that was read, a row of the worklist. Never for what was
    decided, sent or entered (https://sqlite.org/pragma.html#pragma_synchronous,
    https://www.postgresql.org/docs/current/wal-async-commit.html).
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            _synchronous(connection, "NORMAL")
        try:
            with connection.begin():
                if engine.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
                yield connection
        finally:
            if engine.dialect.name == "sqlite":
                _synchronous(connection, "FULL")


@contextmanager
def together(connection: Connection) -> Iterator[None]:
    """Statements whose answers nobody waits for, one after another: PostgreSQL gets them in one round trip.

    Raises SQLAlchemy's ``IntegrityError``, at the end at the latest.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    driver = connection.connection.driver_connection
    try:
        # https://www.psycopg.org/psycopg3/docs/advanced/pipeline.html
        with driver.pipeline():  # type: ignore[union-attr]
            yield
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise IntegrityError(None, None, error) from error


def take_pending(engine: Engine, state: str) -> bytes | None:
    """Takes a launch under way out of its table: what was sealed of it, or None where there is none of this state.

    Of several that ask for one state at once, one gets it. A transaction as in ``relaxed``, but handed to the driver
    as it is: a clinician waits for it before the EHR is asked anything, and what SQLAlchemy does around a statement
    takes longer than this one.
    """
    take = _taking(engine.dialect)
    values = (state,) if take.positional else {"state": state}
    pooled = engine.raw_connection()
    try:
        driver: Any = pooled.driver_connection
        if engine.dialect.name == "postgresql":
            driver.execute("SET LOCAL synchronous_commit TO off")
            rows = driver.execute(take.string, values).fetchall()
            driver.commit()
        else:
            driver.execute("PRAGMA synchronous=NORMAL")
            try:
                # A transaction of its own, which is over once every row was asked for: only then are its errors known.
                rows = driver.execute(take.string, values).fetchall()
            finally:
                driver.execute("PRAGMA synchronous=FULL")
    finally:
        pooled.close()
    return rows[0][0] if rows else None


@lru_cache(maxsize=8)  # one in a process, but for tests
def _taking(dialect: Dialect) -> Any:
    take = delete(pending).where(pending.c.state == bindparam("state")).returning(pending.c.sealed)
    return take.compile(dialect=dialect)


def _synchronous(connection: Connection, how: str) -> None:
    # Past SQLAlchemy, which would begin a transaction, in which SQLite leaves this as it is.
    connection.connection.driver_connection.execute(f"PRAGMA synchronous={how}")  # type: ignore[union-attr]


def open_database(url: str, vault: Vault) -> Engine:
    """The database, brought up to date, with the vault's index key loaded."""
    engine = connect(url)
    migrate(engine)
    vault.use_index_key(_index_key(engine, vault))
    return engine


_MIGRATING = 0x7175617274657268  # a number that nothing else locks: a visit's has 60 bits at most


def migrate(engine: Engine) -> None:
    """Brings the tables to this version; does nothing where they are."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # Of two processes that start after an upgrade one waits, and finds it done; SQLite's BEGIN does that.
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATING)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def insert(connection: Connection, table: Table) -> Any:
    """An INSERT with ON CONFLICT: both databases know it, and SQLAlchemy has it with each of them."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _options(url: str) -> dict[str, Any]:
    if make_url(url).get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    return {"connect_args": {"timeout": 30}}


def _sqlite_connection(connection: Any, _record: Any) -> None:
    # The driver's own transaction control is off, so that BEGIN IMMEDIATE below is the only one.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a signed decision survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Any) -> None:
    # Takes the write lock at once: a transaction that reads and then writes never has to be repeated.
    reads = connection.get_execution_options().get("reading")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _index_key(engine: Engine, vault: Vault) -> bytes:
    with engine.begin() as connection:
        query = select(keyring.c.sealed).where(keyring.c.name == "index")
        if connection.scalar(query) is None:
            # Where another process was first, its key stands.
            with suppress(IntegrityError), connection.begin_nested():
                connection.execute(keyring.insert().values(name="index", sealed=vault.seal(os.urandom(32))))
        sealed: bytes = connection.execute(query).scalar_one()
    return vault.open(sealed, bytes)
