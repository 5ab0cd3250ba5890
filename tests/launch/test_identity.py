"""Who signed in: each check of the id_token, from both sides."""

import base64
import hmac
import json
from datetime import timedelta

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from quarterhour.launch.errors import EhrUnavailable, IdentityInvalid
from quarterhour.launch.identity import fhir_user, user_kind

JWKS = "https://auth.example/jwks"


@pytest.fixture
def identity(launched, finish):
    def sign_in(issuer=None, **changes):
        pending, _ = launched(issuer)
        return finish(pending, issuer, **changes).id

    return sign_in


@pytest.fixture
def refused(ehr, identity):
    def sign_in(issuer=None):
        with pytest.raises(IdentityInvalid) as caught:
            identity(issuer)
        return caught.value.message

    return sign_in


def test_63_the_user_is_issuer_and_subject(identity):
    user = identity()
    assert (user.issuer, user.sub) == ("https://auth.example", "user-1")
    assert (user.fhir_user, user.name) == ("Practitioner/7", "Robin Example")


@pytest.mark.parametrize("alg", ["RS256", "RS384", "ES384"])
def test_59_the_allowed_algorithms_are_accepted(ehr, identity, alg):
    if alg == "ES384":
        ehr.signer = ehr.ec
    ehr.header = {"alg": alg, "kid": ehr.signer.kid}
    assert identity().sub == "user-1"


def test_59_es256_is_accepted(ehr, identity):
    ehr.signer = ECKey.generate_key("P-256", {"kid": "p256"})
    ehr.published.append(ehr.signer)
    ehr.header = {"alg": "ES256", "kid": "p256"}
    assert identity().sub == "user-1"


def test_59_an_algorithm_outside_the_operators_list_is_refused(ehr, refused, an_issuer):
    assert "algorithm that is not allowed" in refused(an_issuer(id_token_algs=("ES384",)))
    ehr.header = {"alg": "RS512", "kid": "rsa-1"}
    assert "algorithm that is not allowed" in refused()


def base64url(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def unsigned(ehr, alg):
    parts = ({"alg": alg, "kid": "rsa-1"}, ehr.claims | {"nonce": ehr.nonce})
    return ".".join([*(base64url(json.dumps(part).encode()) for part in parts), ""])


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
def test_59_an_unsigned_token_is_refused(ehr, launched, finish, alg):
    pending, _ = launched()
    ehr.id_token = unsigned(ehr, alg)
    with pytest.raises(IdentityInvalid, match="algorithm that is not allowed"):
        finish(pending)


def test_59_a_token_without_its_signature_is_refused(ehr, launched, finish):
    pending, _ = launched()
    for token in (unsigned(ehr, "RS256"), ehr.signed().rpartition(".")[0] + "."):
        ehr.id_token = token
        with pytest.raises(IdentityInvalid, match="no key of the EHR verifies its signature"):
            finish(pending)


@pytest.mark.parametrize("alg", ["HS256", "RS256"])
def test_59_the_public_key_used_as_an_hmac_secret_is_refused(ehr, launched, finish, alg):
    pending, _ = launched()
    for secret in (ehr.rsa.as_pem(private=False), ehr.rsa.as_bytes(encoding="DER", private=False)):
        text = unsigned(ehr, alg)
        signature = hmac.digest(secret, text.rstrip(".").encode(), "sha256")
        ehr.id_token = text + base64url(signature)
        with pytest.raises(IdentityInvalid, match=r"algorithm that is not allowed|no key of the EHR"):
            finish(pending)


def test_59_a_symmetric_key_in_the_jwks_is_no_key(ehr, refused):
    ehr.wire.replace("GET", JWKS, json={"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa-1"}]})
    assert "publishes no key that signs" in refused()


def test_59_a_signature_by_another_key_of_the_same_name_is_refused(ehr, refused):
    ehr.signer = ehr.other
    assert "no key of the EHR verifies its signature" in refused()


def test_59_a_changed_claim_breaks_the_signature(ehr, launched, finish):
    pending, _ = launched()
    head, _, tail = ehr.signed().split(".")
    body = ehr.signed(sub="user-2").split(".")[1]
    ehr.id_token = f"{head}.{body}.{tail}"
    with pytest.raises(IdentityInvalid, match="no key of the EHR verifies its signature"):
        finish(pending)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c.d.e",
        "..",
        "a.b.c",
        "é.é.é",
        "x" * 100_000,
        "eyJhbGciOiJSUzI1NiJ9..",
        "W10.W10.x",
        "WyJhbGciXQ.e30.AA",  # its header is a list
    ],
)
def test_59_what_is_no_token_is_refused(ehr, launched, finish, token):
    pending, _ = launched()
    ehr.token["id_token"] = token
    with pytest.raises(IdentityInvalid):
        finish(pending)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'"text"', b"{", b"\xff\xfe", b'{"name": "\\ud83d"}', b"[" * 9000]
)
def test_59_claims_that_cannot_be_read_are_told_as_such(ehr, launched, finish, payload):
    pending, _ = launched()
    ehr.id_token = jws.serialize_compact({"alg": "RS256", "kid": "rsa-1"}, payload, ehr.rsa)
    with pytest.raises(IdentityInvalid, match="its claims are not readable"):
        finish(pending)


def test_59_without_an_id_token_nobody_is_signed_in(ehr, launched, finish):
    pending, _ = launched()
    ehr.token["id_token"] = None
    with pytest.raises(IdentityInvalid, match="it is missing"):
        finish(pending)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.test"}, "another issuer"),
        ({"iss": "https://auth.example/"}, "another issuer"),
        ({"iss": None}, "another issuer"),
        ({"aud": "other"}, "another application (aud)"),
        ({"aud": ["other"]}, "another application (aud)"),
        ({"aud": None}, "another application (aud)"),
        ({"aud": []}, "another application (aud)"),
        ({"aud": {"quarterhour": 1}}, "another application (aud)"),
        ({"aud": ["quarterhour", "other"]}, "another application (azp)"),
        ({"aud": ["quarterhour", "other"], "azp": "other"}, "another application (azp)"),
        ({"azp": "other"}, "another application (azp)"),
        ({"nonce": "other"}, "not made for this launch"),
        ({"nonce": None}, "not made for this launch"),
        ({"sub": None}, "names nobody"),
        ({"sub": ""}, "names nobody"),
        ({"sub": 7}, "names nobody"),
        ({"sub": "x" * 256}, "names nobody"),
        ({"sub": "a\nb"}, "names nobody"),
        ({"exp": None}, "when it expires"),
        ({"exp": "2027"}, "when it expires"),
        ({"exp": True}, "when it expires"),
        ({"exp": 10**400}, "when it expires"),
        ({"iat": None}, "when it expires"),
    ],
)
def test_60_a_wrong_claim_is_refused(ehr, refused, changes, why):
    ehr.claims |= changes
    assert why in refused()


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": ["quarterhour"]},
        {"aud": ["quarterhour", "other"], "azp": "quarterhour"},
        {"azp": "quarterhour"},
    ],
)
def test_60_an_audience_that_includes_us_and_was_issued_to_us_is_accepted(ehr, identity, changes):
    ehr.claims |= changes
    assert identity().sub == "user-1"


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_60_clocks_may_differ_by_a_minute_and_no_more(ehr, identity, refused, claim):
    now, sign = int(ehr.now.timestamp()), -1 if claim == "exp" else 1
    within, beyond = (59, 60) if claim == "exp" else (60, 61)
    ehr.claims[claim] = now + sign * within
    assert identity().sub == "user-1"
    ehr.claims[claim] = now + sign * beyond
    assert "expired" in refused() or "future" in refused()


def test_61_the_configured_issuer_is_the_one_expected(ehr, identity, refused, an_issuer):
    okta = an_issuer(id_token_issuer="https://okta.example/oauth2/1")
    assert "another issuer" in refused(okta)
    ehr.claims["iss"] = "https://okta.example/oauth2/1"
    assert identity(okta).issuer == "https://okta.example/oauth2/1"


@pytest.mark.parametrize(
    ("claim", "user"),
    [
        ("Practitioner/7", "Practitioner/7"),
        ("https://ehr.example/fhir/Practitioner/7", "Practitioner/7"),
        ("https://EHR.example:443/fhir/PractitionerRole/7", "PractitionerRole/7"),
        ("https://other.example/fhir/Practitioner/7", "https://other.example/fhir/Practitioner/7"),
        ("https://ehr.example/fhir2/Practitioner/7", "https://ehr.example/fhir2/Practitioner/7"),
        ("https://ehr.example/admin/7", "https://ehr.example/admin/7"),
        ("../admin/7", "https://ehr.example/admin/7"),
        ("Practitioner/..", None),
        ("Practitioner/7?x=1", None),
        ("Encounter/7", None),
        ("javascript:alert(1)", None),
        ("urn:uuid:1", None),
        ("https://[::1/x", None),
        ("x" * 3000, None),
        (7, None),
        (None, None),
    ],
)
def test_62_fhir_user_is_relative_here_and_absolute_elsewhere(an_issuer, claim, user):
    # "Practitioner/.." is resolved away and leaves no reference.
    assert fhir_user(claim, an_issuer()) == user


@pytest.mark.parametrize(
    ("claim", "kind"),
    [
        ("Practitioner/7", "Practitioner"),
        ("https://ehr.example/fhir/PractitionerRole/7", "PractitionerRole"),
        ("https://other.example/fhir/Patient/1", "Patient"),
        ("https://other.example/Patient/1/_history/3", "Patient"),
        ("/other/Patient/1", "Patient"),
        ("Patient/1?x=1", "Patient"),
        ("Patient/1#x", "Patient"),
        ("Patient/1/", "Patient"),
        ("Patient%2F1", "Patient"),
        ("urn:x/RelatedPerson/1", "RelatedPerson"),
        ("https://[::1/Person/1", "Person"),
        ("https://other.example/" + "x" * 3000 + "/Person/3", "Person"),
        ("https://other.example/Patient/1/Practitioner/7", "Practitioner"),
        ("Device/1", "Device"),
        ("https://other.example/users/robin", "users"),
        ("Patient", None),
        ("urn:uuid:1", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_62_what_kind_of_user_it_is_is_told_wherever_the_address_points(claim, kind):
    assert user_kind(claim) == kind


def test_64_signing_keys_are_fetched_once_for_many_launches(ehr, identity):
    for _ in range(3):
        identity()
    assert ehr.asked.count(f"GET {JWKS}") == 1


def test_64_an_unknown_kid_fetches_the_keys_again_once(ehr, identity, launched, finish):
    identity()
    ehr.signer, ehr.header = ehr.other, {"alg": "RS256", "kid": "rsa-2"}
    ehr.published.append(ehr.other)
    pending, _ = launched()
    later = ehr.now + timedelta(minutes=2)
    assert finish(pending, now=later).id.sub == "user-1"
    assert ehr.asked.count(f"GET {JWKS}") == 2


def test_64_unknown_kids_cannot_make_us_fetch_more_than_once_a_minute(ehr, launched, finish):
    ehr.header = {"alg": "RS256", "kid": "made-up"}
    for _ in range(5):
        pending, _ = launched()
        with pytest.raises(IdentityInvalid):
            finish(pending)
    assert ehr.asked.count(f"GET {JWKS}") == 1


def test_64_a_token_that_names_no_key_is_tried_with_all(ehr, identity):
    ehr.header = {"alg": "RS256"}
    assert identity().sub == "user-1"


@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "EC", "crv": "P-256", "x": 5, "y": []},
        {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
        {"kty": "EC"},
        {"kty": "RSA", "n": "!!", "e": "AQAB"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "n": "A" * 100_000, "e": "AQAB"},
        {"kty": "RSA", "n": None},
        {"kty": ["RSA"]},
        {"kty": "ML-DSA"},
        {},
    ],
)
def test_a_key_that_is_not_one_is_passed_over(ehr, identity, jwk):
    good = ehr.rsa.as_dict(private=False)
    ehr.wire.replace("GET", JWKS, json={"keys": [jwk | {"kid": "rsa-1"}, good]})
    assert identity().sub == "user-1"


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_key_too_short_to_trust_is_passed_over(ehr, refused):
    ehr.signer = RSAKey.generate_key(1024, {"kid": "rsa-1"})
    ehr.published = [ehr.signer]
    assert "publishes no key that signs" in refused()


def test_a_key_for_encryption_does_not_sign(ehr, refused):
    ehr.wire.replace("GET", JWKS, json={"keys": [ehr.rsa.as_dict(private=False) | {"use": "enc"}]})
    assert "publishes no key that signs" in refused()


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"keys": 1}', '{"keys": [1]}', "[" * 100_000, '{"keys": []}']
)
def test_a_jwks_that_is_none_is_refused(ehr, refused, body):
    ehr.wire.replace("GET", JWKS, body=body)
    assert "signing keys are not readable" in refused() or "no key that signs" in refused()


def test_a_jwks_that_cannot_be_fetched_is_said(ehr, refused, identity):
    ehr.wire.replace("GET", JWKS, status=404)
    assert "could not be fetched (HTTP 404)" in refused()
    ehr.wire.replace("GET", JWKS, status=503)
    with pytest.raises(EhrUnavailable):
        identity()


def test_a_message_about_an_identity_never_shows_the_token(ehr, refused):
    ehr.claims["aud"] = "other"
    message = refused()
    assert "user-1" not in message
    assert "Robin" not in message
