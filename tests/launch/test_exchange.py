"""The second half of a launch: the callback, the token request, and what becomes of its answer."""

import json
from base64 import b64decode
from datetime import timedelta

import pytest
import requests
from joserfc import jwt

from quarterhour.launch.context import Session, app_context
from quarterhour.launch.errors import (
    AuthorizationRefused,
    BadRequest,
    EhrUnavailable,
    SessionEnded,
    StateInvalid,
    TokenRefused,
)
from quarterhour.launch.exchange import refresh, revoke, state_in
from quarterhour.launch.keys import generate_key

TOKEN = "https://auth.example/token"
JWKS = "https://auth.example/jwks"


@pytest.fixture
def session(launched, finish):
    def launch(issuer=None, **changes):
        pending, _ = launched(issuer)
        return finish(pending, issuer, **changes)

    return launch


# The callback


@pytest.mark.parametrize("query", [{}, {"state": []}, {"state": [""]}])
def test_35_a_callback_without_state_belongs_to_nothing(query):
    with pytest.raises(StateInvalid):
        state_in(query)


@pytest.mark.parametrize("state", ["other", "", "é", "\ud800"])
def test_35_another_state_is_refused_and_no_token_is_asked_for(ehr, launched, finish, state):
    pending, _ = launched()
    with pytest.raises(StateInvalid):
        finish(pending, state=[state])
    assert ehr.token_requests == []


def test_35_a_state_is_refused_from_its_tenth_minute_on(ehr, launched, finish):
    pending, _ = launched()
    with pytest.raises(StateInvalid, match="longer than ten minutes"):
        finish(pending, now=ehr.now + timedelta(minutes=10))
    assert ehr.token_requests == []
    ehr.claims["exp"] += 3600
    assert finish(pending, now=ehr.now + timedelta(minutes=9, seconds=59)).access_token == "access-secret"


def test_36_a_state_from_another_browser_is_refused(ehr, launched, finish):
    pending, _ = launched()
    with pytest.raises(StateInvalid, match="another browser"):
        finish(pending, browser="browser-2")
    assert ehr.token_requests == []


@pytest.mark.parametrize("name", ["state", "code", "iss", "error", "error_description"])
def test_07_a_doubled_parameter_is_refused(ehr, launched, finish, name):
    pending, _ = launched()
    doubled = {name: [pending.state if name == "state" else "access_denied"] * 2}
    also = {"error": ["access_denied"]} if name == "error_description" else {}
    with pytest.raises(BadRequest, match=f"The parameter {name} was given 2 times"):
        finish(pending, **(also | doubled))
    assert ehr.token_requests == []


@pytest.mark.parametrize("code", [[], [""], ["x" * 5000], ["\ud800"], ["é"], ["a\r\nb"]])
def test_a_callback_without_a_usable_code_is_refused(ehr, launched, finish, code):
    pending, _ = launched()
    with pytest.raises(BadRequest, match="holds no code"):
        finish(pending, code=code)
    assert ehr.token_requests == []


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("access_denied", "Open Quarterhour again"),
        ("invalid_scope", "administrator"),
        ("unauthorized_client", "not registered"),
        ("invalid_client", "not registered"),
        ("invalid_request", "administrator"),
        ("login_required", "Sign in"),
        ("server_error", "Wait a minute"),
        ("temporarily_unavailable", "Wait a minute"),
        ("something_new", "Open Quarterhour again"),
    ],
)
def test_34_93_the_ehrs_error_is_told_with_what_to_do(ehr, launched, finish, error, advice):
    pending, _ = launched()
    with pytest.raises(AuthorizationRefused) as caught:
        finish(pending, without=["code"], error=[error], error_description=["Ask the desk"])
    assert caught.value.error == error
    assert '"Ask the desk"' in caught.value.message
    assert advice in caught.value.advice
    assert ehr.token_requests == []


def test_34_an_error_wins_over_a_code(ehr, launched, finish):
    pending, _ = launched()
    with pytest.raises(AuthorizationRefused):
        finish(pending, error=["access_denied"])
    assert ehr.token_requests == []


def test_34_what_is_no_error_code_is_not_repeated(launched, finish):
    pending, _ = launched()
    with pytest.raises(AuthorizationRefused) as caught:
        finish(pending, error=["<script>"], error_description=["a\r\nb" + "c" * 1000])
    assert caught.value.error == "unknown"
    assert "<script>" not in str(caught.value)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


def test_34_nobody_puts_words_on_our_page_without_the_right_state_and_browser(launched, finish):
    pending, _ = launched()
    for changes in ({"state": ["other"]}, {"browser": "browser-2"}):
        with pytest.raises(StateInvalid) as caught:
            finish(pending, error=["access_denied"], error_description=["Call 555-0100"], **changes)
        assert "555-0100" not in str(caught.value)


def test_13_an_answer_that_names_another_server_is_refused(ehr, launched, finish):
    pending, _ = launched()
    with pytest.raises(StateInvalid, match="another server"):
        finish(pending, iss=["https://evil.test"])
    assert ehr.token_requests == []
    assert finish(pending, iss=["https://auth.example"]).access_token == "access-secret"


def test_13_an_ehr_that_promises_to_name_itself_must(ehr, launched, finish):
    ehr.configuration["authorization_response_iss_parameter_supported"] = True
    pending, _ = launched()
    with pytest.raises(StateInvalid, match="did not name itself"):
        finish(pending)
    assert ehr.token_requests == []


def test_11_a_pending_launch_of_one_ehr_is_not_completed_as_anothers(ehr, launched, finish, an_issuer):
    pending, _ = launched()
    with pytest.raises(StateInvalid):
        finish(pending, an_issuer(id="lakeside", iss="https://lake.example/fhir"))
    assert ehr.token_requests == []


# The token request


def test_39_the_token_request_repeats_the_address_and_shows_the_verifier(ehr, launched, finish):
    pending, _ = launched()
    finish(pending)
    (request,) = ehr.token_requests
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert ehr.form(request) == {
        "grant_type": "authorization_code",
        "code": "code-secret",
        "redirect_uri": "https://quarterhour.example/callback",
        "code_verifier": pending.code_verifier,
        "client_id": "quarterhour",
    }


def test_40_a_public_client_shows_nothing_but_its_id(ehr, session):
    session()
    assert "Authorization" not in ehr.token_requests[0].headers


def test_41_basic_credentials_are_form_encoded_first_and_not_in_the_body(
    ehr, session, an_issuer, monkeypatch
):
    monkeypatch.setenv("RIVERSIDE_SECRET", "p:ä %+")
    issuer = an_issuer(
        client_id="quarter hour",
        client_auth="client_secret_basic",
        client_secret_env="RIVERSIDE_SECRET",
    )
    ehr.claims["aud"] = "quarter hour"
    session(issuer)
    (request,) = ehr.token_requests
    kind, _, pair = request.headers["Authorization"].partition(" ")
    assert (kind, b64decode(pair)) == ("Basic", b"quarter%20hour:p%3A%C3%A4%20%25%2B")
    assert not ehr.form(request).keys() & {"client_id", "client_secret"}


def test_41_a_secret_goes_into_the_body_only_where_the_operator_says_so(ehr, session, an_issuer, monkeypatch):
    monkeypatch.setenv("RIVERSIDE_SECRET", "s3cret")
    session(an_issuer(client_auth="client_secret_post", client_secret_env="RIVERSIDE_SECRET"))
    (request,) = ehr.token_requests
    assert ehr.form(request)["client_secret"] == "s3cret"
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_40_42_an_asymmetric_client_signs_and_leaves_its_id_out(ehr, session, an_issuer, monkeypatch, alg):
    monkeypatch.setenv("RIVERSIDE_KEY", generate_key(alg))
    issuer = an_issuer(client_auth="private_key_jwt", key_env="RIVERSIDE_KEY", signing_alg=alg, kid="k1")
    session(issuer)
    form = ehr.form(ehr.token_requests[0])
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    claims = jwt.decode(form["client_assertion"], issuer.signing_key(), algorithms=[alg]).claims
    assert claims["aud"] == TOKEN
    assert not form.keys() & {"client_id", "client_secret"}


def test_47_a_credential_that_has_gone_is_the_administrators_business(
    ehr, launched, finish, an_issuer, monkeypatch
):
    monkeypatch.delenv("RIVERSIDE_SECRET", raising=False)
    issuer = an_issuer(client_auth="client_secret_basic", client_secret_env="RIVERSIDE_SECRET")
    pending, _ = launched(issuer)
    with pytest.raises(TokenRefused, match="administrator") as caught:
        finish(pending, issuer)
    assert caught.value.error == "own_credential"
    assert ehr.token_requests == []


def test_12_the_token_endpoint_is_that_of_the_pending_launch(ehr, launched, finish):
    pending, _ = launched()
    ehr.configuration["token_endpoint"] = "https://evil.test/token"
    finish(pending)
    assert sorted(ehr.asked[-2:]) == [f"GET {JWKS}", f"POST {TOKEN}"]  # side by side


def test_one_trip_suffices_once_the_keys_are_known(ehr, session):
    session()
    before = len(ehr.asked)
    session()
    assert ehr.asked[before:] == [f"GET {ehr.base}/.well-known/smart-configuration", f"POST {TOKEN}"]


# Its answer


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("invalid_client", "registration"),
        ("invalid_grant", "Open Quarterhour again"),
        ("invalid_scope", "administrator"),
        ("unauthorized_client", "administrator"),
        ("something_else", "Open Quarterhour again"),
    ],
)
def test_93_a_refusal_is_told_with_what_to_do_and_without_its_description(
    ehr, launched, finish, error, advice
):
    ehr.token_status = 401 if error == "invalid_client" else 400
    ehr.token = {"error": error, "error_description": "code code-secret was used"}
    pending, _ = launched()
    with pytest.raises(TokenRefused) as caught:
        finish(pending)
    assert caught.value.error == error
    assert advice in caught.value.advice
    assert "code-secret" not in str(caught.value)


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"error": 7}', '{"error": "<script>"}', "[" * 100_000])
def test_a_refusal_that_is_not_oauth_is_a_refusal(ehr, launched, finish, body):
    pending, _ = launched()
    ehr.wire.replace("POST", TOKEN, status=400, body=body)
    with pytest.raises(TokenRefused) as caught:
        finish(pending)
    assert caught.value.error == "unknown"


@pytest.mark.parametrize("status", [302, 307, 308])
def test_10_a_token_request_is_never_redirected(ehr, launched, finish, status):
    pending, _ = launched()
    ehr.wire.replace("POST", TOKEN, status=status, headers={"Location": "https://evil.test/token"})
    with pytest.raises(TokenRefused):
        finish(pending)
    assert not [url for url in ehr.asked if "evil" in url]


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500},
        {"status": 503},
        {"status": 429},
        {"body": requests.ConnectTimeout()},
        {"body": requests.ReadTimeout()},
        {"body": requests.ConnectionError()},
        {"body": requests.exceptions.SSLError()},
    ],
)
def test_an_ehr_that_does_not_answer_is_unavailable_and_is_asked_once(ehr, launched, finish, failure):
    pending, _ = launched()
    ehr.wire.replace("POST", TOKEN, **failure)
    with pytest.raises(EhrUnavailable, match="Wait a minute"):
        finish(pending)
    assert len(ehr.token_requests) == 1


@pytest.mark.parametrize("type_", ["Bearer", "bearer", "BEARER"])
def test_48_the_token_type_is_bearer_in_any_case(ehr, session, type_):
    ehr.token["token_type"] = type_
    assert session().token_type == "Bearer"


@pytest.mark.parametrize(
    "change",
    [
        {"token_type": "mac"},
        {"token_type": None},
        {"access_token": ""},
        {"access_token": None},
        {"access_token": 7},
        {"access_token": "a\r\nX-Header: 1"},
        {"access_token": "a b"},
        {"refresh_token": ""},
        {"refresh_token": "a\nb"},
        {"scope": ["openid"]},
        {"patient": 7},
        {"patient": ""},
        {"patient": "../Patient/2"},
        {"patient": ".."},
        {"patient": "1?x=y"},
        {"patient": "x" * 65},
        {"encounter": "a/b"},
    ],
)
def test_48_an_answer_that_is_unsafe_to_use_is_refused_without_its_values(ehr, launched, finish, change):
    ehr.token |= change
    pending, _ = launched()
    with pytest.raises(TokenRefused, match="cannot be used") as caught:
        finish(pending)
    assert "access-secret" not in str(caught.value)
    assert "X-Header" not in str(caught.value)


@pytest.mark.parametrize(
    "body", ["", "[]", "null", "access_token=x&token_type=Bearer", "[" * 100_000, b"\xff"]
)
def test_48_an_answer_that_is_no_json_object_is_refused(ehr, launched, finish, body):
    pending, _ = launched()
    ehr.wire.replace("POST", TOKEN, body=body)
    with pytest.raises(TokenRefused, match="cannot be used"):
        finish(pending)


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [(3600, 3600), ("3600", 3600), (0.5, 0), (10**12, 86400), (86401, 86400)],
)
def test_48_expires_in_is_read_and_believed_for_a_day_at_most(ehr, session, expires_in, seconds):
    ehr.token["expires_in"] = expires_in
    assert session().expires_at == ehr.now + timedelta(seconds=seconds)


@pytest.mark.parametrize("expires_in", [None, 0, -1, "soon", True, "٣", []])
def test_48_without_a_usable_expires_in_nothing_is_guessed(ehr, session, expires_in):
    ehr.token["expires_in"] = expires_in
    assert session().expires_at is None


def test_70_a_refresh_is_due_in_the_last_minute(ehr, session):
    launch = session()
    assert not launch.expires_soon(ehr.now + timedelta(seconds=3540))
    assert launch.expires_soon(ehr.now + timedelta(seconds=3541))


def test_57_without_scope_in_the_answer_what_was_asked_for_is_granted(ehr, launched, finish):
    pending, _ = launched()
    assert finish(pending).context.scopes == pending.scopes


def test_57_the_granted_scopes_are_those_of_the_answer_in_any_order(ehr, session):
    ehr.token["scope"] = " openid  launch openid patient/Patient.r "
    assert session().context.scopes == ("openid", "launch", "patient/Patient.r")


# The context


def test_49_50_patient_and_encounter_may_be_absent(ehr, session):
    del ehr.token["patient"], ehr.token["encounter"]
    context = session().context
    assert (context.patient, context.encounter) == (None, None)


def test_51_the_context_comes_from_the_answer_and_never_from_the_query(ehr, launched, finish):
    pending, _ = launched()
    context = finish(pending, patient=["p2"], encounter=["e2"], fhirUser=["Practitioner/9"]).context
    assert (context.patient, context.encounter, context.fhir_user) == ("p1", "e1", "Practitioner/7")


def test_51_the_issuer_is_the_operators_spelling(launched, finish):
    pending, _ = launched(iss="https://EHR.example/fhir/")
    assert finish(pending).context.iss == "https://ehr.example/fhir"


def test_52_fhir_context_keeps_the_launch_entries_that_it_understands(ehr, session):
    ehr.token["fhirContext"] = [
        {"reference": "ServiceRequest/1"},
        {"reference": "ServiceRequest/2", "role": "launch", "type": "ServiceRequest"},
        {"canonical": "http://example.org/Questionnaire/1", "role": "launch"},
        {"reference": "ServiceRequest/3", "role": "https://vendor.example/role"},
        {"identifier": {"value": "x"}},
        {"reference": 7},
        "ServiceRequest/4",
        None,
    ]
    items = session().context.fhir_context
    assert [item.reference or item.canonical for item in items] == [
        "ServiceRequest/1",
        "ServiceRequest/2",
        "http://example.org/Questionnaire/1",
    ]


@pytest.mark.parametrize("value", ["x", {}, 7, None])
def test_52_a_fhir_context_of_another_shape_is_none(ehr, session, value):
    ehr.token["fhirContext"] = value
    assert session().context.fhir_context == ()


@pytest.mark.parametrize(
    ("said", "needed"), [(True, True), (False, False), (None, True), ("false", True), (0, True)]
)
def test_53_only_a_plain_false_hides_the_patient_banner(ehr, session, said, needed):
    ehr.token["need_patient_banner"] = said
    assert session().context.need_patient_banner is needed


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://ehr.example/styles/1.json", True),
        ("https://style.example/1.json", True),
        ("https://evil.test/1.json", False),
        ("http://ehr.example/styles/1.json", False),
        ("javascript:alert(1)", False),
        ("/styles/1.json", False),
        ("https://[::1/x", False),
        (7, False),
    ],
)
def test_54_a_style_address_is_kept_only_on_servers_that_we_know(ehr, session, an_issuer, url, kept):
    issuer = an_issuer(endpoint_origins=("https://auth.example", "https://style.example"))
    ehr.token["smart_style_url"] = url
    assert (session(issuer).context.smart_style_url == url) is kept


@pytest.mark.parametrize("name", ["intent", "tenant"])
def test_55_56_intent_and_tenant_are_short_words_or_nothing(ehr, session, name):
    ehr.token[name] = "reconcile-charges"
    assert getattr(session().context, name) == "reconcile-charges"
    for odd in (7, "", "a\nb", "x" * 256, ["a"]):
        ehr.token[name] = odd
        assert getattr(session().context, name) is None


def test_members_we_do_not_know_are_ignored(ehr, session):
    ehr.token |= {"epic.dstu2.patient": "x", "state": "y", "user": {"a": [1]}}
    assert session().context.patient == "p1"


def test_73_an_access_token_is_never_read(ehr, session):
    ehr.token["access_token"] = "eyJhbGciOiJub25lIn0.eyJwYXRpZW50IjoicDIifQ."
    assert session().context.patient == "p1"


# The session's later life


def test_67_no_token_is_shown_by_its_repr(ehr, session):
    ehr.token["refresh_token"] = "refresh-secret"
    shown = repr(session())
    assert "access-secret" not in shown
    assert "refresh-secret" not in shown


def test_a_session_comes_back_from_storage_as_it_was(ehr, session):
    ehr.token |= {"refresh_token": "refresh-secret", "fhirContext": [{"reference": "ServiceRequest/1"}]}
    launch = session()
    assert Session.from_json(launch.to_json()) == launch


@pytest.mark.parametrize(
    "change", [{"patient": 7}, {"extra": 1}, {"scopes": None}, {"need_patient_banner": "false"}]
)
def test_a_stored_session_that_was_changed_is_refused_without_showing_it(session, change):
    stored = json.loads(session().to_json())
    stored["context"] |= change
    with pytest.raises(SessionEnded) as caught:
        Session.from_json(json.dumps(stored))
    assert "access-secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.fixture
def refreshable(ehr, session):
    ehr.token["refresh_token"] = "refresh-1"
    launch = session()
    ehr.token = {"access_token": "access-2", "token_type": "Bearer", "expires_in": 60}
    return launch


def test_68_a_refresh_replaces_the_tokens_and_keeps_who_and_where(ehr, refreshable, an_issuer, http):
    ehr.token["refresh_token"] = "refresh-2"
    later = ehr.now + timedelta(hours=1)
    renewed = refresh(refreshable, an_issuer(), http=http, now=later)
    assert (renewed.access_token, renewed.refresh_token) == ("access-2", "refresh-2")
    assert renewed.expires_at == later + timedelta(seconds=60)
    assert (renewed.id, renewed.context) == (refreshable.id, refreshable.context)
    assert ehr.form(ehr.token_requests[-1]) == {
        "grant_type": "refresh_token",
        "refresh_token": "refresh-1",
        "client_id": "quarterhour",
    }


def test_68_a_refresh_token_that_is_not_replaced_is_kept(ehr, refreshable, an_issuer, http):
    assert refresh(refreshable, an_issuer(), http=http, now=ehr.now).refresh_token == "refresh-1"


def test_68_scopes_that_were_taken_away_are_gone(ehr, refreshable, an_issuer, http):
    ehr.token["scope"] = "openid"
    assert refresh(refreshable, an_issuer(), http=http, now=ehr.now).context.scopes == ("openid",)


def test_58_a_refresh_for_another_patient_ends_the_session(ehr, refreshable, an_issuer, http):
    ehr.token["patient"] = "p2"
    with pytest.raises(SessionEnded, match="another patient"):
        refresh(refreshable, an_issuer(), http=http, now=ehr.now)


def test_69_without_a_refresh_token_a_new_launch_is_offered(ehr, session, an_issuer, http):
    launch = session()
    with pytest.raises(SessionEnded, match="Open Quarterhour again"):
        refresh(launch, an_issuer(), http=http, now=ehr.now)
    assert len(ehr.token_requests) == 1


def test_93_an_expired_refresh_token_ends_the_session(ehr, refreshable, an_issuer, http):
    ehr.token_status, ehr.token = 400, {"error": "invalid_grant"}
    with pytest.raises(SessionEnded, match="invalid_grant"):
        refresh(refreshable, an_issuer(), http=http, now=ehr.now)


def test_68_a_refresh_while_the_ehr_is_down_can_be_tried_again(ehr, refreshable, an_issuer, http):
    ehr.token_status = 503
    with pytest.raises(EhrUnavailable):
        refresh(refreshable, an_issuer(), http=http, now=ehr.now)


def test_71_signing_out_revokes_the_refresh_token(ehr, refreshable, an_issuer, http):
    ehr.wire.post("https://auth.example/revoke", status=200)
    assert revoke(refreshable, an_issuer(), http=http, now=ehr.now) is True
    assert ehr.form(ehr.wire.calls[-1].request) == {
        "token": "refresh-1",
        "token_type_hint": "refresh_token",
        "client_id": "quarterhour",
    }


def test_71_signing_out_works_where_the_ehr_cannot_or_does_not_revoke(
    ehr, session, refreshable, an_issuer, http
):
    ehr.wire.post("https://auth.example/revoke", status=503)
    assert revoke(refreshable, an_issuer(), http=http, now=ehr.now) is False
    del ehr.configuration["revocation_endpoint"]
    ehr.token |= {"patient": "p1"}
    before = len(ehr.asked)
    launch = session()
    assert revoke(launch, an_issuer(), http=http, now=ehr.now) is False
    assert not [url for url in ehr.asked[before:] if "revoke" in url]


@pytest.mark.parametrize("given", ["e1", None])
def test_90_a_launch_by_a_task_or_link_of_ours_opens_the_visit_that_it_names(ehr, launched, finish, given):
    ehr.token |= {"encounter": given, "appContext": app_context("e-yesterday")}
    assert finish(launched()[0]).context.encounter == "e-yesterday"


@pytest.mark.parametrize(
    "foreign",
    [
        "not json",
        "{}",
        "[]",
        '{"encounter": 7}',
        '{"encounter": "../Patient/1"}',
        '{"encounter": ""}',
        '{"encounter": "' + "e" * 65 + '"}',
        '{"encounter": "e2", "x": "' + "x" * 2000 + '"}',
        "[" * 2000,
        {"encounter": "e2"},
        7,
        None,
    ],
)
def test_90_an_app_context_that_is_not_ours_changes_nothing(ehr, launched, finish, foreign):
    ehr.token["appContext"] = foreign
    assert finish(launched()[0]).context.encounter == "e1"
