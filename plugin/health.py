"""Whether this process can do its work: what it needs itself, never what an EHR does."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import structlog
from alembic.script import ScriptDirectory
from sqlalchemy import column, select, table
from sqlalchemy.exc import SQLAlchemyError

from ..launch.errors import IssuersInvalid
from . import database
from .installation import Installation
from .vault import SealBroken

log = structlog.get_logger()

_VERSION = table("alembic_version", column("version_num"))


@cache
def newest_migration() -> str:
    """The version that the tables must have."""
    folder = Path(__file__).parent / "migrations"
    return str(ScriptDirectory(str(folder)).get_current_head())


def problems(here: Installation) -> tuple[str, ...]:
    """What keeps it from working, in words for its operator; empty: nothing does."""
    found = []
    try:
        with database.reading(here.engine) as connection:
            version = connection.scalar(select(_VERSION.c.version_num))
            sealed = connection.scalar(select(database.keyring.c.sealed))
        if version != newest_migration():
            found.append(f"the database is at version {version}, not {newest_migration()}")
        if sealed is None:
            found.append("the database has no key of its own")
        else:
            here.vault.open(sealed, bytes)
    except SQLAlchemyError as error:
        found.append(f"the database does not answer ({type(error).__name__})")
    except SealBroken:
        found.append("what is stored cannot be opened with QUARTERHOUR_SECRET_KEYS")
    for issuer in here.issuers:
        try:
            if issuer.client_auth in {"client_secret_basic", "client_secret_post"}:
                issuer.client_secret()
            issuer.published_keys()
            issuer.backend_published_keys()
        except IssuersInvalid as error:
            found += error.problems
    if found:
        log.error("not_ready", problems=len(found))
    return tuple(found)
