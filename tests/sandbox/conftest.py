"""A small app that launches against the sandbox over real loopback HTTP."""

import base64
import hashlib
import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from quarterhour.sandbox.clients import Client, demo_clients
from quarterhour.sandbox.ehr import Sandbox, running_sandbox
from quarterhour.sandbox.quirks import Quirks
from quarterhour.sandbox.store import Resource

APP_URL = "http://localhost:9"
TODAY = date(2026, 11, 20)
READ = "launch openid fhirUser online_access patient/*.rs"
READ_AND_CHARGE = f"{READ} user/ChargeItem.cruds user/Provenance.cu"
RSA = RSAKey.generate_key(2048, {"kid": "app-rsa", "use": "sig"})
EC = ECKey.generate_key("P-384", {"kid": "app-ec", "use": "sig"})
CLIENTS = (
    *demo_clients(APP_URL)[:2],
    Client(
        client_id="quarterhour-jwt",
        name="Quarterhour",
        auth="private_key_jwt",
        launch_url=f"{APP_URL}/launch",
        redirect_uris=(f"{APP_URL}/callback",),
        jwks={"keys": [RSA.as_dict(private=False), EC.as_dict(private=False)]},
    ),
)


class Clock:
    """Real time, plus what a test lets pass."""

    def __init__(self) -> None:
        self.passed = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.passed


@dataclass
class App:
    """One registered app and its HTTP session."""

    ehr: Sandbox
    client: Client
    http: requests.Session
    rsa: ClassVar[RSAKey] = RSA
    ec: ClassVar[ECKey] = EC
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    def launch_token(self, scenario: str, user: str = "") -> str:
        url = self.ehr.launch_url(scenario, self.client.client_id, user)
        return parse_qs(urlsplit(url).query)["launch"][0]

    def query(self, requested_scope: str, **changes: str | None) -> dict[str, str]:
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=")
        asked = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.client.redirect_uris[0],
            "scope": requested_scope,
            "state": "a-state",
            "nonce": "a-nonce",
            "aud": self.ehr.fhir_url,
            "code_challenge": challenge.decode(),
            "code_challenge_method": "S256",
        }
        return {name: value for name, value in (asked | changes).items() if value is not None}

    def authorize(self, query: dict[str, str]) -> requests.Response:
        return self.http.get(f"{self.ehr.base_url}/oauth/authorize", params=query, allow_redirects=False)

    def code(self, scenario: str = "cms-ex1", scope: str = READ, user: str = "") -> str:
        answer = self.authorize(self.query(scope, launch=self.launch_token(scenario, user)))
        return sent_back(answer)["code"]

    def exchange(self, issued_code: str, **changes: str | None) -> requests.Response:
        form = {
            "grant_type": "authorization_code",
            "code": issued_code,
            "redirect_uri": self.client.redirect_uris[0],
            "code_verifier": self.verifier,
        }
        return self.token_request(form | changes)

    def token_request(self, form: dict[str, str | None]) -> requests.Response:
        basic = None
        if self.client.auth == "public":
            form = {"client_id": self.client.client_id} | form
        elif self.client.auth == "client_secret_basic":
            quoted = (
                requests.utils.quote(part, safe="") for part in (self.client.client_id, self.client.secret)
            )
            basic = tuple(quoted)
        else:
            form = {
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": self.assertion(),
            } | form
        return self.http.post(f"{self.ehr.base_url}/oauth/token", data=form, auth=basic)

    def assertion(self, *, key=EC, header=None, **claims) -> str:
        now = int(datetime.now(UTC).timestamp())
        alg = "ES384" if isinstance(key, ECKey) else "RS384"
        body = {
            "iss": self.client.client_id,
            "sub": self.client.client_id,
            "aud": f"{self.ehr.base_url}/oauth/token",
            "exp": now + 240,
            "jti": str(uuid.uuid4()),
        } | claims
        head = {"alg": alg, "kid": key.kid, "typ": "JWT"} | (header or {})
        body = {name: value for name, value in body.items() if value is not None}
        head = {name: value for name, value in head.items() if value is not None}
        return jwt.encode(head, body, key, [head["alg"]], default_type=None)

    def token(self, scenario: str = "cms-ex1", scope: str = READ_AND_CHARGE, user: str = "") -> dict:
        answer = self.exchange(self.code(scenario, scope, user))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fhir(self, token: dict | None, method: str, path: str, **settings) -> requests.Response:
        headers = settings.pop("headers", {})
        if token:
            headers = {"Authorization": f"Bearer {token['access_token']}"} | headers
        return self.http.request(method, f"{self.ehr.fhir_url}{path}", headers=headers, **settings)


def sent_back(answer: requests.Response) -> dict[str, str]:
    """What the authorization server put into the redirect to the app."""
    assert answer.status_code == 302, answer.text
    address = urlsplit(answer.headers["Location"])
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{APP_URL}/callback"
    return {name: values[0] for name, values in parse_qs(address.query).items()}


def a_charge(ehr: Sandbox, scenario: str = "cms-ex1", **changes) -> Resource:
    """A ChargeItem as an app would write it for a visit."""
    visit = ehr.scenario(scenario)
    charge = {
        "resourceType": "ChargeItem",
        "identifier": [{"system": "https://app.example/charge", "value": "charge-1"}],
        "status": "billable",
        "code": {"coding": [{"system": "http://www.ama-assn.org/go/cpt", "code": "97110"}]},
        "subject": {"reference": f"Patient/{visit.patient}"},
        "context": {"reference": f"Encounter/{visit.encounter}"},
        "occurrenceDateTime": f"{visit.date_of_service}T08:05:00-05:00",
        "quantity": {"value": 2},
    }
    return {name: value for name, value in (charge | changes).items() if value is not None}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(clock):
    """Start a sandbox with quirks: ``with start(page_size=2) as app``."""

    @contextmanager
    def started(*, client: int = 0, clients=CLIENTS, **quirks) -> Iterator[App]:
        settings = {"today": TODAY, "clock": clock, "clients": clients, "app_url": APP_URL}
        with running_sandbox(**settings, quirks=Quirks(**quirks)) as ehr, requests.Session() as http:
            yield App(ehr, clients[client], http)

    return started


@pytest.fixture
def app(start) -> Iterator[App]:
    """The public client, launched against an EHR without quirks."""
    with start() as app:
        yield app


@pytest.fixture
def charge():
    return a_charge


@pytest.fixture
def redirected():
    return sent_back
