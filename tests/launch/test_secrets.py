"""Nothing secret is logged, shown or said, whatever happens."""

import contextlib
import logging

import pytest
from structlog.testing import capture_logs

from quarterhour.launch.discovery import discover
from quarterhour.launch.errors import LaunchRefused
from quarterhour.launch.exchange import prepare, refresh, revoke
from quarterhour.launch.http import open_http


@pytest.fixture
def issuer(an_issuer, monkeypatch):
    monkeypatch.setenv("RIVERSIDE_SECRET", "client-s3cret")
    return an_issuer(client_auth="client_secret_basic", client_secret_env="RIVERSIDE_SECRET")


def test_38_67_a_whole_launch_logs_no_code_state_token_secret_or_patient(
    ehr, launched, finish, issuer, caplog
):
    http = open_http(issuer)
    caplog.set_level(logging.DEBUG)
    ehr.token["refresh_token"] = "refresh-secret"
    ehr.token["patient"] = "patient-id-1"
    ehr.wire.post("https://auth.example/revoke", status=200)
    with capture_logs() as events:
        pending, _ = launched(issuer)
        session = finish(pending, issuer)
        session = refresh(session, issuer, http=http, now=ehr.now)
        revoke(session, issuer, http=http, now=ehr.now)
        failures = [
            {"state": ["other-state"]},
            {"browser": "other-browser"},
            {"error": ["access_denied"], "error_description": ["described"]},
            {"iss": ["https://evil.test"]},
        ]
        for changes in failures:
            with contextlib.suppress(LaunchRefused):
                finish(launched(issuer)[0], issuer, **changes)
        for ehr.token_status, ehr.token in (
            (400, {"error": "invalid_grant"}),
            (200, {"access_token": "bad secret"}),
        ):
            with contextlib.suppress(LaunchRefused):
                finish(launched(issuer)[0], issuer)
    logged = f"{events} {caplog.text}"
    assert len(events) > 8
    secrets = [pending.state, pending.code_verifier, pending.nonce, pending.browser, "code-secret", "xyz"]
    secrets += ["access-secret", "refresh-secret", "bad secret", "client-s3cret", "patient-id-1", "user-1"]
    secrets += ["Robin", "described", "other-state", "other-browser"]
    assert [secret for secret in secrets if secret in logged] == []


@pytest.mark.parametrize("problem", ["audience", "scheme", "token"])
def test_an_error_carries_no_secret_in_its_text_or_cause(ehr, launched, finish, issuer, problem):
    if problem == "audience":
        ehr.claims["aud"] = "other"
    elif problem == "scheme":
        ehr.token["token_type"] = "mac"
    else:
        ehr.token_status, ehr.token = 400, {"error": "invalid_grant", "error_description": "code-secret"}
    pending, _ = launched(issuer)
    with pytest.raises(LaunchRefused) as caught:
        finish(pending, issuer)
    told = f"{caught.value} {caught.value.__cause__} {vars(caught.value)}"
    for secret in ("access-secret", "code-secret", "client-s3cret", pending.state, pending.code_verifier):
        assert secret not in told


def test_every_refusal_ends_in_what_to_do(launched, finish):
    with pytest.raises(LaunchRefused) as caught:
        finish(launched()[0], state=["other"])
    assert str(caught.value) == f"{caught.value.message} {caught.value.advice}"
    assert caught.value.advice.endswith(".")


def test_preparing_fetches_the_keys_and_touches_both_servers_with_no_credential(ehr, launched, issuer, http):
    endpoints = discover(issuer, http, ehr.now, {}, listed=())
    for thread in prepare(issuer, endpoints, http=http, now=ehr.now, reads=2):
        thread.join()
    assert "https://auth.example/jwks" in http.signing_keys
    asked = ehr.asked
    assert asked.count("GET https://ehr.example/fhir/.well-known/smart-configuration") == 3
    assert asked.count("GET https://auth.example/jwks") == 2
    assert not any("Authorization" in call.request.headers for call in ehr.wire.calls)
