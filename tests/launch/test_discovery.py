"""An EHR's SMART configuration: claims that are checked, and never loosen our rules."""

import json
from datetime import timedelta

import pytest
import requests

from quarterhour.launch.authorize import begin
from quarterhour.launch.discovery import discover
from quarterhour.launch.errors import DiscoveryFailed, EhrUnavailable

CONFIGURATION = "https://ehr.example/fhir/.well-known/smart-configuration"


@pytest.fixture
def found(ehr, an_issuer, http):
    def ask(issuer=None, *, cache=None, now=ehr.now, listed=()):
        return discover(issuer or an_issuer(), http, now, {} if cache is None else cache, listed=listed)

    return ask


@pytest.fixture
def refused(found):
    def ask(issuer=None, **more):
        with pytest.raises(DiscoveryFailed) as caught:
            found(issuer, **more)
        return caught.value.message

    return ask


def test_16_the_well_known_address_is_asked_for_json(ehr, found):
    assert found().token == "https://auth.example/token"
    (call,) = ehr.wire.calls
    assert call.request.url == CONFIGURATION
    assert call.request.headers["Accept"] == "application/json"


def test_17_a_relative_address_is_resolved_against_the_fhir_base(ehr, found):
    ehr.configuration |= {
        "authorization_endpoint": "oauth/authorize",
        "token_endpoint": "/token",
        "issuer": "https://ehr.example",
    }
    assert found().authorize == "https://ehr.example/fhir/oauth/authorize"
    assert found().token == "https://ehr.example/token"


def test_19_a_copy_serves_for_an_hour(ehr, found):
    cache = {}
    found(cache=cache)
    found(cache=cache, now=ehr.now + timedelta(minutes=59))
    assert len(ehr.asked) == 1
    found(cache=cache, now=ehr.now + timedelta(minutes=60))
    assert len(ehr.asked) == 2


def test_19_an_old_copy_is_asked_after_by_its_etag(ehr, found):
    cache = {}
    first = found(cache=cache)
    ehr.wire.replace("GET", CONFIGURATION, status=304)
    later = ehr.now + timedelta(hours=2)
    second = found(cache=cache, now=later)
    assert ehr.wire.calls[-1].request.headers["If-None-Match"] == '"v1"'
    assert (second.token, second.fetched_at) == (first.token, later)


@pytest.mark.parametrize(
    "failure", [{"status": 500}, {"status": 404}, {"body": requests.ConnectTimeout()}, {"body": "{"}]
)
def test_19_an_old_copy_serves_for_a_day_while_the_ehr_fails(ehr, found, failure):
    cache = {}
    found(cache=cache)
    ehr.wire.replace("GET", CONFIGURATION, **failure)
    assert found(cache=cache, now=ehr.now + timedelta(hours=23)).token == "https://auth.example/token"
    with pytest.raises((DiscoveryFailed, EhrUnavailable)):
        found(cache=cache, now=ehr.now + timedelta(hours=24))


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_ehr_that_is_down_is_said_to_be_down(ehr, found, status):
    ehr.wire.replace("GET", CONFIGURATION, status=status)
    with pytest.raises(EhrUnavailable, match="Wait a minute"):
        found()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_10_a_redirect_is_not_followed(ehr, refused, status):
    ehr.wire.replace("GET", CONFIGURATION, status=status, headers={"Location": "https://evil.test/"})
    assert f"HTTP {status}" in refused()
    assert ehr.asked == [f"GET {CONFIGURATION}"]


def test_20_what_the_ehr_says_changes_nothing_of_what_we_send(ehr, found, an_issuer):
    ehr.configuration |= {
        "code_challenge_method": None,
        "response_type": "token",
        "scope": "user/*.*",
        "client_id": "other",
        "id_token_signing_alg_values_supported": ["none", "HS256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "scopes_supported": ["user/*.*"],
    }
    arguments = {"launch": "x", "redirect_uri": "https://q.example/cb", "browser": "b", "now": ehr.now}
    pending, url = begin(an_issuer(), found(), **arguments)
    assert "response_type=code&" in url
    assert "code_challenge_method=S256" in url
    assert "client_id=quarterhour" in url
    assert "user/*.*" not in pending.scopes


@pytest.mark.parametrize("methods", [[], ["plain"], None])
def test_21_pkce_switched_off_is_refused(ehr, refused, methods):
    ehr.configuration["code_challenge_methods_supported"] = methods
    assert "PKCE with S256 is not supported" in refused()


def test_21_pkce_not_mentioned_or_forgiven_by_the_operator_goes_on(ehr, found, an_issuer):
    ehr.configuration["code_challenge_methods_supported"] = ["plain"]
    assert found(an_issuer(pkce="legacy")).code_challenge_methods == ("plain",)
    del ehr.configuration["code_challenge_methods_supported"]
    assert found().code_challenge_methods is None


def test_22_capabilities_are_kept(found):
    assert "sso-openid-connect" in found().capabilities


@pytest.mark.parametrize(
    "member", ["authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint"]
)
@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example/x",
        "javascript:alert(1)",
        "ftp://auth.example/x",
        "https://user:pw@auth.example/x",
        "https://auth.example/x#fragment",
        "https://auth.example/x y",
        "https://auth.example/x\r\nSet-Cookie: a=b",
        "https://auth.example\\@evil.test/x",
        "https://127.0.0.1/x",
        "https://10.0.0.8/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.8]/x",
        "https://localhost/x",
        "https://auth.example:99999/x",
        "https://[::1/x",
        "https://auth.ex\u0430mple/x",
        "https://auth.example/" + "a" * 3000,
    ],
)
def test_02_10_an_endpoint_that_is_not_public_https_is_refused(ehr, refused, member, url):
    ehr.configuration[member] = url
    assert f"names an unusable {member}: " in refused()


def test_10_private_endpoints_are_for_operators_who_allow_them(ehr, found, an_issuer):
    ehr.configuration |= {
        "authorization_endpoint": "https://10.0.0.8/authorize",
        "token_endpoint": "https://10.0.0.8/token",
        "issuer": None,
    }
    assert found(an_issuer(allow_private_addresses=True)).token == "https://10.0.0.8/token"


def test_11_a_token_endpoint_on_another_server_than_the_authorization_endpoint_is_refused(ehr, refused):
    ehr.configuration["token_endpoint"] = "https://evil.test/token"
    assert "different servers" in refused()


def test_11_where_the_operator_pins_the_servers_no_other_is_accepted(ehr, found, refused, an_issuer):
    pinned = an_issuer(endpoint_origins=("https://auth.example", "https://token.example"))
    ehr.configuration["token_endpoint"] = "https://token.example/token"
    assert found(pinned).token == "https://token.example/token"
    ehr.configuration |= {
        f"{name}_endpoint": f"https://evil.test/{name}" for name in ("authorization", "token")
    }
    assert "not among endpoint_origins" in refused(pinned)


def test_11_an_authorization_endpoint_that_brings_our_own_parameters_is_refused(ehr, refused):
    ehr.configuration["authorization_endpoint"] = "https://auth.example/authorize?tenant=1&client_id=other"
    assert "already holds parameters" in refused()


def test_an_authorization_endpoint_may_bring_parameters_of_its_own(ehr, found, an_issuer):
    ehr.configuration["authorization_endpoint"] = "https://auth.example/authorize?tenant=1"
    arguments = {"launch": "x", "redirect_uri": "https://q.example/cb", "browser": "b", "now": ehr.now}
    _, url = begin(an_issuer(), found(), **arguments)
    assert url.startswith("https://auth.example/authorize?tenant=1&response_type=code&")


def test_61_an_issuer_on_a_third_server_needs_the_operators_word(ehr, refused, found, an_issuer):
    ehr.configuration["issuer"] = "https://evil.test"
    assert "set id_token_issuer" in refused()
    configured = an_issuer(id_token_issuer="https://okta.example/oauth2/1")
    assert found(configured).id_token_issuer == "https://okta.example/oauth2/1"


@pytest.mark.parametrize("issuer", ["https://auth.example/tenants/1", "https://ehr.example/oauth2"])
def test_61_an_issuer_beside_the_data_or_the_tokens_is_believed(ehr, found, issuer):
    ehr.configuration["issuer"] = issuer
    assert found().id_token_issuer == issuer


def test_61_without_an_issuer_the_fhir_base_is_expected(ehr, found):
    del ehr.configuration["issuer"]
    assert found().id_token_issuer == "https://ehr.example/fhir"


def test_59_without_signing_keys_nobody_could_be_identified(ehr, refused, found, an_issuer):
    del ehr.configuration["jwks_uri"]
    assert "has no jwks_uri" in refused()
    assert found(an_issuer(jwks_uri="https://keys.example/jwks")).jwks_uri == "https://keys.example/jwks"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "nonsense",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"authorization_endpoint": 1, "token_endpoint": "https://a.example"}',
        '{"authorization_endpoint": ["x"], "token_endpoint": {}}',
        '{"x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"x":' * 20_000,
        '{"x": NaN}',
        b"\xff\xfe",
        b'{"x": "\xff"}',
        '{"authorization_endpoint": "\\ud800", "token_endpoint": "x"}',
        " " * 300_000,
        json.dumps({"x": "a" * 300_000}),
    ],
)
def test_10_hostile_json_is_unreadable_and_no_more(ehr, refused, body):
    ehr.wire.replace("GET", CONFIGURATION, body=body)
    assert "is not readable" in refused()


STATEMENT = {
    "rest": [
        {
            "security": {
                "extension": [
                    {
                        "url": "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris",
                        "extension": [
                            {"url": "authorize", "valueUri": "https://auth.example/old/authorize"},
                            {"url": "token", "valueUri": "https://auth.example/old/token"},
                        ],
                    }
                ]
            }
        }
    ]
}


def test_18_the_capability_statement_is_asked_only_where_the_operator_says_so(ehr, refused, found, an_issuer):
    ehr.wire.replace("GET", CONFIGURATION, status=404)
    ehr.wire.get("https://ehr.example/fhir/metadata", json=STATEMENT)
    assert "is not there (HTTP 404)" in refused()
    assert ehr.asked == [f"GET {CONFIGURATION}"]
    legacy = an_issuer(capability_statement_fallback=True, jwks_uri="https://auth.example/jwks")
    assert found(legacy).token == "https://auth.example/old/token"


@pytest.mark.parametrize(
    "statement", [{}, {"rest": 1}, {"rest": [1]}, {"rest": [{"security": {"extension": [{"url": 1}]}}]}, []]
)
def test_18_a_capability_statement_without_endpoints_is_refused(ehr, refused, an_issuer, statement):
    ehr.wire.replace("GET", CONFIGURATION, status=404)
    ehr.wire.get("https://ehr.example/fhir/metadata", json=statement)
    assert "names no endpoints either" in refused(an_issuer(capability_statement_fallback=True))


@pytest.mark.parametrize("member", ["revocation", "introspection"])
def test_11_an_endpoint_that_would_be_sent_tokens_is_left_unused_on_a_server_that_is_not_the_ehrs(
    ehr, an_issuer, http, member
):
    ehr.configuration[f"{member}_endpoint"] = "https://elsewhere.example/it"
    assert getattr(discover(an_issuer(), http, ehr.now, {}, listed=()), member) is None
    listed = an_issuer(endpoint_origins=("https://auth.example", "https://elsewhere.example"))
    assert getattr(discover(listed, http, ehr.now, {}, listed=()), member) == "https://elsewhere.example/it"
    ehr.configuration[f"{member}_endpoint"] = "https://auth.example/it"
    assert getattr(discover(an_issuer(), http, ehr.now, {}, listed=()), member) == "https://auth.example/it"


def another(an_issuer, **changes):
    return an_issuer(
        id="lakeside", name="Lakeside Clinic", **{"iss": "https://lakeside.example/fhir", **changes}
    )


@pytest.mark.parametrize(
    ("member", "named"),
    [
        ("authorization_endpoint", "authorize"),
        ("token_endpoint", "authorize"),  # both are on it: the first is named
        ("jwks_uri", "jwks_uri"),
        ("issuer", "issuer"),
        ("registration_endpoint", "registration"),
    ],
)
@pytest.mark.parametrize(
    ("theirs", "server"),
    [
        ({}, "https://lakeside.example"),
        ({"endpoint_origins": ("https://login.lakeside.example",)}, "https://login.lakeside.example"),
    ],
)
def test_11_an_endpoint_on_the_server_of_another_ehr_of_the_list_is_refused(
    ehr, refused, an_issuer, member, named, theirs, server
):
    ehr.configuration[member] = f"{server}/it"
    if named == "authorize":
        ehr.configuration |= dict.fromkeys(
            ("authorization_endpoint", "token_endpoint", "issuer"), f"{server}/it"
        )
    issuer = an_issuer(id_token_issuer="https://auth.example")
    said = refused(issuer, listed=(issuer, another(an_issuer, **theirs)))
    assert f"({named}), which is the server of Lakeside Clinic" in said
    assert "add it to endpoint_origins of issuers.riverside" in said


def test_11_all_of_it_on_another_ehrs_server_gets_no_credential_of_ours_there(ehr, refused, an_issuer):
    ehr.configuration = {
        "issuer": "https://lakeside.example",
        "authorization_endpoint": "https://lakeside.example/authorize",
        "token_endpoint": "https://lakeside.example/token",
        "jwks_uri": "https://lakeside.example/jwks",
    }
    issuer = an_issuer()
    refused(issuer, listed=(issuer, another(an_issuer)))
    assert ehr.asked == [f"GET {CONFIGURATION}"]


def test_11_a_server_that_the_operator_names_for_both_is_shared(ehr, found, an_issuer):
    shared = ("https://auth.example",)
    issuer = an_issuer(endpoint_origins=shared)
    listed = (issuer, another(an_issuer, endpoint_origins=shared))
    assert found(issuer, listed=listed).token == "https://auth.example/token"


def test_11_a_server_that_the_operator_names_for_another_only_is_not_shared(ehr, refused, an_issuer):
    issuer = an_issuer()
    listed = (issuer, another(an_issuer, endpoint_origins=("https://auth.example",)))
    assert "auth.example (authorize)" in refused(issuer, listed=listed)


def test_11_tenants_of_one_server_are_not_each_others_and_what_is_named_for_one_is_not_refused_to_the_other(
    ehr, found, an_issuer
):
    tenant = another(
        an_issuer, iss="https://ehr.example/lakeside/fhir", endpoint_origins=("https://auth.example",)
    )
    issuer = an_issuer()
    assert found(issuer, listed=(issuer, tenant)).token == "https://auth.example/token"
    ehr.configuration |= dict.fromkeys(
        ("authorization_endpoint", "token_endpoint", "issuer"), "https://ehr.example/oauth"
    )
    assert found(issuer, listed=(issuer, tenant)).token == "https://ehr.example/oauth"


def test_11_keys_that_the_operator_names_may_be_anywhere(ehr, found, an_issuer):
    issuer = an_issuer(jwks_uri="https://lakeside.example/jwks")
    assert found(issuer, listed=(issuer, another(an_issuer))).jwks_uri == "https://lakeside.example/jwks"


def test_11_an_old_copy_serves_when_the_new_one_names_anothers_server(ehr, found, an_issuer):
    issuer, cache = an_issuer(), {}
    listed = (issuer, another(an_issuer))
    found(issuer, cache=cache, listed=listed)
    ehr.configuration |= dict.fromkeys(
        ("authorization_endpoint", "token_endpoint", "issuer"), "https://lakeside.example/it"
    )
    later = found(issuer, cache=cache, listed=listed, now=ehr.now + timedelta(hours=2))
    assert later.token == "https://auth.example/token"


def test_11_a_dot_at_the_end_does_not_make_another_server_of_it(ehr, refused, an_issuer):
    ehr.configuration |= dict.fromkeys(
        ("authorization_endpoint", "token_endpoint"), "https://lakeside.example./it"
    )
    issuer = an_issuer()
    assert "ends in a dot" in refused(issuer, listed=(issuer, another(an_issuer)))
