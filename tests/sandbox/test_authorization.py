"""Who gets a token from the sandbox, and who does not. SMART App Launch 2.2; RFC 6749, 7523, 7636."""

from datetime import timedelta

import pytest
import requests
from flask import Flask, jsonify
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from quarterhour.sandbox.clients import Client
from quarterhour.sandbox.ehr import running

PUBLIC, BASIC, JWT = 0, 1, 2
READ = "launch openid fhirUser online_access patient/*.rs"


@pytest.mark.parametrize("client", [PUBLIC, BASIC, JWT])
@pytest.mark.parametrize("scope", ["patient/Procedure.read", "patient/Procedure.rs"])
def test_every_kind_of_client_launches_from_the_chart(start, client, scope):
    with start(client=client) as app:
        token = app.token("cms-ex1", f"launch {scope}")
        found = app.fhir(token, "GET", "/Procedure?patient=pat-adams")
    assert token["token_type"] == "Bearer"
    assert token["scope"] == f"launch {scope}"
    assert found.json()["total"] == 2


def test_the_token_response_carries_the_launch_context(app):
    token = app.token("cms-ex1", READ)
    assert token["patient"] == "pat-adams"
    assert token["encounter"] == "enc-cms-ex1"
    assert token["need_patient_banner"] is True
    assert token["expires_in"] == 3600
    assert app.http.get(token["smart_style_url"]).json()["color_highlight"].startswith("#")


def test_a_token_response_is_not_to_be_cached(app):
    assert app.exchange(app.code()).headers["Cache-Control"] == "no-store"


def test_context_can_be_withheld_as_some_ehrs_do(start):
    with start(no_encounter_context=True, no_patient_context=True, need_patient_banner=None) as app:
        token = app.token("cms-ex1", READ)
    assert not {"encounter", "patient", "need_patient_banner"} & set(token)


@pytest.mark.parametrize("alg", ["RS256", "RS384", "ES256", "ES384"])
def test_the_id_token_is_signed_with_the_chosen_algorithm_and_names_the_user(start, alg):
    with start(id_token_alg=alg) as app:
        token = app.token("cms-ex1", READ, user="pr-cole")
        keys = KeySet.import_key_set(app.http.get(f"{app.ehr.base_url}/oauth/jwks").json())
        decoded = jwt.decode(token["id_token"], keys, algorithms=[alg])
        fhir_url = app.ehr.fhir_url
    assert decoded.header["alg"] == alg
    assert decoded.claims["iss"] == fhir_url
    assert decoded.claims["aud"] == "quarterhour-public"
    assert decoded.claims["nonce"] == "a-nonce"
    assert decoded.claims["sub"] == "sandbox-pr-cole"
    assert decoded.claims["fhirUser"] == f"{fhir_url}/Practitioner/pr-cole"
    assert decoded.claims["exp"] - decoded.claims["iat"] == 3600


def test_the_issuer_of_the_id_token_may_differ_from_the_fhir_base(start):
    with start(id_token_issuer="https://login.example/tenant") as app:
        token = app.token()
        keys = KeySet.import_key_set(app.http.get(f"{app.ehr.base_url}/oauth/jwks").json())
    assert jwt.decode(token["id_token"], keys).claims["iss"] == "https://login.example/tenant"


def test_without_openid_there_is_no_id_token(app):
    assert "id_token" not in app.token("cms-ex1", "launch patient/*.rs")


def test_published_keys_hold_no_private_part(app):
    for key in app.http.get(f"{app.ehr.base_url}/oauth/jwks").json()["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi"} & set(key)


def test_discovery_lists_only_s256(app):
    found = app.http.get(f"{app.ehr.fhir_url}/.well-known/smart-configuration").json()
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert found["token_endpoint"] == f"{app.ehr.base_url}/oauth/token"
    assert {"launch-ehr", "permission-v1", "permission-v2", "client-public"} <= set(found["capabilities"])


def test_openid_discovery_tells_the_same_issuer_and_keys(app):
    smart = app.http.get(f"{app.ehr.fhir_url}/.well-known/smart-configuration").json()
    openid = app.http.get(f"{smart['issuer']}/.well-known/openid-configuration").json()
    assert (openid["issuer"], openid["jwks_uri"]) == (smart["issuer"], smart["jwks_uri"])


# Refused at the authorization endpoint, on a page of its own: the address to go back to is not to be trusted.


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "somebody-else"},
        {"client_id": None},
        {"redirect_uri": "http://localhost:9/callback/"},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": 'http://localhost:9/callback"><script>'},
        {"redirect_uri": None},
    ],
)
def test_an_unknown_client_or_address_is_never_redirected_to(app, changes):
    answer = app.authorize(app.query(READ, launch=app.launch_token("cms-ex1"), **changes))
    assert answer.status_code == 400
    assert "Location" not in answer.headers
    assert "<script>" not in answer.text


def test_a_parameter_given_twice_is_refused(app):
    query = [*app.query(READ, launch=app.launch_token("cms-ex1")).items(), ("client_id", "quarterhour-basic")]
    answer = app.http.get(f"{app.ehr.base_url}/oauth/authorize", params=query, allow_redirects=False)
    assert answer.status_code == 400


# Refused at the authorization endpoint, told to the app.


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "too-short"}, "invalid_request"),
        ({"aud": "https://other.example/fhir"}, "invalid_request"),
        ({"aud": None}, "invalid_request"),
        ({"launch": "never-minted"}, "invalid_request"),
        ({"launch": None}, "invalid_scope"),
        ({"scope": "openid patient/*.rs"}, "invalid_scope"),
        ({"scope": "system/*.rs patient/Procedure.unknown"}, "invalid_scope"),
        ({"scope": None}, "invalid_scope"),
        ({"response_type": "token"}, "unsupported_response_type"),
    ],
)
def test_what_is_wrong_in_the_request_is_told_to_the_app(app, redirected, changes, error):
    answer = app.authorize(app.query(READ, **{"launch": app.launch_token("cms-ex1"), **changes}))
    back = redirected(answer)
    assert back["error"] == error
    assert back["state"] == "a-state"
    assert "code" not in back


def test_a_request_without_state_is_refused(app, redirected):
    answer = app.authorize(app.query(READ, launch=app.launch_token("cms-ex1"), state=None))
    assert redirected(answer)["error"] == "invalid_request"


def test_a_launch_can_be_authorized_again_until_its_code_was_exchanged(app, redirected):
    query = app.query(READ, launch=app.launch_token("cms-ex1"))
    app.authorize(query)
    second = redirected(app.authorize(query))["code"]
    assert app.exchange(second).status_code == 200
    assert redirected(app.authorize(query))["error"] == "invalid_request"


@pytest.mark.parametrize(("minutes", "accepted"), [(9, True), (11, False)])
def test_a_launch_lives_ten_minutes(app, clock, redirected, minutes, accepted):
    launch = app.launch_token("cms-ex1")
    clock.passed += timedelta(minutes=minutes)
    back = redirected(app.authorize(app.query(READ, launch=launch)))
    assert ("code" in back) is accepted


# Scopes


def test_scopes_that_the_ehr_does_not_know_are_left_out_of_the_grant(app):
    token = app.token(
        "cms-ex1", "launch patient/*.rs system/*.rs patient/*.xyz fancy patient/Procedure.rs?a=b"
    )
    assert token["scope"] == "launch patient/*.rs"


def test_an_ehr_can_withhold_a_scope(start):
    with start(withheld_scopes=("user/ChargeItem.c",)) as app:
        assert app.token("cms-ex1", "launch patient/*.rs user/ChargeItem.c")["scope"] == "launch patient/*.rs"


@pytest.mark.parametrize(
    ("syntax", "granted"),
    [
        ("v1", "launch patient/*.read"),
        ("v2", "launch patient/*.rs"),
        ("both", "launch patient/*.read patient/*.rs"),
    ],
)
def test_an_ehr_can_know_only_one_syntax_of_scopes(start, syntax, granted):
    with start(scope_syntax=syntax) as app:
        assert app.token("cms-ex1", "launch patient/*.read patient/*.rs")["scope"] == granted


# Refused at the token endpoint


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_verifier": "x" * 43}, "invalid_grant"),
        ({"code_verifier": None}, "invalid_request"),
        ({"code_verifier": "short"}, "invalid_request"),
        ({"redirect_uri": "http://localhost:9/other"}, "invalid_grant"),
        ({"redirect_uri": None}, "invalid_grant"),
        ({"code": "never-issued"}, "invalid_grant"),
        ({"code": None}, "invalid_request"),
        ({"client_id": "somebody-else"}, "invalid_client"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
    ],
)
def test_a_wrong_token_request_gets_no_token(app, changes, error):
    answer = app.exchange(app.code(), **changes)
    assert answer.status_code in (400, 401)
    assert answer.json()["error"] == error


def test_a_code_of_another_client_is_refused(start):
    with start(client=PUBLIC) as app:
        code = app.code()
        app.client = app.ehr.clients[BASIC]
        answer = app.exchange(code)
    assert answer.json()["error"] == "invalid_grant"


def test_a_code_lives_five_minutes(app, clock):
    code = app.code()
    clock.passed += timedelta(minutes=6)
    assert app.exchange(code).json()["error"] == "invalid_grant"


def test_a_code_used_twice_is_refused_and_takes_back_what_it_gave(app):
    code = app.code()
    token = app.exchange(code).json()
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 200
    assert app.exchange(code).json()["error"] == "invalid_grant"
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 401


def test_a_wrong_secret_is_refused(start):
    with start(client=BASIC) as app:
        form = {"grant_type": "authorization_code", "code": app.code(), "code_verifier": app.verifier}
        url = f"{app.ehr.base_url}/oauth/token"
        assert requests.post(url, data=form, auth=("quarterhour-basic", "guessed")).status_code == 401
        assert requests.post(url, data=form).status_code == 401


def test_a_confidential_client_cannot_pass_for_a_public_one(start):
    with start(client=BASIC) as app:
        form = {
            "grant_type": "authorization_code",
            "client_id": "quarterhour-basic",
            "code": app.code(),
            "redirect_uri": app.client.redirect_uris[0],
            "code_verifier": app.verifier,
        }
        answer = app.http.post(f"{app.ehr.base_url}/oauth/token", data=form)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.fixture(scope="module")
def strangers() -> tuple[RSAKey, ECKey]:
    return (
        RSAKey.generate_key(2048, {"kid": "app-rsa"}),
        ECKey.generate_key("P-384", {"kid": "app-ec"}),
    )


@pytest.mark.parametrize("key", ["rsa", "ec"])
def test_assertions_are_accepted_with_rs384_and_es384(start, key):
    with start(client=JWT) as app:
        answer = app.exchange(app.code(), client_assertion=app.assertion(key=getattr(app, key)))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": 1},
        {"exp": 32503680000},  # in the year 3000
        {"aud": "https://other.example/token"},
        {"aud": None},
        {"jti": None},
        {"iss": "somebody-else"},
        {"iss": None},
        {"sub": "somebody-else"},
        {"sub": None},
    ],
)
def test_an_assertion_with_a_wrong_claim_is_refused(start, claims):
    with start(client=JWT) as app:
        answer = app.exchange(app.code(), client_assertion=app.assertion(**claims))
    assert answer.status_code in (400, 401)
    assert answer.json()["error"] == "invalid_client"


@pytest.mark.parametrize("header", [{"kid": None}, {"kid": "unknown"}, {"typ": None}, {"typ": "JWS"}])
def test_an_assertion_with_a_wrong_header_is_refused(start, header):
    with start(client=JWT) as app:
        answer = app.exchange(app.code(), client_assertion=app.assertion(header=header))
    assert answer.json()["error"] == "invalid_client"


def test_an_assertion_with_rs256_is_refused_even_when_the_key_is_right(start):
    with start(client=JWT) as app:
        assertion = app.assertion(key=app.rsa, header={"alg": "RS256"})
        answer = app.exchange(app.code(), client_assertion=assertion)
    assert answer.json()["error"] == "invalid_client"


@pytest.mark.parametrize("index", [0, 1])
def test_an_assertion_signed_by_a_stranger_is_refused(start, strangers, index):
    with start(client=JWT) as app:
        answer = app.exchange(app.code(), client_assertion=app.assertion(key=strangers[index]))
    assert answer.json()["error"] == "invalid_client"


@pytest.mark.parametrize("assertion", ["", "not-a-jwt", "a.b.c", "e30.e30.e30"])
def test_what_is_no_assertion_at_all_is_refused(start, assertion):
    with start(client=JWT) as app:
        answer = app.exchange(app.code(), client_assertion=assertion)
    assert answer.json()["error"] == "invalid_client"


def test_an_assertion_cannot_be_used_twice(start):
    with start(client=JWT) as app:
        assertion = app.assertion()
        assert app.exchange(app.code(), client_assertion=assertion).status_code == 200
        assert app.exchange(app.code(), client_assertion=assertion).json()["error"] == "invalid_client"


def test_keys_are_fetched_from_the_registered_address(start):
    keys = Flask("keys")

    with running(lambda _base_url: keys) as keys_url:
        client = Client(
            client_id="by-address",
            name="App",
            auth="private_key_jwt",
            launch_url="http://localhost:9/launch",
            redirect_uris=("http://localhost:9/callback",),
            jwks=f"{keys_url}/jwks.json",
        )
        with start(clients=(client,)) as app:
            public = app.ec.as_dict(private=False)
            keys.add_url_rule("/jwks.json", view_func=lambda: jsonify(keys=[public]))
            assert app.exchange(app.code()).status_code == 200


def test_keys_that_cannot_be_fetched_refuse_the_client(start):
    client = Client(
        client_id="by-address",
        name="App",
        auth="private_key_jwt",
        launch_url="http://localhost:9/launch",
        redirect_uris=("http://localhost:9/callback",),
        jwks="http://127.0.0.1:9/jwks.json",
    )
    with start(clients=(client,)) as app:
        assert app.exchange(app.code()).json()["error"] == "invalid_client"


# Refresh and revocation


def refresh(app, token, **changes):
    return app.token_request(
        {"grant_type": "refresh_token", "refresh_token": token["refresh_token"], **changes}
    )


@pytest.mark.parametrize("client", [PUBLIC, BASIC, JWT])
def test_a_refresh_token_buys_a_new_pair_for_the_same_context(start, client):
    with start(client=client) as app:
        old = app.token("cms-ex1", READ)
        new = refresh(app, old).json()
        assert app.fhir(new, "GET", "/Patient/pat-adams").status_code == 200
    assert new["refresh_token"] != old["refresh_token"]
    assert new["access_token"] != old["access_token"]
    assert (new["patient"], new["encounter"]) == ("pat-adams", "enc-cms-ex1")
    assert new["scope"] == old["scope"]


def test_a_refresh_token_used_twice_ends_the_whole_family(app):
    old = app.token("cms-ex1", READ)
    new = refresh(app, old).json()
    assert refresh(app, old).json()["error"] == "invalid_grant"
    assert app.fhir(new, "GET", "/Patient/pat-adams").status_code == 401
    assert refresh(app, new).json()["error"] == "invalid_grant"


def test_a_refresh_may_narrow_the_scope_but_not_widen_it(app):
    token = app.token("cms-ex1", "launch online_access patient/Patient.rs patient/Procedure.rs")
    assert refresh(app, token, scope="patient/Coverage.rs").json()["error"] == "invalid_scope"
    narrow = refresh(app, token, scope="patient/Patient.rs").json()
    assert narrow["scope"] == "patient/Patient.rs"
    assert app.fhir(narrow, "GET", "/Procedure?patient=pat-adams").status_code == 403


def test_without_online_or_offline_access_there_is_no_refresh_token(app):
    assert "refresh_token" not in app.token("cms-ex1", "launch patient/*.rs")
    assert "refresh_token" in app.token("cms-ex1", "launch offline_access patient/*.rs")


def test_some_ehrs_give_no_refresh_token_at_all(start):
    with start(no_refresh_token=True) as app:
        assert "refresh_token" not in app.token("cms-ex1", READ)


def test_a_revoked_token_is_dead_with_its_family(app):
    token = app.token("cms-ex1", READ)
    form = {"token": token["refresh_token"], "client_id": "quarterhour-public"}
    assert app.http.post(f"{app.ehr.base_url}/oauth/revoke", data=form).status_code == 200
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 401
    assert refresh(app, token).json()["error"] == "invalid_grant"


# Standalone launch

STANDALONE = "launch/patient launch/encounter openid fhirUser patient/*.rs"


def choose(app, scope=STANDALONE, **form):
    url = f"{app.ehr.base_url}/oauth/authorize/choose"
    return app.http.post(url, params=app.query(scope), data=form, allow_redirects=False)


def test_a_standalone_launch_asks_who_and_for_whom(app):
    page = app.authorize(app.query(STANDALONE))
    assert page.status_code == 200
    assert "Dana Reyes, PT" in page.text
    assert "Ruth Adams" in page.text
    assert "Sandbox: synthetic patients" in page.text


def test_a_standalone_launch_gives_the_chosen_patient(app, redirected):
    code = redirected(choose(app, user="pr-osei", patient="pat-larsen"))["code"]
    token = app.exchange(code).json()
    assert token["patient"] == "pat-larsen"
    assert "encounter" not in token
    assert app.fhir(token, "GET", "/Patient/pat-adams").status_code == 404


def test_a_chosen_visit_brings_its_own_patient(app, redirected):
    back = redirected(choose(app, user="pr-osei", patient="pat-adams", encounter="enc-two-disciplines-ot"))
    token = app.exchange(back["code"]).json()
    assert (token["patient"], token["encounter"]) == ("pat-larsen", "enc-two-disciplines-ot")


def test_denying_a_standalone_launch_is_told_to_the_app(app, redirected):
    back = redirected(choose(app, deny="1"))
    assert (back["error"], back["state"]) == ("access_denied", "a-state")


@pytest.mark.parametrize(
    "form", [{"user": "nobody", "patient": "pat-adams"}, {"user": "pr-osei", "patient": "x"}, {}]
)
def test_a_choice_that_is_not_in_the_ehr_gives_no_code(app, form):
    assert choose(app, **form).status_code == 400


def test_the_authorization_endpoint_takes_a_post_too(app, redirected):
    query = app.query(READ, launch=app.launch_token("cms-ex1"))
    answer = app.http.post(f"{app.ehr.base_url}/oauth/authorize", data=query, allow_redirects=False)
    assert app.exchange(redirected(answer)["code"]).status_code == 200
