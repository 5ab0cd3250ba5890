"""Backend services at the sandbox: client credentials for a registered key, system scopes, and nothing else."""

import pytest
from joserfc.jwk import ECKey

from quarterhour.sandbox.clients import backend_client
from quarterhour.sandbox.ehr import running_sandbox

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE = "system/Encounter.rs system/Patient.r"


@pytest.fixture
def backend(start):
    """An app whose only client is a backend client, and one that people use."""
    with start() as app:
        jwks = {"keys": [app.rsa.as_dict(private=False), app.ec.as_dict(private=False)]}
        with running_sandbox(clients=(*app.ehr.clients, backend_client(jwks))) as ehr:
            app.ehr, app.client = ehr, ehr.clients[-1]
            yield app


def asked(app, scope=SCOPE, **changes):
    return app.token_request({"grant_type": "client_credentials", "scope": scope} | changes)


def refused(answer, error):
    assert (answer.status_code, answer.json()["error"]) in {(400, error), (401, error)}, answer.text
    return True


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_a_signed_assertion_buys_a_token_for_every_chart_without_a_refresh_token(backend, key):
    answer = asked(backend, client_assertion=backend.assertion(key=getattr(backend, key)))
    token = answer.json()
    assert answer.status_code == 200, answer.text
    assert (token["scope"], token["token_type"], token["expires_in"]) == (SCOPE, "Bearer", 300)
    assert not {"refresh_token", "id_token", "patient", "encounter"} & token.keys()
    found = backend.fhir(token, "GET", "/Encounter?_count=200").json()["entry"]
    assert len({entry["resource"]["subject"]["reference"] for entry in found}) > 1


def test_a_backend_token_reaches_only_what_its_scopes_say(backend):
    token = asked(backend).json()
    assert backend.fhir(token, "GET", "/Patient/pat-adams").status_code == 200
    assert backend.fhir(token, "GET", "/Procedure?patient=pat-adams").status_code == 403
    assert backend.fhir(token, "POST", "/ChargeItem", json={"resourceType": "ChargeItem"}).status_code == 403


def test_the_configuration_says_so(backend):
    said = backend.http.get(f"{backend.ehr.fhir_url}/.well-known/smart-configuration").json()
    assert "client_credentials" in said["grant_types_supported"]
    assert "system/*.rs" in said["scopes_supported"]


@pytest.mark.parametrize("seconds_from_now", [-1, 301, 3600])
def test_an_assertion_lives_five_minutes_at_most(backend, seconds_from_now):
    exp = int(backend.ehr.smart.clock().timestamp()) + seconds_from_now
    assert refused(asked(backend, client_assertion=backend.assertion(exp=exp)), "invalid_client")


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://other.example/token"},
        {"aud": None},
        {"iss": "quarterhour-public"},
        {"sub": "quarterhour-jwt"},
        {"jti": None},
        {"exp": None},
        {"header": {"kid": None}},
        {"header": {"kid": "another"}},
        {"header": {"typ": None}},
    ],
)
def test_a_wrong_assertion_is_refused(backend, changes):
    assert refused(asked(backend, client_assertion=backend.assertion(**changes)), "invalid_client")


def test_an_assertion_of_another_key_is_refused(backend):
    stranger = ECKey.generate_key("P-384", {"kid": backend.ec.kid})
    assert refused(asked(backend, client_assertion=backend.assertion(key=stranger)), "invalid_client")


def test_an_assertion_is_taken_once(backend):
    assertion = backend.assertion()
    assert asked(backend, client_assertion=assertion).status_code == 200
    assert refused(asked(backend, client_assertion=assertion), "invalid_client")


@pytest.mark.parametrize(
    "scope",
    [
        "user/Encounter.rs",
        "patient/Encounter.rs",
        f"{SCOPE} user/ChargeItem.cu",
        "openid fhirUser",
        "",
        "system/x.y",
    ],
)
def test_other_scopes_than_the_systems_are_refused(backend, scope):
    assert refused(asked(backend, scope), "invalid_scope")


def test_without_an_assertion_there_is_no_token(backend):
    form = {"client_assertion": None, "client_assertion_type": None, "client_id": "quarterhour-backend"}
    assert refused(asked(backend, **form), "invalid_client")


@pytest.mark.parametrize("grant", ["authorization_code", "refresh_token"])
def test_a_backend_client_signs_nobody_in(backend, grant):
    form = {
        "grant_type": grant,
        "code": "x",
        "refresh_token": "x",
        "redirect_uri": "http://localhost:9/callback",
    }
    assert refused(backend.token_request(form), "unauthorized_client")
    asked_for = {
        "response_type": "code",
        "client_id": "quarterhour-backend",
        "scope": SCOPE,
        "redirect_uri": "http://localhost:9/callback",
        "state": "s",
        "aud": backend.ehr.fhir_url,
    }
    answer = backend.authorize(asked_for)
    assert answer.status_code == 400


@pytest.mark.parametrize("client", [0, 1, 2])
def test_a_client_that_people_use_gets_nothing_for_itself(backend, client):
    backend.client = backend.ehr.clients[client]
    assert asked(backend).status_code in {400, 401}


def test_system_scopes_are_left_out_of_what_a_person_is_granted(start):
    with start() as app:
        assert app.token("cms-ex1", "launch patient/*.rs system/*.rs")["scope"] == "launch patient/*.rs"


# --- introspection --------------------------------------------------------------------------------------------


def introspected(app, token):
    form = {
        "token": token,
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": app.assertion(),
    }
    return app.http.post(f"{app.ehr.base_url}/oauth/introspect", data=form)


def test_a_client_is_told_what_its_own_token_is_good_for_until_it_is_revoked(backend):
    token = asked(backend).json()["access_token"]
    told = introspected(backend, token).json()
    assert (told["active"], told["scope"], told["client_id"]) == (True, SCOPE, "quarterhour-backend")
    backend.ehr.smart.issued.tokens[token].revoked = True
    assert introspected(backend, token).json() == {"active": False}


def test_a_token_of_another_client_and_one_that_never_was_look_the_same(backend):
    token = asked(backend).json()["access_token"]
    backend.ehr.smart.issued.tokens[token].client_id = "quarterhour-public"
    assert introspected(backend, token).json() == introspected(backend, "never").json() == {"active": False}


def test_nobody_is_told_without_saying_who_they_are(backend):
    answer = backend.http.post(f"{backend.ehr.base_url}/oauth/introspect", data={"token": "x"})
    assert answer.status_code in {400, 401}
