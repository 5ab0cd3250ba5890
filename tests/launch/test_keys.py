"""Our keys: two algorithms, public members only, a fresh assertion for each request."""

from datetime import UTC, datetime

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from quarterhour.launch.keys import client_assertion, generate_key, import_key, public_jwks

NOW = datetime(2026, 11, 21, 15, 0, tzinfo=UTC)


@pytest.fixture(scope="module", params=["RS384", "ES384"])
def alg_and_key(request):
    return request.param, import_key(generate_key(request.param), "k1")


def an_assertion(key, **changes):
    arguments = {"client_id": "quarterhour", "token_endpoint": "https://auth.example/token", "now": NOW}
    return client_assertion(key, **(arguments | changes))


def test_42_43_the_header_names_algorithm_key_and_type(alg_and_key):
    alg, key = alg_and_key
    token = jwt.decode(an_assertion(key), key, algorithms=[alg])
    assert token.header == {"alg": alg, "kid": "k1", "typ": "JWT"}


def test_43_jku_is_sent_only_where_it_is_registered(alg_and_key):
    alg, key = alg_and_key
    jku = "https://quarterhour.example/jwks.json"
    assert jwt.decode(an_assertion(key, jku=jku), key, algorithms=[alg]).header["jku"] == jku


def test_44_the_claims_name_us_twice_the_token_url_and_a_short_life(alg_and_key):
    alg, key = alg_and_key
    claims = jwt.decode(an_assertion(key), key, algorithms=[alg]).claims
    assert claims["iss"] == claims["sub"] == "quarterhour"
    assert claims["aud"] == "https://auth.example/token"
    assert 0 < claims["exp"] - NOW.timestamp() <= 300


def test_44_no_two_assertions_share_a_jti(alg_and_key):
    alg, key = alg_and_key
    ids = {jwt.decode(an_assertion(key), key, algorithms=[alg]).claims["jti"] for _ in range(20)}
    assert len(ids) == 20


def test_45_only_public_members_are_published(alg_and_key):
    alg, key = alg_and_key
    (published,) = public_jwks([key])["keys"]
    members = {"RS384": {"kty", "n", "e"}, "ES384": {"kty", "crv", "x", "y"}}[alg]
    assert published.keys() == members | {"kid", "alg", "use", "key_ops"}
    assert not published.keys() & {"d", "p", "q", "dp", "dq", "qi", "k"}
    assert published["alg"] == alg


def test_45_the_published_key_verifies_our_assertions(alg_and_key):
    alg, key = alg_and_key
    public = JWKRegistry.import_key(public_jwks([key])["keys"][0])
    assert jwt.decode(an_assertion(key), public, algorithms=[alg]).claims["sub"] == "quarterhour"


def test_46_old_and_new_keys_are_published_together_each_once():
    old, new = import_key(generate_key("ES384")), import_key(generate_key("ES384"))
    kids = [key["kid"] for key in public_jwks([new, old, new])["keys"]]
    assert kids == [new.kid, old.kid]
    assert old.kid != new.kid


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (lambda: RSAKey.generate_key(1024), "1024 bits"),
        (lambda: ECKey.generate_key("P-256"), "P-256"),
    ],
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_42_a_key_too_weak_for_smart_is_refused(key, why):
    with pytest.raises(ValueError, match=why):
        import_key(key().as_pem(private=True).decode())


def test_47_a_key_is_not_shown_by_its_repr(alg_and_key):
    _, key = alg_and_key
    assert key.as_dict(private=True)["d"] not in repr(key)
