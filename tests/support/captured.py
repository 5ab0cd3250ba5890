"""The sandbox EHR over real HTTP, and an installation that captures its visits with a backend client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from cryptography.fernet import Fernet
from sqlalchemy import select

from quarterhour.launch.keys import generate_key, import_key, public_jwks
from quarterhour.plugin import database, jobs, worklist
from quarterhour.plugin.capture import ask
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import Installation, install
from quarterhour.plugin.worker import work_job
from quarterhour.plugin.worklist import Summary
from quarterhour.sandbox.clients import backend_client, demo_clients
from quarterhour.sandbox.ehr import Sandbox, running_sandbox

BOSTON = ZoneInfo("America/New_York")
SATURDAY_NOON = datetime(2026, 11, 21, 12, 0, tzinfo=BOSTON)
KEY = generate_key("ES384")

ISSUERS = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{ehr_url}/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
allow_http = true
allow_private_addresses = true
read_timeout = {read_timeout}

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]

[issuers.sandbox.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_file = "backend-key.pem"
also_for = ["planned-charges"]

[issuers.sandbox.writing]
{writing}

[issuers.sandbox.capture]
visits_per_minute = {rate}
{capture}
"""


class Clock:
    """The time of both sides; a test moves it."""

    def __init__(self) -> None:
        self.now = SATURDAY_NOON

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


def settings_in(folder: Path, ehr_url: str, *, database_url: str = "", **tables: Any) -> Settings:
    """What an installation beside this EHR is told; the same folder gives the same installation."""
    key, secret = folder / "backend-key.pem", folder / "secret"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(KEY)
        secret.write_text(Fernet.generate_key().decode())
        known = {
            "read_timeout": 5.0,
            "writing": 'way = "charge-item"',
            "capture": "",
            "rate": 100_000,
        } | tables
        (folder / "issuers.toml").write_text(ISSUERS.format(ehr_url=ehr_url, **known), encoding="utf-8")
    return Settings(
        public_url="http://localhost:9",
        issuers_file=folder / "issuers.toml",
        secret_keys=secret.read_text(),
        database_url=database_url or f"sqlite:///{folder / 'quarterhour.sqlite3'}",
    )


def clients() -> tuple:
    """Those of the demonstration, the backend's key given instead of fetched."""
    mine = backend_client(public_jwks([import_key(KEY)]))
    return (*(each for each in demo_clients("http://localhost:9") if not each.backend), mine)


@dataclass
class Capturing:
    """Both sides, and the questions that the tests ask."""

    sandbox: Sandbox
    here: Installation
    clock: Any

    @property
    def issuer(self):
        return next(iter(self.here.issuers))

    def ask(self, *encounters: str) -> None:
        with self.here.engine.begin() as connection:
            for encounter in encounters:
                ask(connection, self.here, self.issuer.iss, encounter)

    def work(self, most: int = 200) -> int:
        """Works until nothing is due; how many jobs that took."""
        for number in range(most):
            if work_job(self.here, jitter=lambda: 1.0) is None:
                return number
            self.clock.forward(milliseconds=1)  # no two visits begin at one moment
        raise AssertionError(f"There is still something due after {most} jobs.")

    def capture(self, *scenarios: str) -> None:
        self.ask(*(self.encounter(one) for one in scenarios))
        self.work()

    def encounter(self, scenario: str) -> str:
        return f"Encounter/{self.sandbox.scenario(scenario).encounter}"

    def listed(self) -> dict[str, Summary]:
        """What the worklist has, by visit."""
        table = database.known_visit
        with self.here.engine.begin() as connection:
            rows = connection.execute(select(table.c.visit, table.c.sealed).order_by(table.c.visit)).all()
        return {row.visit: self.here.vault.open(row.sealed, Summary) for row in rows}

    def only(self) -> Summary:
        (summary,) = self.listed().values()
        return summary

    def states(self) -> list[worklist.State]:
        """Of what is listed, as somebody sees it to whom all is shown."""
        late = worklist.late_from(self.here, self.issuer)
        return [worklist.state_of(one, None, late) for one in self.listed().values()]

    def given_up(self) -> tuple[jobs.GivenUp, ...]:
        with self.here.engine.begin() as connection:
            return jobs.given_up(connection, self.here.vault, self.issuer.iss)

    def queue(self) -> jobs.Queue:
        with self.here.engine.begin() as connection:
            return jobs.queue(connection, self.clock())

    def put(self, kind: str, id_: str, **changed: Any) -> None:
        """Changes a record in the EHR; None takes an element away."""
        before = self.sandbox.store.get(kind, id_).resource
        after = {name: value for name, value in (before | changed).items() if value is not None}
        self.sandbox.store.put(after)

    def procedures(self, scenario: str) -> list[dict]:
        encounter = {"reference": self.encounter(scenario)}
        return [
            filed.resource
            for filed in self.sandbox.store.all("Procedure")
            if filed.resource.get("encounter") == encounter
        ]


@contextmanager
def a_capture_in(
    folder: Path, *, quirks: Any = None, database_url: str = "", **tables: Any
) -> Iterator[Capturing]:
    clock = Clock()
    known = {} if quirks is None else {"quirks": quirks}
    with ExitStack() as stack:
        sandbox = stack.enter_context(running_sandbox(clients=clients(), clock=clock, **known))
        settings = settings_in(folder, sandbox.base_url, database_url=database_url, **tables)
        here = stack.enter_context(closing(install(settings, clock)))
        yield Capturing(sandbox, here, clock)
