"""Quarterhour's own access: asked for with its own key, kept while it lasts, looked at before it is used."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from joserfc import jws, jwt
from structlog.testing import capture_logs

from quarterhour.launch.backend import PAUSE, Tokens, access
from quarterhour.launch.errors import BackendMissing, DiscoveryFailed, EhrUnavailable, TokenRefused
from quarterhour.launch.http import open_http
from quarterhour.launch.keys import generate_key, import_key

READING = (
    "system/Encounter.rs",
    "system/Patient.r",
    "system/Procedure.rs",
    "system/Coverage.rs",
    "system/ChargeItem.rs",
    "system/Practitioner.r",
    "system/PractitionerRole.rs",
)


@pytest.fixture(scope="module")
def keys():
    return {alg: generate_key(alg) for alg in ("RS384", "ES384")}


@pytest.fixture
def backend_issuer(an_issuer, keys, monkeypatch):
    def build(alg="ES384", *, issuer=None, **changes):
        monkeypatch.setenv("BACKEND_KEY", keys[alg])
        table = {"client_id": "quarterhour-backend", "signing_alg": alg, "key_env": "BACKEND_KEY"}
        return an_issuer(**(issuer or {}), backend=table | changes)

    return build


@pytest.fixture
def own_token(ehr):
    """What the token endpoint answers to a backend client."""
    ehr.token = {
        "access_token": "own-1",
        "token_type": "bearer",
        "expires_in": 300,
        "scope": " ".join(READING),
    }
    return ehr.token


class Asking:
    """Repeated asking with one store of tokens and a clock that a test moves."""

    def __init__(self, http, now):
        self.http, self.now, self.tokens, self.discovered = http, now, Tokens(), {}

    def __call__(self, issuer, **changes):
        return access(
            issuer,
            self.tokens,
            http=self.http,
            discovered=self.discovered,
            listed=(),
            clock=lambda: self.now,
            **changes,
        )


@pytest.fixture
def ask_for(ehr, http):
    return Asking(http, ehr.now)


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_85_the_token_is_asked_for_with_an_assertion_of_the_backends_own_key(
    ehr, own_token, backend_issuer, ask_for, keys, alg
):
    issuer = backend_issuer(alg)
    granted = ask_for(issuer)
    assert (granted.token, granted.scopes, granted.lacks) == ("own-1", READING, ())
    assert granted.expires_at == ehr.now + timedelta(minutes=5)
    (request,) = ehr.token_requests
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Authorization" not in request.headers
    form = ehr.form(request)
    assertion = form.pop("client_assertion")
    assert form == {
        "grant_type": "client_credentials",
        "scope": " ".join(READING),
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
    }
    key = import_key(keys[alg])
    assert jws.extract_compact(assertion.encode()).headers() == {"alg": alg, "kid": key.kid, "typ": "JWT"}
    claims = jwt.decode(assertion, key, algorithms=[alg]).claims
    assert claims["iss"] == claims["sub"] == "quarterhour-backend"
    assert claims["aud"] == "https://auth.example/token"
    assert 0 < claims["exp"] - int(ehr.now.timestamp()) <= 300


def test_85_every_request_has_an_assertion_of_its_own(ehr, own_token, backend_issuer, ask_for):
    first = ask_for(backend_issuer())
    ask_for(backend_issuer(), refused=first)
    one, two = (ehr.form(request)["client_assertion"] for request in ehr.token_requests)
    assert one != two


def test_85_a_registered_jku_is_sent(ehr, own_token, backend_issuer, ask_for):
    ask_for(backend_issuer(jku="https://quarterhour.example/.well-known/backend-jwks.json"))
    header = jws.extract_compact(ehr.form(ehr.token_requests[0])["client_assertion"].encode()).headers()
    assert header["jku"] == "https://quarterhour.example/.well-known/backend-jwks.json"


@pytest.mark.parametrize(
    ("issuer", "changes", "asked"),
    [
        ({}, {"also_for": ["planned-charges"]}, {"system/ChargeItem.cu"}),
        ({}, {"also_for": ["subscriptions"]}, {"system/Subscription.rs", "system/Subscription.cud"}),
        ({"scope_syntax": "v1"}, {}, {"system/Encounter.read", "system/PractitionerRole.read"}),
        ({"site": {"minutes_observations": {"urn:oid:1|M": "97110"}}}, {}, {"system/Observation.rs"}),
        ({"site": {"policies": [{"policy": "x", "payer": "60054"}]}}, {}, {"system/Organization.r"}),
        (
            {"scope_syntax": "v1"},
            {"also_for": ["subscriptions"]},
            {"system/Subscription.read", "system/Subscription.write"},
        ),
    ],
)
def test_85_only_system_scopes_are_asked_for_and_writing_only_for_its_purpose(
    ehr, own_token, backend_issuer, ask_for, issuer, changes, asked
):
    own_token.pop("scope")
    granted = ask_for(backend_issuer(issuer=issuer, **changes))
    scopes = set(ehr.form(ehr.token_requests[0])["scope"].split())
    assert asked <= scopes
    assert all(scope.startswith("system/") and "*" not in scope for scope in scopes)
    assert set(granted.scopes) == scopes  # not said, so as asked (RFC 6749 5.1)


def test_85_the_operators_own_list_of_scopes_is_taken_as_it_is(ehr, own_token, backend_issuer, ask_for):
    ask_for(backend_issuer(scopes=["system/*.read", "https://ehr.example/.default"]))
    assert ehr.form(ehr.token_requests[0])["scope"] == "system/*.read https://ehr.example/.default"


# --- introspection, where the answer does not say what was granted ---------------------------------------------

INTROSPECT = "https://auth.example/introspect"


@pytest.fixture
def unsaid(ehr, own_token):
    own_token.pop("scope")
    ehr.configuration["introspection_endpoint"] = INTROSPECT


def told(ehr):
    return [call.request for call in ehr.wire.calls if call.request.url == INTROSPECT]


@pytest.mark.usefixtures("unsaid")
def test_72_an_ehr_that_does_not_say_what_it_granted_is_asked_once_a_token(ehr, backend_issuer, ask_for):
    less = " ".join(scope for scope in READING if scope != "system/Coverage.rs")
    ehr.wire.post(INTROSPECT, json={"active": True, "scope": less})
    granted = ask_for(backend_issuer())
    ask_for(backend_issuer())
    assert [need.v2 for need in granted.lacks] == ["system/Coverage.rs"]
    (request,) = told(ehr)
    form = ehr.form(request)
    assert form["token"] == "own-1"
    assert form["client_assertion"] != ehr.form(ehr.token_requests[0])["client_assertion"]
    assert "Authorization" not in request.headers


@pytest.mark.usefixtures("unsaid")
def test_72_a_token_that_is_not_active_gives_no_access(ehr, backend_issuer, ask_for):
    ehr.wire.post(INTROSPECT, json={"active": False})
    with pytest.raises(TokenRefused, match=r"without system/Encounter\.rs"):
        ask_for(backend_issuer())


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize(
    "answer",
    [
        {"json": {"active": True}},
        {"status": 403, "json": {"error": "forbidden"}},
        {"status": 503},
        {"body": "<html>"},
        {"json": {"active": "yes"}},
    ],
)
def test_72_where_introspection_tells_nothing_what_was_asked_for_counts(ehr, backend_issuer, ask_for, answer):
    ehr.wire.post(INTROSPECT, **answer)
    granted = ask_for(backend_issuer())
    assert granted.scopes == READING
    assert len(told(ehr)) == 1


def test_72_an_ehr_that_says_what_it_granted_is_not_asked_again(ehr, own_token, backend_issuer, ask_for):
    ehr.configuration["introspection_endpoint"] = INTROSPECT
    ask_for(backend_issuer())
    assert told(ehr) == []


# --- reuse ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "seconds_later", "requests"),
    [(300, 269, 1), (300, 270, 2), (40, 19, 1), (40, 20, 2), ("300", 269, 1), (None, 29, 1), (None, 30, 2)],
)
def test_86_a_token_is_used_until_shortly_before_it_expires(
    ehr, own_token, backend_issuer, ask_for, life, seconds_later, requests
):
    own_token["expires_in"] = life
    ask_for(backend_issuer())
    ask_for.now += timedelta(seconds=seconds_later)
    ask_for(backend_issuer())
    assert len(ehr.token_requests) == requests


def test_86_a_refresh_token_is_neither_expected_nor_used(ehr, own_token, backend_issuer, ask_for):
    own_token["refresh_token"] = "refresh-secret"
    ask_for(backend_issuer())
    ask_for.now += timedelta(minutes=5)
    ask_for(backend_issuer())
    assert [ehr.form(request)["grant_type"] for request in ehr.token_requests] == ["client_credentials"] * 2
    assert not any("refresh-secret" in request.body for request in ehr.token_requests)


def test_86_a_token_that_the_ehr_refused_is_not_given_again(ehr, own_token, backend_issuer, ask_for):
    first = ask_for(backend_issuer())
    own_token["access_token"] = "own-2"
    second = ask_for(backend_issuer(), refused=first)
    assert second.token == "own-2"
    # Somebody else who was refused with the first finds the second.
    assert ask_for(backend_issuer(), refused=first) is second
    assert len(ehr.token_requests) == 2


def test_85_each_ehr_has_a_token_of_its_own(ehr, own_token, backend_issuer, ask_for):
    own_token["access_token"] = "riversides"
    ask_for(backend_issuer())
    own_token["access_token"] = "lakesides"
    assert ask_for(backend_issuer(issuer={"id": "lakeside"})).token == "lakesides"
    assert ask_for(backend_issuer()).token == "riversides"


@contextmanager
def slow_ehr(status=200):
    """A token endpoint on loopback that takes its time and counts."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            body = {
                "authorization_endpoint": f"{here}/a",
                "token_endpoint": f"{here}/t",
                "jwks_uri": f"{here}/k",
            }
            self.answer(200, body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            time.sleep(0.05)
            self.answer(status, {"access_token": "own-1", "token_type": "bearer", "expires_in": 300})

        def answer(self, code, body):
            sent = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/fhir", asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("status", "outcome"), [(200, "own-1"), (500, "EhrUnavailable")])
def test_86_however_many_threads_ask_one_request_is_made_also_where_it_fails(backend_issuer, status, outcome):
    with slow_ehr(status) as (iss, asked):
        issuer = backend_issuer(issuer={"iss": iss, "allow_http": True, "allow_private_addresses": True})
        with open_http(issuer) as http:
            ask_for = Asking(http, datetime.now(UTC))
            got = []

            def one():
                try:
                    got.append(ask_for(issuer).token)
                except EhrUnavailable as error:
                    got.append(type(error).__name__)

            threads = [threading.Thread(target=one) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert got == [outcome] * 8
    assert asked == ["/t"]


# --- refusals -------------------------------------------------------------------------------------------------


def test_85_without_a_backend_table_nothing_is_requested(ehr, an_issuer, ask_for):
    with pytest.raises(BackendMissing, match=r"\[issuers\.riverside\.backend\]"):
        ask_for(an_issuer())
    assert ehr.asked == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("invalid_client", "does not fit the registration"),
        ("invalid_scope", "does not permit the system scopes"),
        ("unauthorized_client", "not registered for backend services"),
        ("unsupported_grant_type", "offers no backend services"),
        ("something_else", "check how Quarterhour's backend client is registered"),
    ],
)
def test_85_a_refusal_is_told_with_what_to_do(ehr, own_token, backend_issuer, ask_for, code, advice):
    ehr.token_status, ehr.token = 400, {"error": code, "error_description": "assertion eyJ..."}
    with pytest.raises(TokenRefused) as caught:
        ask_for(backend_issuer())
    assert caught.value.error == code
    assert "Riverside Clinic gave Quarterhour itself no access (HTTP 400" in caught.value.message
    assert advice in caught.value.advice
    assert "eyJ" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        {"token_type": "bearer"},
        {"access_token": "own-1", "token_type": "mac"},
        {"access_token": "own 1\n", "token_type": "bearer"},
        {"access_token": "", "token_type": "bearer"},
        [],
    ],
)
def test_85_an_answer_that_cannot_be_used_is_refused_without_its_values(ehr, backend_issuer, ask_for, answer):
    ehr.wire.replace("POST", "https://auth.example/token", json=answer)
    with pytest.raises(TokenRefused, match="cannot be used") as caught:
        ask_for(backend_issuer())
    assert "own" not in caught.value.message.lower().replace("known", "")


@pytest.mark.parametrize("withheld", ["system/Encounter.rs", "system/Patient.r", "system/Procedure.rs"])
def test_85_without_the_scopes_that_a_visit_needs_there_is_no_access(
    own_token, backend_issuer, ask_for, withheld
):
    own_token["scope"] = " ".join(scope for scope in READING if scope != withheld)
    with pytest.raises(TokenRefused, match=f"without {withheld}"):
        ask_for(backend_issuer())


@pytest.mark.parametrize(
    "widened", ["patient/*.cruds user/*.cruds", "openid fhirUser", "system/Encounter.rs?status=finished"]
)
def test_85_a_clinicians_scopes_and_narrowed_ones_do_not_count(own_token, backend_issuer, ask_for, widened):
    own_token["scope"] = f"{widened} system/Patient.r system/Procedure.rs"
    with pytest.raises(TokenRefused, match=r"without system/Encounter\.rs"):
        ask_for(backend_issuer())


def test_85_what_else_was_not_granted_is_said(own_token, backend_issuer, ask_for):
    own_token["scope"] = (
        "system/Encounter.read system/Patient.read system/Procedure.read system/Coverage.read"
    )
    granted = ask_for(backend_issuer(also_for=["planned-charges"]))
    assert [need.v2 for need in granted.lacks] == [
        "system/ChargeItem.rs",
        "system/Practitioner.r",
        "system/PractitionerRole.rs",
        "system/ChargeItem.cu",
    ]


def test_85_a_key_that_is_gone_is_told_and_nothing_is_sent(
    ehr, own_token, backend_issuer, ask_for, monkeypatch
):
    issuer = backend_issuer()
    monkeypatch.delenv("BACKEND_KEY")
    with pytest.raises(TokenRefused, match="own key cannot be read") as caught:
        ask_for(issuer)
    assert caught.value.error == "own_credential"
    assert ehr.token_requests == []


@pytest.mark.parametrize(("status", "error"), [(503, EhrUnavailable), (429, EhrUnavailable)])
def test_85_an_ehr_that_is_down_is_tried_again_after_a_pause(
    ehr, own_token, backend_issuer, ask_for, status, error
):
    ehr.token_status = status
    for _ in range(3):
        with pytest.raises(error, match="tried again by itself"):
            ask_for(backend_issuer())
    assert len(ehr.token_requests) == 1
    ehr.token_status = 200
    ask_for.now += PAUSE
    assert ask_for(backend_issuer()).token == "own-1"


def test_85_a_redirect_is_not_followed(ehr, backend_issuer, ask_for):
    ehr.wire.replace(
        "POST", "https://auth.example/token", status=307, headers={"Location": "https://evil.test/token"}
    )
    with pytest.raises(TokenRefused, match="HTTP 307"):
        ask_for(backend_issuer())
    assert not any("evil.test" in asked for asked in ehr.asked)


def test_85_discovery_that_lies_is_refused_before_the_assertion_is_sent(
    ehr, own_token, backend_issuer, ask_for
):
    ehr.configuration["token_endpoint"] = "https://evil.test/token"
    with pytest.raises(DiscoveryFailed):
        ask_for(backend_issuer())
    assert ehr.token_requests == []


def test_67_neither_logs_nor_repr_hold_the_token_or_the_assertion(ehr, own_token, backend_issuer, ask_for):
    own_token["access_token"] = "very-secret-token"
    with capture_logs() as events:
        granted = ask_for(backend_issuer())
        ehr.token_status, ehr.token = 400, {"error": "invalid_client"}
        with pytest.raises(TokenRefused):
            ask_for(backend_issuer(), refused=granted)
    assertion = ehr.form(ehr.token_requests[0])["client_assertion"]
    told = f"{events} {granted!r} {ask_for.tokens!r}"
    assert len(events) > 1
    assert "very-secret-token" not in told
    assert assertion not in told
