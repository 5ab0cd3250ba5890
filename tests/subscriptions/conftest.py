"""The sandbox EHR and Quarterhour on loopback, with a subscription between them, and what becomes of it here."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import requests
import structlog
from cryptography.fernet import Fernet
from sqlalchemy import select

from quarterhour.launch.keys import generate_key
from quarterhour.plugin import database, jobs, subscriptions
from quarterhour.plugin.app import create_app
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install
from quarterhour.sandbox.ehr import create_sandbox, running
from quarterhour.sandbox.quirks import Quirks

ISSUER = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{ehr_url}/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
allow_http = true
allow_private_addresses = true

[issuers.sandbox.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_file = "backend-key.pem"
also_for = [{also_for}]

[issuers.sandbox.capture]
visits_per_minute = 1200
{capture}

[issuers.sandbox.site]
policies = [{{policy = "cms-part-b", payer = "Organization/payer-medicare"}}]
"""


class Clock:
    """The time of both sides; a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=ZoneInfo("America/New_York"))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


class RunningClock(Clock):
    """A clock that goes by itself, too."""

    def __call__(self) -> datetime:
        return self.now + timedelta(seconds=time.monotonic() - self._since)

    def __init__(self) -> None:
        super().__init__()
        self._since = time.monotonic()


@dataclass
class Between:
    """Both sides, and what a subscription between them leads to here."""

    sandbox: object
    here: object
    clock: Clock
    app_url: str
    app: object

    @property
    def issuer(self):
        (issuer,) = self.here.issuers
        return issuer

    def subscribe(self, kind=None, criteria=None):
        made = subscriptions.subscribe(self.here, self.issuer, kind, criteria)
        assert self.sandbox.subscriptions.all_sent()
        return made

    @property
    def one(self):
        """The only subscription, as it stands here."""
        (one,) = subscriptions.known(self.here)
        return one

    @property
    def secrets(self):
        with self.here.engine.begin() as connection:
            sealed = connection.execute(select(database.subscription.c.sealed)).scalar_one()
        return self.here.vault.open(sealed, subscriptions.Secrets)

    @property
    def endpoint(self) -> str:
        return subscriptions.endpoint(self.here, self.secrets)

    def finish(self, *scenarios: str) -> None:
        """These visits end, whatever they were before, and everybody is told."""
        for scenario in scenarios:
            encounter = self.sandbox.store.get("Encounter", self.sandbox.scenario(scenario).encounter)
            if encounter.resource["status"] == "finished":
                self.sandbox.store.put({**encounter.resource, "status": "in-progress"})
            self.sandbox.finish(scenario)
        assert self.sandbox.subscriptions.all_sent()

    def tell(self, body=None, *, token=None, path="", method="POST", **settings) -> requests.Response:
        """A notification by hand; with the right secret unless told otherwise."""
        secret = self.secrets.token if token is None else token
        headers = {"Authorization": f"Bearer {secret}"} | settings.pop("headers", {})
        return requests.request(
            method, self.endpoint + path, json=body, headers=headers, timeout=5, **settings
        )

    def asked(self) -> dict[str, list[str]]:
        """What waits to be done, by kind; nothing is done by asking."""
        table, vault = database.job, self.here.vault
        with self.here.engine.begin() as connection:
            rows = connection.execute(select(table.c.kind, table.c.sealed)).all()
        found = {"capture": [], "look": [], "catch-up": []}
        for row in rows:
            about = vault.open(row.sealed, str)
            found[row.kind].append(about.removeprefix("Encounter/enc-"))
        return {kind: sorted(abouts) for kind, abouts in found.items()}

    def forget_jobs(self) -> None:
        with self.here.engine.begin() as connection:
            connection.execute(database.job.delete())

    def catch_up(self) -> None:
        """Whatever is due of looking after the subscription is done; what it leads to is left waiting."""
        table = database.job
        with self.here.engine.begin() as connection:
            due = connection.execute(
                select(table.c.id).where(table.c.kind == "catch-up", table.c.due_at <= self.clock())
            ).all()
        if not due:
            return
        with self.here.engine.begin() as connection:
            others = connection.execute(select(table).where(table.c.kind != "catch-up")).all()
            connection.execute(table.delete().where(table.c.kind != "catch-up"))
            job = jobs.take(connection, self.here.vault, self.clock(), {self.issuer.iss: timedelta()})
            connection.execute(database.ehr.delete())
            if others:
                connection.execute(table.insert(), [dict(row._mapping) for row in others])
        subscriptions.catch_up(self.here, self.issuer, job, lambda: None)


@contextmanager
def between_them(
    folder: Path, *, clock=None, capture: str = "", also_for: str = '"subscriptions"', **quirks
) -> Iterator[Between]:
    clock = clock or Clock()
    made = {}

    def application(environ, start_response):
        return made["app"](environ, start_response)

    with ExitStack() as stack:
        app_url = stack.enter_context(running(lambda _: application, host="localhost"))

        def ehr(base_url):
            made["ehr"] = create_sandbox(
                base_url=base_url, app_url=app_url, clock=clock, quirks=Quirks(**quirks)
            )
            return made["ehr"]

        ehr_url = stack.enter_context(running(ehr))
        sandbox = made["ehr"].extensions["sandbox"]
        stack.callback(sandbox.subscriptions.close)
        (folder / "issuers.toml").write_text(
            ISSUER.format(ehr_url=ehr_url, capture=capture, also_for=also_for), encoding="utf-8"
        )
        key = folder / "backend-key.pem"
        key.touch(mode=0o600)
        key.write_text(generate_key("ES384"))
        here = install(
            Settings(
                public_url=app_url,
                issuers_file=folder / "issuers.toml",
                secret_keys=Fernet.generate_key().decode(),
                database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
            ),
            clock,
        )
        stack.enter_context(closing(here))
        made["app"] = create_app(here)
        yield Between(sandbox, here, clock, app_url, made["app"])


@pytest.fixture
def between(tmp_path):
    """Opens both sides, the EHR with these quirks, for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda **quirks: stack.enter_context(between_them(tmp_path, **quirks))


@pytest.fixture
def running_clock():
    return RunningClock()


@pytest.fixture(autouse=True)
def _quiet():
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
