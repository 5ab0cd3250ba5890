"""An EHR that asks at its moments, and Quarterhour that answers: both on loopback, over real HTTP."""

import json
import secrets
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest
import requests
import structlog
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import ECKey
from jsonschema import Draft202012Validator
from sqlalchemy import select

from quarterhour.launch.keys import generate_key
from quarterhour.plugin import audit, database
from quarterhour.plugin.app import create_app
from quarterhour.plugin.capture import ask
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install
from quarterhour.plugin.worker import work_job
from quarterhour.plugin.worklist import Summary
from quarterhour.sandbox.authorization import signing_keys
from quarterhour.sandbox.ehr import create_sandbox, running

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

[issuers.sandbox.cds]
iss = "{ehr_url}"
jku = "{ehr_url}/oauth/jwks"
{cds}

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]

[issuers.other]
name = "Another EHR"
iss = "https://other.example/fhir"
client_id = "quarterhour-public"
client_auth = "public"
time_zone = "America/New_York"
"""
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parent / "cards.schema.json").read_text()))
BOSTON = ZoneInfo("America/New_York")


class Clock:
    """The time of both sides; a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 12, 0, tzinfo=BOSTON)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Asking:
    """Both sides, as the EHR sees it."""

    sandbox: object
    here: object
    clock: Clock
    app_url: str
    http: requests.Session

    @property
    def issuer(self):
        return next(iter(self.here.issuers))

    def address(self, hook: str = "patient-view", path: str = "") -> str:
        return f"{self.app_url}/cds-services/quarterhour-{hook}{path}"

    def token(self, address, *, key=None, header=None, **claims) -> str:
        """As the sandbox's, with some of it changed; None takes a member away."""
        key = key or signing_keys()["ES384"]
        now = int(self.clock().timestamp())
        base = self.sandbox.base_url
        named = {"alg": "ES384", "kid": key.kid, "typ": "JWT", "jku": f"{base}/oauth/jwks"} | (header or {})
        said = {
            "iss": base, "aud": address, "iat": now, "exp": now + 300, "jti": secrets.token_urlsafe(12),
        } | claims  # fmt: skip
        named, said = ({k: v for k, v in one.items() if v is not None} for one in (named, said))
        return jwt.encode(named, said, key, algorithms=[named["alg"]])

    def request(self, hook: str = "patient-view", scenario: str = "cms-ex1", **changed) -> dict:
        """As the specification's examples, for that visit's patient; None takes a member away."""
        visit = self.sandbox.scenario(scenario)
        asked = {
            "hookInstance": str(uuid.uuid4()),
            "fhirServer": self.sandbox.fhir_url,
            "hook": hook,
            "context": {
                "userId": f"Practitioner/{visit.user}",
                "patientId": visit.patient,
                "encounterId": visit.encounter,
            },
        } | changed
        return {name: value for name, value in asked.items() if value is not None}

    def post(self, address, body, token) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self.http.post(address, data=data, headers=headers, timeout=10)

    def ask(self, hook: str = "patient-view", scenario: str = "cms-ex1", **changed) -> list[dict]:
        """The cards, checked against our schema."""
        address = self.address(hook)
        answer = self.post(address, self.request(hook, scenario, **changed), self.token(address))
        assert answer.status_code == 200
        SCHEMA.validate(answer.json())
        return answer.json()["cards"]

    def tell(self, *feedback: dict, hook: str = "patient-view", token=None) -> requests.Response:
        address = self.address(hook, "/feedback")
        return self.post(address, {"feedback": list(feedback)}, token or self.token(address))

    def coverages(self, patient: str) -> dict:
        """What a CDS client prefetches for our template."""
        found = self.sandbox.store.searchable("Coverage", f"Patient/{patient}")
        entries = [{"resource": filed.resource} for filed in found]
        return {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}

    def capture(self, *scenarios: str) -> None:
        """These visits ended, and stand on the worklist."""
        with self.here.engine.begin() as connection:
            for one in scenarios:
                encounter = f"Encounter/{self.sandbox.scenario(one).encounter}"
                ask(connection, self.here, self.issuer.iss, encounter)
        while work_job(self.here, jitter=lambda: 1.0) is not None:
            self.clock.forward(seconds=1)

    def knows(self, scenario: str, history) -> None:
        """What a therapist entered of this patient's year while at that visit."""
        table, vault = database.known_visit, self.here.vault
        encounter = f"Encounter/{self.sandbox.scenario(scenario).encounter}"
        with self.here.engine.begin() as connection:
            for row in connection.execute(select(table.c.visit, table.c.sealed)).all():
                summary = vault.open(row.sealed, Summary)
                if summary.encounter == encounter:
                    sealed = vault.seal(msgspec.structs.replace(summary, history=history))
                    connection.execute(table.update().where(table.c.visit == row.visit).values(sealed=sealed))

    def audited(self, action: str) -> list:
        with self.here.engine.begin() as connection:
            return [one for one in audit.entries(connection, self.here.vault) if one.action == action]


@contextmanager
def asking_in(folder: Path, *, cds: str = "", **settings) -> Iterator[Asking]:
    clock = Clock()
    made = {}

    def application(environ, start_response):
        return made["app"](environ, start_response)

    with ExitStack() as stack:
        app_url = stack.enter_context(running(lambda _: application, host="localhost"))

        def ehr(base_url):
            made["ehr"] = create_sandbox(base_url=base_url, app_url=app_url, clock=clock)
            return made["ehr"]

        ehr_url = stack.enter_context(running(ehr))
        sandbox = made["ehr"].extensions["sandbox"]
        stack.callback(sandbox.subscriptions.close)
        (folder / "issuers.toml").write_text(ISSUER.format(ehr_url=ehr_url, cds=cds), encoding="utf-8")
        key = folder / "backend-key.pem"
        key.touch(mode=0o600)
        key.write_text(generate_key("ES384"))
        here = install(
            Settings(
                public_url=app_url,
                issuers_file=folder / "issuers.toml",
                secret_keys=Fernet.generate_key().decode(),
                database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
                **settings,
            ),
            clock,
        )
        stack.enter_context(closing(here))
        made["app"] = create_app(here)
        http = stack.enter_context(requests.Session())
        http.trust_env = False
        yield Asking(sandbox, here, clock, app_url, http)


@pytest.fixture
def an_asking(tmp_path):
    """Opens both sides with settings of its own, for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(asking_in(tmp_path, **settings))


@pytest.fixture(scope="module")
def ehr(tmp_path_factory):
    """Both sides for all tests of a file; two visits wait, of two patients."""
    with asking_in(tmp_path_factory.mktemp("cds")) as both:
        both.capture("cms-ex1", "missing-minutes")
        yield both


@pytest.fixture
def someone_elses_key():
    return ECKey.generate_key("P-384", {"kid": "sandbox-es384", "alg": "ES384", "use": "sig"})


@pytest.fixture(autouse=True)
def _quiet():
    before = structlog.get_config()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
