"""Whatever arrives, a launch ends in a session or in a refusal that says what to do; nothing else escapes."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarterhour.launch.authorize import Pending, begin, launch_request
from quarterhour.launch.context import Session
from quarterhour.launch.discovery import discover
from quarterhour.launch.errors import LaunchRefused
from quarterhour.launch.identity import fhir_user
from quarterhour.launch.issuers import Issuers
from quarterhour.launch.scopes import missing

anything = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["https://", "\ud800", "a" * 9000, "//"]
)
queries = st.dictionaries(
    st.sampled_from(["iss", "launch", "state", "code", "error", "error_description"]),
    st.lists(anything, max_size=2),
)
json_text = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | json_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_text, inner, max_size=3),
    max_leaves=8,
)
shared_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@shared_fixtures
@given(queries, anything)
def test_any_launch_and_any_issuer(an_issuer, launched, query, iss):
    with contextlib.suppress(LaunchRefused):
        _, launch = launch_request({"iss": ["https://ehr.example/fhir"]} | query)
        assert launched(launch=launch)[1]["launch"] == [launch]
    with contextlib.suppress(LaunchRefused):
        Issuers((an_issuer(),)).match(iss)
    fhir_user(iss, an_issuer())
    missing([iss])


@shared_fixtures
@given(queries, st.booleans())
def test_any_callback(launched, finish, query, right_state):
    pending, _ = launched()
    state = {"state": [pending.state]} if right_state else {}
    with contextlib.suppress(LaunchRefused):
        finish(pending, **(query | state))


TOKEN_MEMBERS = (
    *(
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "refresh_token",
        "id_token",
        "patient",
        "encounter",
    ),
    *("need_patient_banner", "smart_style_url", "intent", "tenant", "fhirContext"),
)


@shared_fixtures
@given(st.dictionaries(st.sampled_from(TOKEN_MEMBERS), documents, max_size=4))
def test_any_token_response(ehr, launched, finish, members):
    ehr.token = {"access_token": "access-secret", "token_type": "Bearer"} | members
    pending, _ = launched()
    with contextlib.suppress(LaunchRefused):
        session = finish(pending)
        assert Session.from_json(session.to_json()) == session


CLAIMS = ("iss", "sub", "aud", "azp", "exp", "iat", "nbf", "nonce", "fhirUser", "profile", "name")


@shared_fixtures
@given(st.dictionaries(st.sampled_from(CLAIMS), documents, max_size=3))
def test_any_claims_that_the_ehr_signs(ehr, launched, finish, claims):
    pending, _ = launched()
    ehr.id_token = ehr.signed(**claims)
    with contextlib.suppress(LaunchRefused):
        assert finish(pending).id.sub


CONFIGURATION_MEMBERS = (
    *(
        "authorization_endpoint",
        "token_endpoint",
        "issuer",
        "jwks_uri",
        "revocation_endpoint",
        "capabilities",
    ),
    *(
        "scopes_supported",
        "code_challenge_methods_supported",
        "authorization_response_iss_parameter_supported",
    ),
)


@shared_fixtures
@given(st.dictionaries(st.sampled_from(CONFIGURATION_MEMBERS), documents | json_text, max_size=3))
def test_any_smart_configuration(ehr, an_issuer, http, members):
    good = dict(ehr.configuration)
    ehr.configuration = good | members
    with contextlib.suppress(LaunchRefused):
        endpoints = discover(an_issuer(), http, ehr.now, {}, listed=())
        assert endpoints.token.startswith("https://")
        arguments = {"launch": "x", "redirect_uri": "https://q.example/cb", "browser": "b", "now": ehr.now}
        pending, _ = begin(an_issuer(), endpoints, **arguments)
        assert Pending.from_json(pending.to_json()) == pending
    ehr.configuration = good


@shared_fixtures
@given(
    st.lists(st.dictionaries(st.sampled_from(["kty", "n", "e", "crv", "x", "y", "use", "alg"]), documents))
)
def test_any_signing_keys(ehr, an_issuer, launched, finish, keys):
    ehr.wire.replace("GET", "https://auth.example/jwks", body=json.dumps({"keys": keys}))
    pending, _ = launched()
    with pytest.raises(LaunchRefused):
        finish(pending)


@shared_fixtures
@given(documents)
def test_any_stored_value(stored):
    for kind in (Pending, Session):
        with contextlib.suppress(LaunchRefused):
            kind.from_json(json.dumps(stored))
