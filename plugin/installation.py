"""One running installation: everything a request needs besides itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import BoundedSemaphore, Lock
from zoneinfo import ZoneInfo

from sqlalchemy import Engine

from ..core.library import Library
from ..fhir.chart import Begun, ChartSettings
from ..fhir.server import Server
from ..fhir.way import Capabilities, WritingSettings, capabilities_of
from ..launch import backend
from ..launch.backend import Access, Tokens
from ..launch.discovery import Endpoints
from ..launch.errors import IssuersInvalid, LaunchRefused
from ..launch.http import PLACES, Http, open_http
from ..launch.issuers import Issuer, Issuers, load_issuers
from .capturing import CaptureSettings, capture_settings
from .config import Settings
from .database import open_database
from .decoders import make_ready
from .metrics import Metrics
from .outbox import Outbox
from .roles import settings_of
from .same_day import index_older
from .vault import Vault

# Seconds for which a thread that has set others to read leaves the interpreter to them: what it does next can
# be done while they wait for the EHR.
HEAD_START = 0.003


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


@dataclass
class Connections:
    """One pool of connections an EHR, kept for the life of the process, so that they are warm."""

    metrics: Metrics = field(default_factory=Metrics)  # told of every request
    places: int = PLACES  # how many threads may wait for one EHR
    of_all: BoundedSemaphore | None = None  # and for all of them together
    _sessions: dict[str, Http] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def share(self, threads: int) -> None:
        """Leaves of so many threads some for other EHRs, and some for what asks none. Before the first ``to``."""
        self.places = max(1, threads * 5 // 8)
        self.of_all = BoundedSemaphore(max(1, threads * 7 // 8))

    def to(self, issuer: Issuer) -> Http:
        """The pool of this issuer."""
        with self._lock:
            if issuer.id not in self._sessions:
                self._sessions[issuer.id] = http = open_http(issuer, self.places, self.of_all)
                http.watch = self.metrics.watching(issuer.id)
            return self._sessions[issuer.id]

    def close(self) -> None:
        """Closes every pool."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()


@dataclass
class ReadAhead:
    """Charts that are being read while the browser is on its way from the callback to the page.

    Only a head start: whoever comes late, or to another process, reads as if there were none.
    """

    seconds: float = 20.0  # a chart that nobody came for in this time is forgotten
    _begun: dict[str, tuple[float, Begun]] = field(default_factory=dict)

    def keep(self, launch: str, begun: Begun) -> None:
        """For the page that will come; and leaves the interpreter to the reads until they are sent."""
        now = time.monotonic()
        for id_, (since, _) in tuple(self._begun.items()):
            if now - since > self.seconds:
                self._begun.pop(id_, None)
        self._begun[launch] = (now, begun)
        time.sleep(HEAD_START)

    def take(self, launch: str) -> Begun | None:
        """What was begun for a launch, once, while it is fresh."""
        since, begun = self._begun.pop(launch, (0.0, None))
        return begun if time.monotonic() - since < self.seconds else None


@dataclass(frozen=True)
class Installation:
    """Settings, what they name, and what is kept open."""

    settings: Settings
    issuers: Issuers
    library: Library
    charts: Mapping[str, ChartSettings]  # how to read each issuer's charts, by issuer id
    writing: Mapping[str, WritingSettings]  # how charges leave, by issuer id
    capturing: Mapping[str, CaptureSettings]  # how visits are captured, by issuer id
    vault: Vault
    engine: Engine
    clock: Callable[[], datetime] = utc_now
    connections: Connections = field(default_factory=Connections)
    read_ahead: ReadAhead = field(default_factory=ReadAhead)
    discovered: dict[str, Endpoints] = field(default_factory=dict)  # by issuer id
    capabilities: dict[str, Capabilities] = field(default_factory=dict)  # by issuer id, as far as asked
    backend_tokens: Tokens = field(default_factory=Tokens)
    # By launch id: until when its renewal is not asked for again, and why it failed.
    not_renewed: dict[str, tuple[datetime, LaunchRefused]] = field(default_factory=dict)
    # By smart_style_url: the style sheet, and until when it is not asked for again. None: for good.
    styles: dict[str, tuple[str, datetime | None]] = field(default_factory=dict)

    @property
    def metrics(self) -> Metrics:
        """What this process counts."""
        return self.connections.metrics

    @property
    def outbox(self) -> Outbox:
        """The database's side of sending."""
        return Outbox(self.engine, self.vault, self.clock)

    def access(self, issuer: Issuer, *, refused: Access | None = None) -> Access:
        """Quarterhour's own access to an EHR, for work that no clinician asked for; see ``launch.backend``."""
        return backend.access(
            issuer,
            self.backend_tokens,
            http=self.connections.to(issuer),
            discovered=self.discovered,
            listed=self.issuers,
            clock=self.clock,
            refused=refused,
        )

    def capabilities_of(self, issuer: Issuer, server: Server) -> Capabilities:
        """What the EHR offers for charges, asked once in the life of a process; what could not be read again."""
        known = self.capabilities.get(issuer.id)
        if known is None:
            known = capabilities_of(server)
            if known.unread is None:
                self.capabilities[issuer.id] = known
        return known

    def close(self) -> None:
        """Lets go of connections to EHRs and the database."""
        self.connections.close()
        self.engine.dispose()


def install(settings: Settings, clock: Callable[[], datetime] = utc_now) -> Installation:
    """Opens what the settings name. Raises the errors of issuers, policies, keys and database at start."""
    make_ready()
    vault = Vault(tuple(key.get_secret_value() for key in settings.secret_keys))
    issuers = load_issuers(settings.issuers_file)
    library = Library.load(settings.policies_dir, settings.edits_dir)
    engine = open_database(settings.database_url, vault)
    index_older(engine, vault)
    return Installation(
        settings=settings,
        issuers=issuers,
        library=library,
        charts=_charts(issuers, library, settings.issuers_file.parent),
        writing=_writing(issuers),
        capturing=_capturing(issuers),
        vault=vault,
        engine=engine,
        clock=clock,
    )


def _charts(issuers: Issuers, library: Library, folder: Path) -> dict[str, ChartSettings]:
    """Each issuer's site table, read. Raises ``IssuersInvalid`` with every mistake, so that no visit meets one."""
    charts: dict[str, ChartSettings] = {}
    problems: list[str] = []
    for issuer in issuers:
        where = f"issuers.{issuer.id}.site"
        try:
            charts[issuer.id] = ChartSettings.from_site(issuer.site, ZoneInfo(issuer.time_zone), folder)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        try:
            settings_of(issuer)
        except IssuersInvalid as error:
            problems += error.problems
        named = dict.fromkeys(rule.policy for rule in charts[issuer.id].policies)
        problems += [
            f"{where}.policies: there is no policy '{policy}'; there are {', '.join(library.ids)}"
            for policy in named
            if policy not in library.ids
        ]
    if problems:
        raise IssuersInvalid(problems)
    return charts


def _writing(issuers: Issuers) -> dict[str, WritingSettings]:
    """Each issuer's writing table, read. Raises ``IssuersInvalid`` with every mistake."""
    writing: dict[str, WritingSettings] = {}
    problems: list[str] = []
    for issuer in issuers:
        try:
            writing[issuer.id] = WritingSettings.from_table(issuer.writing)
        except ValueError as error:
            problems.append(f"issuers.{issuer.id}.writing: {error}")
            continue
        longest = issuer.connect_timeout + issuer.read_timeout
        if writing[issuer.id].in_flight_seconds < longest:
            # Else a search could believe that nothing is there while we ourselves still wait for the answer.
            problems.append(
                f"issuers.{issuer.id}.writing: in_flight_seconds is less than the {longest:g} seconds for which "
                "Quarterhour itself waits (connect_timeout and read_timeout); make it as much at least"
            )
    if problems:
        raise IssuersInvalid(problems)
    return writing


def _capturing(issuers: Issuers) -> dict[str, CaptureSettings]:
    """Each issuer's capture table, read. Raises ``IssuersInvalid`` with every mistake."""
    capturing: dict[str, CaptureSettings] = {}
    problems: list[str] = []
    for issuer in issuers:
        try:
            capturing[issuer.id] = capture_settings(issuer)
        except IssuersInvalid as error:
            problems += error.problems
    if problems:
        raise IssuersInvalid(problems)
    return capturing
