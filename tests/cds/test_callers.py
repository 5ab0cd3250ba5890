"""Who may call: hostile tokens get 401, and nothing is fetched for them."""

import base64
import hmac
import json

import pytest
from joserfc import jws

from quarterhour.launch.errors import IssuersInvalid
from quarterhour.launch.issuers import load_issuers
from quarterhour.plugin.app import create_app
from quarterhour.plugin.installation import install
from quarterhour.sandbox.authorization import signing_keys
from quarterhour.sandbox.faults import Fault


def called(ehr, token, address=None):
    return ehr.post(address or ehr.address(), ehr.request(), token)


def is_refused(answer):
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.content == b""
    return True


def segment(value) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_the_clients_own_token_is_taken(ehr):
    assert called(ehr, ehr.token(ehr.address())).status_code == 200


def test_an_audience_may_be_a_list(ehr):
    assert called(ehr, ehr.token(ehr.address(), aud=[ehr.address()])).status_code == 200


def test_without_a_token_nothing_is_told(ehr):
    assert is_refused(called(ehr, None))


@pytest.mark.parametrize(
    "header", ["Basic abc", "Bearer", "Bearer  ", "Bearer a.b.c", "Bearer WyJhbGciXQ.e30.AA", "Bearer é"]
)
def test_what_is_no_bearer_token_is_refused(ehr, header):
    answer = ehr.http.post(
        ehr.address(), json=ehr.request(), headers={"Authorization": header.encode("latin-1")}, timeout=5
    )
    assert is_refused(answer)


def test_none_is_no_algorithm(ehr):
    signed = ehr.token(ehr.address())
    payload = signed.split(".")[1]
    for alg in ("none", "None", "NONE"):
        header = segment({"alg": alg, "kid": "sandbox-es384", "typ": "JWT"})
        assert is_refused(called(ehr, f"{header}.{payload}."))


def test_the_public_key_is_no_shared_secret(ehr):
    key = signing_keys()["ES384"]
    now = int(ehr.clock().timestamp())
    claims = {"iss": ehr.sandbox.base_url, "aud": ehr.address(), "iat": now, "exp": now + 60, "jti": "hs"}
    signed = f"{segment({'alg': 'HS256', 'kid': key.kid, 'typ': 'JWT'})}.{segment(claims)}"
    for secret in (key.as_pem(private=False), json.dumps(key.as_dict(private=False)).encode()):
        mac = base64.urlsafe_b64encode(hmac.digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
        assert is_refused(called(ehr, f"{signed}.{mac}"))


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://elsewhere.invalid/cds-services/quarterhour-patient-view"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://elsewhere.invalid"},
        {"iss": None},
        {"jti": None},
        {"jti": ""},
        {"jti": "j" * 256},
        {"exp": None},
        {"iat": None},
        {"exp": "tomorrow"},
        {"exp": 1e300},
        {"tenant": "somebody-elses"},
    ],
    ids=str,
)
def test_a_claim_that_is_wrong_or_missing_is_refused_before_any_key_is_fetched(an_asking, claims):
    both = an_asking()
    assert is_refused(called(both, both.token(both.address(), **claims)))
    assert both.sandbox.requests("GET", "/oauth/*") == []


def test_a_token_for_another_of_our_services_is_refused(ehr):
    assert is_refused(called(ehr, ehr.token(ehr.address("encounter-start"))))
    assert is_refused(called(ehr, ehr.token(ehr.address() + "/")))
    assert is_refused(called(ehr, ehr.token(f"{ehr.app_url}/cds-services")))


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://elsewhere.invalid/jwks"},
        {"jku": "http://127.0.0.1:9/oauth/jwks"},
        {"typ": "at+jwt"},
        {"typ": None},
        {"kid": None},
        {"crit": ["exp"], "exp": 1},
        {"cty": "JWT", "typ": "JOSE"},
    ],
    ids=str,
)
def test_a_header_that_is_wrong_or_missing_is_refused_before_any_key_is_fetched(an_asking, header):
    both = an_asking()
    key = signing_keys()["ES384"]
    now = int(both.clock().timestamp())
    base = both.sandbox.base_url
    named = {"alg": "ES384", "kid": key.kid, "typ": "JWT", "jku": f"{base}/oauth/jwks"} | header
    named = {name: value for name, value in named.items() if value is not None}
    claims = {"iss": base, "aud": both.address(), "iat": now, "exp": now + 60, "jti": "h"}
    signed = f"{segment(named)}.{segment(claims)}"
    assert is_refused(called(both, f"{signed}.{segment('x' * 96)}"))
    assert both.sandbox.requests("GET", "/oauth/*") == []


def test_a_token_without_jku_is_verified_with_the_operators(ehr):
    assert called(ehr, ehr.token(ehr.address(), header={"jku": None})).status_code == 200


def test_another_key_of_the_same_name_proves_nothing(ehr, someone_elses_key):
    assert is_refused(called(ehr, ehr.token(ehr.address(), key=someone_elses_key)))


def test_a_key_that_comes_in_the_header_proves_nothing(ehr, someone_elses_key):
    token = ehr.token(
        ehr.address(), key=someone_elses_key, header={"jwk": someone_elses_key.as_dict(private=False)}
    )
    assert is_refused(called(ehr, token))


def test_an_algorithm_that_the_operator_did_not_allow_is_refused(ehr):
    key = signing_keys()["RS256"]
    assert is_refused(called(ehr, ehr.token(ehr.address(), key=key, header={"alg": "RS256"})))


def test_rs256_is_taken_where_the_operator_allows_it(an_asking):
    both = an_asking(cds='algs = ["RS256"]')
    key = signing_keys()["RS256"]
    assert called(both, both.token(both.address(), key=key, header={"alg": "RS256"})).status_code == 200
    assert is_refused(called(both, both.token(both.address())))


def test_rs384_is_taken(ehr):
    key = signing_keys()["RS384"]
    assert called(ehr, ehr.token(ehr.address(), key=key, header={"alg": "RS384"})).status_code == 200


@pytest.mark.parametrize(("seconds_ago", "status"), [(59, 200), (60, 401)])
def test_a_token_is_good_for_a_minute_after_it_expired(ehr, seconds_ago, status):
    now = int(ehr.clock().timestamp())
    token = ehr.token(ehr.address(), iat=now - 400, exp=now - seconds_ago)
    assert called(ehr, token).status_code == status


@pytest.mark.parametrize(("ahead", "status"), [(60, 200), (61, 401)])
def test_a_clock_may_be_a_minute_ahead(ehr, ahead, status):
    now = int(ehr.clock().timestamp())
    assert called(ehr, ehr.token(ehr.address(), iat=now + ahead)).status_code == status


@pytest.mark.parametrize(("lasts", "status"), [(3660, 200), (3661, 401)])
def test_a_token_is_good_for_an_hour_at_most(ehr, lasts, status):
    now = int(ehr.clock().timestamp())
    assert called(ehr, ehr.token(ehr.address(), exp=now + lasts)).status_code == status


def test_a_token_counts_once(ehr):
    token = ehr.token(ehr.address())
    assert called(ehr, token).status_code == 200
    assert is_refused(called(ehr, token))


def test_a_token_that_was_used_is_refused_by_every_process(ehr):
    token = ehr.token(ehr.address())
    assert called(ehr, token).status_code == 200
    beside = install(ehr.here.settings, ehr.clock)
    answer = (
        create_app(beside)
        .test_client()
        .post(
            "/cds-services/quarterhour-patient-view",
            json=ehr.request(),
            headers={"Authorization": f"Bearer {token}"},
            base_url=ehr.app_url,
        )
    )
    beside.close()
    assert answer.status_code == 401


def test_a_token_is_remembered_for_as_long_as_it_would_be_taken(ehr):
    now = int(ehr.clock().timestamp())
    token = ehr.token(ehr.address(), exp=now + 10)
    assert called(ehr, token).status_code == 200
    ehr.clock.forward(seconds=69)
    assert called(ehr, ehr.token(ehr.address())).status_code == 200  # which clears away old ones
    assert is_refused(called(ehr, token))


def test_a_huge_token_is_refused(ehr):
    assert is_refused(called(ehr, ehr.token(ehr.address(), jti="j" * 20_000)))


def test_a_nested_token_is_refused(ehr):
    key = signing_keys()["ES384"]
    inner = ehr.token(ehr.address())
    header = {"alg": "ES384", "kid": key.kid, "typ": "JWT", "cty": "JWT"}
    assert is_refused(called(ehr, jws.serialize_compact(header, inner, key, algorithms=["ES384"])))


def test_keys_that_cannot_be_had_are_no_proof_and_not_asked_for_at_every_call(an_asking):
    both = an_asking()
    both.sandbox.faults.add(Fault("status", path="/oauth/jwks", status=500, times=1))
    assert is_refused(called(both, both.token(both.address())))
    both.clock.forward(seconds=14)
    assert is_refused(called(both, both.token(both.address())))
    assert len(both.sandbox.requests("GET", "/oauth/jwks")) == 1
    both.clock.forward(seconds=1)
    assert called(both, both.token(both.address())).status_code == 200


def test_an_unknown_kid_has_the_keys_asked_for_once_a_minute(an_asking):
    both = an_asking()
    assert called(both, both.token(both.address())).status_code == 200
    for _ in range(3):
        assert is_refused(called(both, both.token(both.address(), header={"kid": "new"})))
    assert len(both.sandbox.requests("GET", "/oauth/jwks")) == 1
    both.clock.forward(seconds=60)
    for _ in range(3):
        assert is_refused(called(both, both.token(both.address(), header={"kid": "new"})))
    assert len(both.sandbox.requests("GET", "/oauth/jwks")) == 2


def test_whoever_is_refused_too_often_is_not_looked_at_for_a_while(an_asking):
    both = an_asking()
    statuses = [called(both, "x").status_code for _ in range(301)]
    assert statuses == [401] * 300 + [429]
    assert called(both, both.token(both.address())).status_code == 429


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('iss = "https://ehr.example"', "jku"),
        ('iss = "https://ehr.example"\njku = "http://ehr.example/jwks"', "is not https://"),
        ('iss = "https://ehr.example"\njku = "https://ehr.example/jwks"\nalgs = ["HS256"]', "algs"),
        ('iss = "https://ehr.example"\njku = "https://ehr.example/jwks"\nhooks = ["order-sign"]', "hooks"),
        (
            'iss = "https://ehr.example"\njku = "https://ehr.example/jwks"\nsecret = "x"',
            "secret: unknown key",
        ),
    ],
    ids=["no-jku", "http", "symmetric", "hook", "unknown"],
)
def test_a_mistake_in_the_operators_table_stops_the_start(tmp_path, table, says):
    path = tmp_path / "issuers.toml"
    path.write_text(ONE.format(id="a", host="a", cds=table))
    with pytest.raises(IssuersInvalid, match=says):
        load_issuers(path)


ONE = """\
[issuers.{id}]
name = "Clinic"
iss = "https://{host}.example/fhir"
client_id = "quarterhour"
client_auth = "public"
time_zone = "America/New_York"

[issuers.{id}.cds]
{cds}
"""


def test_two_ehrs_share_a_client_only_by_tenants(tmp_path):
    same = 'iss = "https://ehr.example"\njku = "https://ehr.example/jwks"'
    path = tmp_path / "issuers.toml"
    path.write_text(ONE.format(id="a", host="a", cds=same) + ONE.format(id="b", host="b", cds=same))
    with pytest.raises(IssuersInvalid, match=r"the same iss and tenant as issuers\.a\.cds"):
        load_issuers(path)
    two = f'{same}\ntenant = "b"'
    path.write_text(ONE.format(id="a", host="a", cds=same) + ONE.format(id="b", host="b", cds=two))
    issuers = load_issuers(path)
    found = [issuers.calling("https://ehr.example", tenant) for tenant in (None, "b", "c")]
    assert [one and one.id for one in found] == ["a", "b", None]
