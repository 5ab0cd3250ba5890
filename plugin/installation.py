"""One running installation: everything a request needs besides itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from sqlalchemy import Engine

from ..core.library import Library
from ..launch.discovery import Endpoints
from ..launch.http import Http, open_http
from ..launch.issuers import Issuer, Issuers, load_issuers
from .config import Settings
from .database import open_database
from .vault import Vault


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass
class Connections:
    """One pool of connections an EHR, kept for the life of the process, so that they are warm."""

    _sessions: dict[str, Http] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def to(self, issuer: Issuer) -> Http:
        """The pool of this issuer."""
        with self._lock:
            if issuer.id not in self._sessions:
                self._sessions[issuer.id] = open_http(issuer)
            return self._sessions[issuer.id]

    def close(self) -> None:
        """Closes every pool."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()


@dataclass(frozen=True)
class Installation:
    """Settings, what they name, and what is kept open."""

    settings: Settings
    issuers: Issuers
    library: Library
    vault: Vault
    engine: Engine
    clock: Callable[[], datetime] = utc_now
    connections: Connections = field(default_factory=Connections)
    discovered: dict[str, Endpoints] = field(default_factory=dict)  # by issuer id

    def close(self) -> None:
        """Lets go of connections to EHRs and the database."""
        self.connections.close()
        self.engine.dispose()


def install(settings: Settings, clock: Callable[[], datetime] = utc_now) -> Installation:
    """Opens what the settings name. Raises the errors of issuers, policies, keys and database at start."""
    vault = Vault(tuple(key.get_secret_value() for key in settings.secret_keys))
    return Installation(
        settings=settings,
        issuers=load_issuers(settings.issuers_file),
        library=Library.load(settings.policies_dir, settings.edits_dir),
        vault=vault,
        engine=open_database(settings.database_url, vault),
        clock=clock,
    )
