"""A fake EHR at the wire, and builders that show only what a test is about."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import responses
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from quarterhour.launch.authorize import begin
from quarterhour.launch.discovery import discover
from quarterhour.launch.exchange import complete
from quarterhour.launch.http import open_http
from quarterhour.launch.issuers import Issuer

NOW = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)
BASE = "https://ehr.example/fhir"
AUTH = "https://auth.example"
REDIRECT = "https://quarterhour.example/callback"
BROWSER = "browser-1"


class FakeEhr:
    """Answers as a well-behaved EHR; a test changes one thing."""

    now, base, auth = NOW, BASE, AUTH

    def __init__(self, wire, keys):
        self.wire = wire
        self.rsa, self.ec, self.other = keys
        self.configuration = {
            "issuer": AUTH,
            "authorization_endpoint": f"{AUTH}/authorize",
            "token_endpoint": f"{AUTH}/token",
            "jwks_uri": f"{AUTH}/jwks",
            "revocation_endpoint": f"{AUTH}/revoke",
            "capabilities": ["launch-ehr", "client-public", "sso-openid-connect", "permission-v2"],
            "code_challenge_methods_supported": ["S256"],
        }
        self.claims = {
            "iss": AUTH,
            "sub": "user-1",
            "aud": "quarterhour",
            "iat": int(NOW.timestamp()),
            "exp": int((NOW + timedelta(minutes=5)).timestamp()),
            "fhirUser": "Practitioner/7",
            "name": "Robin Example",
        }
        self.token = {
            "access_token": "access-secret",
            "token_type": "Bearer",
            "expires_in": 3600,
            "patient": "p1",
            "encounter": "e1",
            "need_patient_banner": False,
        }
        self.token_status = 200
        self.published = [self.rsa, self.ec]
        self.nonce = None
        self.signer = self.rsa
        self.header = {"alg": "RS256", "kid": "rsa-1"}
        self.id_token = None  # a ready one, in place of the signed claims
        wire.add_callback("GET", f"{BASE}/.well-known/smart-configuration", self.answer_configuration)
        wire.add_callback("GET", f"{AUTH}/jwks", self.answer_jwks)
        wire.add_callback("POST", f"{AUTH}/token", self.answer_token)

    @property
    def asked(self):
        """Method and address of each request so far."""
        return [f"{call.request.method} {call.request.url}" for call in self.wire.calls]

    @property
    def token_requests(self):
        return [call.request for call in self.wire.calls if call.request.url == f"{AUTH}/token"]

    def form(self, request):
        return dict(parse_qsl(request.body, keep_blank_values=True))

    def answer_configuration(self, request):
        return 200, {"ETag": '"v1"'}, json.dumps(self.configuration)

    def answer_jwks(self, request):
        return 200, {}, json.dumps({"keys": [key.as_dict(private=False) for key in self.published]})

    def answer_token(self, request):
        body = dict(self.token)
        if self.token_status == 200 and "id_token" not in body and "code=" in request.body:
            body["id_token"] = self.id_token or self.signed()
        return self.token_status, {}, json.dumps(body)

    def signed(self, **changes):
        claims = {"nonce": self.nonce, **self.claims, **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(self.header, claims, self.signer, algorithms=[self.header["alg"]])


@pytest.fixture(scope="session")
def ehr_keys():
    return (
        RSAKey.generate_key(2048, {"kid": "rsa-1"}),
        ECKey.generate_key("P-384", {"kid": "ec-1"}),
        RSAKey.generate_key(2048, {"kid": "rsa-2"}),
    )


@pytest.fixture
def ehr(ehr_keys):
    with responses.RequestsMock(assert_all_requests_are_fired=False) as wire:
        yield FakeEhr(wire, ehr_keys)


@pytest.fixture
def an_issuer():
    def build(**changes):
        table = {
            "id": "riverside",
            "iss": BASE,
            "name": "Riverside Clinic",
            "time_zone": "America/New_York",
            "client_id": "quarterhour",
            "client_auth": "public",
        }
        return Issuer.model_validate(table | changes)

    return build


@pytest.fixture
def http(an_issuer):
    with open_http(an_issuer()) as session:
        yield session


@pytest.fixture
def launched(ehr, an_issuer, http):
    """A launch up to the authorization page: the pending launch and the parameters the EHR was sent."""

    def launch(issuer=None, **changes):
        issuer = issuer or an_issuer()
        endpoints = discover(issuer, http, NOW, {}, listed=())
        arguments = {"launch": "xyz", "redirect_uri": REDIRECT, "browser": BROWSER, "now": NOW}
        pending, url = begin(issuer, endpoints, **(arguments | changes))
        ehr.nonce = pending.nonce
        return pending, parse_qs(urlsplit(url).query)

    return launch


@pytest.fixture
def finish(ehr, an_issuer, http):
    """The callback of a pending launch, as a well-behaved EHR and browser would make it."""

    def callback(pending, issuer=None, *, browser=BROWSER, now=NOW, without=(), **params):
        query = {"state": [pending.state], "code": ["code-secret"]} | params
        query = {name: values for name, values in query.items() if name not in without}
        return complete(pending, issuer or an_issuer(), query, browser=browser, http=http, now=now)

    return callback
