"""The first half of a launch: what the EHR is sent, and what we keep."""

import hashlib
from base64 import urlsafe_b64encode
from datetime import timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest

from quarterhour.launch.authorize import Pending, as_form, begin, launch_request
from quarterhour.launch.discovery import discover
from quarterhour.launch.errors import BadRequest, StateInvalid


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"iss": ["https://ehr.example/fhir"]},
        {"launch": ["x"]},
        {"iss": [""], "launch": ["x"]},
        {"iss": ["https://ehr.example/fhir"], "launch": [""]},
        {"iss": ["a", "b"], "launch": ["x"]},
        {"iss": ["a"], "launch": ["x", "x"]},
        {"iss": ["a" * 5000], "launch": ["x"]},
        {"iss": ["a"], "launch": ["\ud800"]},
        {"iss": ["a"], "launch": ["a\r\nb"]},
        {"iss": ["a"], "launch": ["x" * 5000]},
    ],
)
def test_07_a_launch_without_iss_and_launch_once_each_is_refused(ehr, query):
    with pytest.raises(BadRequest):
        launch_request(query)
    assert ehr.asked == []


def test_07_iss_and_launch_are_taken_as_they_are():
    query = {"iss": ["https://ehr.example/fhir/"], "launch": ["a+b/c=="], "other": ["1", "2"]}
    assert launch_request(query) == ("https://ehr.example/fhir/", "a+b/c==")


def test_23_the_request_asks_for_a_code_for_us_at_our_address(launched):
    _, sent = launched()
    assert sent["response_type"] == ["code"]
    assert sent["client_id"] == ["quarterhour"]
    assert sent["redirect_uri"] == ["https://quarterhour.example/callback"]


def test_24_launch_is_echoed_unchanged_and_left_out_of_a_standalone_launch(launched):
    _, sent = launched(launch="a+b/c== &d")
    assert sent["launch"] == ["a+b/c== &d"]
    _, sent = launched(launch=None)
    assert "launch" not in sent
    assert "launch/patient" in sent["scope"][0].split()


def test_25_aud_is_iss_letter_for_letter(launched):
    _, sent = launched(iss="https://EHR.example/fhir/")
    assert sent["aud"] == ["https://EHR.example/fhir/"]


def test_25_an_iss_that_was_not_matched_is_a_fault_of_the_caller(launched):
    with pytest.raises(ValueError, match="iss is not the issuer's"):
        launched(iss="https://evil.test/fhir")


def test_26_state_is_long_and_new_each_time_and_lives_ten_minutes(ehr, launched):
    states = {launched()[1]["state"][0] for _ in range(10)}
    assert len(states) == 10
    assert all(len(state) * 6 >= 256 for state in states)
    assert launched()[0].expires_at == ehr.now + timedelta(minutes=10)


def test_27_pkce_is_s256_over_a_new_verifier_that_stays_here(launched):
    pending, sent = launched()
    digest = hashlib.sha256(pending.code_verifier.encode()).digest()
    assert sent["code_challenge"] == [urlsafe_b64encode(digest).rstrip(b"=").decode()]
    assert sent["code_challenge_method"] == ["S256"]
    assert 43 <= len(pending.code_verifier) <= 128
    assert pending.code_verifier != launched()[0].code_verifier


def test_28_a_nonce_is_sent(launched):
    pending, sent = launched()
    assert sent["nonce"] == [pending.nonce]


def test_32_max_age_is_never_sent(launched):
    assert launched()[1].keys() == {
        *("response_type", "client_id", "redirect_uri", "scope", "state", "aud", "nonce", "launch"),
        *("code_challenge", "code_challenge_method"),
    }


def test_12_the_endpoints_are_kept_with_the_pending_launch(launched):
    pending, _ = launched()
    assert pending.authorization_endpoint == "https://auth.example/authorize"
    assert pending.token_endpoint == "https://auth.example/token"


def test_14_two_launches_are_two_states(launched):
    first, _ = launched(launch="patient-1")
    second, _ = launched(launch="patient-2")
    assert first.state != second.state
    assert (first.launch, second.launch) == ("patient-1", "patient-2")


def test_a_pending_launch_comes_back_from_storage_as_it_was(launched):
    pending, _ = launched()
    assert Pending.from_json(pending.to_json()) == pending


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"nonce":"', '"nonce":1,"x":"'),
        lambda text: text.replace(
            '"expires_at":"2026-11-21T15:10:00Z"', '"expires_at":"2026-11-21T15:10:00"'
        ),
        lambda text: text.replace('"launch":"xyz",', ""),
        lambda text: text[:-1],
        lambda _: "{}",
    ],
)
def test_a_stored_launch_that_was_changed_is_refused_without_showing_it(launched, change):
    pending, _ = launched()
    changed = change(pending.to_json())
    assert changed != pending.to_json()
    with pytest.raises(StateInvalid) as caught:
        Pending.from_json(changed)
    assert pending.code_verifier not in f"{caught.value} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


def test_67_no_secret_is_shown_by_its_repr(launched):
    pending, _ = launched()
    for secret in (pending.state, pending.code_verifier, pending.nonce, pending.browser, "xyz"):
        assert secret not in repr(pending)


@pytest.mark.parametrize(("length", "posted"), [(2000, False), (2001, True)])
def test_31_a_long_request_is_posted_where_the_ehr_takes_it(ehr, an_issuer, http, length, posted):
    ehr.configuration["authorization_endpoint"] += "?tenant=7"
    ehr.configuration["capabilities"].append("authorize-post")
    endpoints = discover(an_issuer(), http, ehr.now, {}, listed=())
    pending, short = begin(an_issuer(), endpoints, launch="x", redirect_uri="r", browser="b", now=ehr.now)
    address = f"{short}{'x' * (length - len(short))}"
    form = as_form(address, endpoints)
    if not posted:
        assert form is None
        return
    action, fields = form
    assert action == "https://auth.example/authorize?tenant=7"
    sent = dict(fields)
    assert len(sent) == len(fields)
    assert (sent["state"], sent["aud"], sent["code_challenge_method"]) == (pending.state, pending.iss, "S256")
    assert fields == parse_qsl(urlsplit(address).query.removeprefix("tenant=7&"), keep_blank_values=True)


def test_31_where_the_ehr_does_not_say_that_it_takes_post_the_address_is_used(ehr, an_issuer, http):
    endpoints = discover(an_issuer(), http, ehr.now, {}, listed=())
    _, address = begin(an_issuer(), endpoints, launch="x" * 4000, redirect_uri="r", browser="b", now=ehr.now)
    assert len(address) > 4000
    assert as_form(address, endpoints) is None
