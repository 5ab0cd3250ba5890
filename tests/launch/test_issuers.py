"""The operator's list: read with every mistake named, matched exactly, holding no secret."""

import re
import tomllib
from pathlib import Path

import pytest

from quarterhour.launch.errors import IssuersInvalid, UnknownIssuer
from quarterhour.launch.issuers import Backend, CdsClient, Issuer, Issuers, load_issuers
from quarterhour.launch.keys import generate_key, public_jwks

GOOD = """
[issuers.riverside]
iss = "https://ehr.example/fhir"
name = "Riverside Clinic"
time_zone = "America/New_York"
client_id = "quarterhour"
client_auth = "public"
"""


@pytest.fixture
def file_with(tmp_path):
    def write(text):
        path = tmp_path / "issuers.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def problems_of(file_with):
    def read(text):
        with pytest.raises(IssuersInvalid) as caught:
            load_issuers(file_with(text))
        return caught.value.problems

    return read


def test_a_file_is_read_with_its_site_settings(file_with):
    text = GOOD + 'site = {policy_rules = [{payer = "*", policy = "cms-part-b"}]}\n'
    (issuer,) = load_issuers(file_with(text))
    assert (issuer.id, issuer.name, issuer.refresh) == ("riverside", "Riverside Clinic", "online")
    assert issuer.site["policy_rules"][0]["policy"] == "cms-part-b"


@pytest.mark.parametrize(
    "received",
    [
        "https://ehr.example/fhir",
        "https://ehr.example/fhir/",
        "https://EHR.example/fhir",
        "HTTPS://ehr.example:443/fhir",
    ],
)
def test_08_the_same_server_is_matched(an_issuer, received):
    issuer = an_issuer()
    assert Issuers((issuer,)).match(received) is issuer


@pytest.mark.parametrize(
    "received",
    [
        "https://ehr.example/FHIR",
        "https://ehr.example/fhir2",
        "https://ehr.example/fhir/../fhir",
        "https://ehr.example//fhir",
        "https://ehr.example/%66hir",
        "https://ehr.example",
        "https://ehr.example:8443/fhir",
        "http://ehr.example/fhir",
        "https://ehr.example.evil.test/fhir",
        "https://evil.test/https://ehr.example/fhir",
        "https://ehr.example@evil.test/fhir",
        "https://user@ehr.example/fhir",
        "https://ehr.example\\@evil.test/fhir",
        "https://ehr.example/fhir?x=1",
        "https://ehr.example/fhir?",
        "https://ehr.example/fhir#",
        "https://ehr.example/fhir#x",
        "https://ehr.example./fhir",
        "https://ehr.ex\u0430mple/fhir",  # a Cyrillic letter
        "https://ehr.example:99999/fhir",
        "https://ehr.example:x/fhir",
        "https://ehr.example/fhir\r\nX-Header: 1",
        " https://ehr.example/fhir",
        "//ehr.example/fhir",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "https://[::1/fhir",
        "https://" + "a" * 5000,
        "",
    ],
)
def test_08_09_a_look_alike_is_unknown_and_nothing_is_requested(ehr, an_issuer, received):
    with pytest.raises(UnknownIssuer):
        Issuers((an_issuer(),)).match(received)
    assert ehr.asked == []


def test_09_the_unknown_address_is_named_shortly_and_without_control_characters(an_issuer):
    with pytest.raises(UnknownIssuer) as caught:
        Issuers((an_issuer(),)).match("https://evil.test/\r\n" + "a" * 1000)
    assert "https://evil.test/??aaa" in caught.value.message
    assert len(caught.value.message) < 300


def test_02_http_is_refused_unless_the_operator_allows_it(problems_of, file_with):
    plain = GOOD.replace("https://", "http://")
    (problem,) = problems_of(plain)
    assert problem.startswith("issuers.riverside: http://ehr.example/fhir is not https://")
    assert len(load_issuers(file_with(plain + "allow_http = true\n")).all) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('colour = "red"', "issuers.riverside.colour: unknown key"),
        ('id = "x"', "issuers.riverside.id: unknown key; the table's name is the id"),
        ('scope_syntax = "v3"', "issuers.riverside.scope_syntax: Input should be 'v1' or 'v2'"),
        ('pkce = "off"', "issuers.riverside.pkce: Input should be 'required' or 'legacy'"),
        ("read_timeout = 0", "issuers.riverside.read_timeout: Input should be greater than 0"),
        ('embedding_origins = ["https://a.example/x"]', "embedding_origins.0: an origin has no path"),
        (
            'embedding_origins = ["https://a.example; script-src *"]',
            "embedding_origins.0: not a plain address",
        ),
        ('embedding_origins = ["*"]', "embedding_origins.0: not an address that starts with https://"),
        ('jwks_uri = "http://a.example/jwks"', "issuers.riverside: http://a.example/jwks is not https://"),
        ('client_secret_env = "X"', "public uses no secret"),
        ('key_env = "X"', "public uses no key"),
        ('client_secret = "s3cret-in-file"', "issuers.riverside.client_secret: unknown key"),
    ],
)
def test_a_mistake_is_named_by_table_and_key(problems_of, line, problem):
    found = problems_of(GOOD + line)
    assert len(found) == 1
    assert problem in found[0]
    assert "s3cret" not in found[0]


@pytest.mark.parametrize("alg", ["none", "HS256"])
def test_59_no_unsigned_and_no_symmetric_algorithm_can_be_configured(problems_of, alg):
    problem = problems_of(GOOD + f'id_token_algs = ["{alg}"]')[0]
    assert problem.startswith("issuers.riverside.id_token_algs.0: Input should be 'RS256'")


@pytest.mark.parametrize("key", ["iss", "name", "time_zone", "client_id", "client_auth"])
def test_what_cannot_be_guessed_must_be_given(problems_of, key):
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} ")]
    assert problems_of("\n".join(lines)) == (f"issuers.riverside.{key}: Field required",)


@pytest.mark.parametrize("zone", ["EST5", "New York", "../etc/passwd", ""])
def test_a_time_zone_is_an_iana_name(problems_of, zone):
    (problem,) = problems_of(GOOD.replace("America/New_York", zone))
    assert "no IANA time zone" in problem


def test_all_mistakes_are_named_at_once(problems_of):
    second = GOOD.replace("riverside", "lakeside").replace("/fhir", "/lake")
    assert len(problems_of(GOOD + "a = 1\nb = 2\n" + second + "c = 3\n")) == 3


def test_two_tables_for_one_server_are_refused(problems_of):
    second = GOOD.replace("riverside", "lakeside").replace("ehr.example/fhir", "EHR.example/fhir/")
    assert problems_of(GOOD + second) == ("issuers.lakeside.iss: the same server as issuers.riverside.iss",)


@pytest.mark.parametrize("text", ["", "x = 1", "issuers = 3", "[issuers]\nriverside = 3", "not toml", "\x00"])
def test_a_file_that_is_no_list_of_issuers_is_refused(problems_of, text):
    assert problems_of(text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(IssuersInvalid, match="cannot be read"):
        load_issuers(tmp_path / "none.toml")


SECRET = GOOD.replace('"public"', '"client_secret_basic"')


def test_47_a_secret_comes_from_the_environment(file_with, monkeypatch):
    monkeypatch.setenv("RIVERSIDE_SECRET", "s3cret")
    (issuer,) = load_issuers(file_with(SECRET + 'client_secret_env = "RIVERSIDE_SECRET"\n'))
    assert issuer.client_secret() == "s3cret"
    assert "s3cret" not in f"{issuer!r} {issuer} {issuer.model_dump()}"


def test_47_a_secret_comes_from_a_file_beside_the_issuers_file(file_with, tmp_path):
    (tmp_path / "secret.txt").write_text("s3cret\n")
    (tmp_path / "secret.txt").chmod(0o600)
    (issuer,) = load_issuers(file_with(SECRET + 'client_secret_file = "secret.txt"\n'))
    assert issuer.client_secret() == "s3cret"
    assert "s3cret" not in f"{issuer!r} {issuer} {issuer.model_dump()}"


def test_a_secret_that_is_not_where_the_file_says_is_a_mistake(problems_of, monkeypatch):
    monkeypatch.delenv("RIVERSIDE_SECRET", raising=False)
    assert problems_of(SECRET + 'client_secret_env = "RIVERSIDE_SECRET"') == (
        "issuers.riverside.client_secret_env: RIVERSIDE_SECRET is not set",
    )
    (problem,) = problems_of(SECRET + 'client_secret_file = "gone.txt"')
    assert "cannot be read (FileNotFoundError)" in problem


def test_a_confidential_client_needs_exactly_one_secret(problems_of):
    both = 'client_secret_env = "A"\nclient_secret_file = "b"'
    for lines in ("", both):
        (problem,) = problems_of(SECRET + lines)
        assert "needs one of client_secret_env and client_secret_file" in problem


ASYMMETRIC = GOOD.replace('"public"', '"private_key_jwt"') + 'key_env = "RIVERSIDE_KEY"\n'


@pytest.mark.parametrize("alg", ["RS384", "ES384"])
def test_47_a_key_comes_from_the_environment_and_fits_the_algorithm(file_with, problems_of, monkeypatch, alg):
    monkeypatch.setenv("RIVERSIDE_KEY", generate_key(alg))
    (issuer,) = load_issuers(file_with(ASYMMETRIC + f'signing_alg = "{alg}"\nkid = "k1"\n'))
    assert issuer.signing_key().kid == "k1"
    assert "PRIVATE" not in f"{issuer!r} {issuer.model_dump()}"
    other = {"RS384": "ES384", "ES384": "RS384"}[alg]
    assert f"not a private key for {other}" in problems_of(ASYMMETRIC + f'signing_alg = "{other}"\n')[0]


def test_what_is_no_key_is_a_mistake(problems_of, monkeypatch):
    monkeypatch.setenv("RIVERSIDE_KEY", "nonsense")
    (problem,) = problems_of(ASYMMETRIC + 'signing_alg = "ES384"\n')
    assert problem == "issuers.riverside.key: not the PEM of an RSA or EC key without a password"
    assert "needs signing_alg" in problems_of(ASYMMETRIC)[0]


def test_46_an_old_key_is_published_beside_the_active_one(file_with, tmp_path, monkeypatch):
    monkeypatch.setenv("RIVERSIDE_KEY", generate_key("ES384"))
    (tmp_path / "old.pem").write_text(generate_key("ES384"))
    text = ASYMMETRIC + 'signing_alg = "ES384"\nkid = "new"\nalso_publish = ["old.pem"]\n'
    (issuer,) = load_issuers(file_with(text))
    published = public_jwks(issuer.published_keys())["keys"]
    assert len(published) == 2
    assert published[0]["kid"] == issuer.signing_key().kid == "new"


# --- the backend client ---------------------------------------------------------------------------------------

BACKEND = """
[issuers.riverside.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_file = "backend.pem"
"""


@pytest.fixture
def backend_key(tmp_path):
    (tmp_path / "backend.pem").write_text(generate_key("ES384"))


@pytest.mark.usefixtures("backend_key")
def test_85_a_backend_client_has_its_own_id_and_key_beside_the_issuers_file(file_with):
    (issuer,) = load_issuers(file_with(GOOD + BACKEND))
    assert issuer.backend.client_id == "quarterhour-backend"
    assert issuer.backend_signing_key().is_private
    assert issuer.published_keys() == ()
    assert len(public_jwks(issuer.backend_published_keys())["keys"]) == 1


def test_85_without_the_table_there_is_no_backend_key(an_issuer):
    assert an_issuer().backend_published_keys() == ()
    with pytest.raises(IssuersInvalid, match="there is no such table"):
        an_issuer().backend_signing_key()


@pytest.mark.usefixtures("backend_key")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('"quarterhour-backend"', '"quarterhour"'), "backend.client_id is the clinicians' client_id"),
        (('key_file = "backend.pem"', ""), "needs one of key_env and key_file"),
        (('"backend.pem"', '"backend.pem"\nkey_env = "A"'), "needs one of key_env and key_file"),
        (('"backend.pem"', '"gone.pem"'), "issuers.riverside.backend.key_file: "),
        (('signing_alg = "ES384"', 'signing_alg = "RS384"'), "not a private key for RS384"),
        (('signing_alg = "ES384"\n', ""), "issuers.riverside.backend.signing_alg: "),
        (('"backend.pem"', '"backend.pem"\nscopes = ["user/Patient.r"]'), "take user/Patient.r away"),
        (('"backend.pem"', '"backend.pem"\nscopes = ["openid"]'), "take openid away"),
        (('"backend.pem"', '"backend.pem"\nalso_for = ["charges"]'), "issuers.riverside.backend.also_for"),
        (('"backend.pem"', '"backend.pem"\njku = "http://a.example/k"'), "http://a.example/k is not https"),
        (('"backend.pem"', '"backend.pem"\nclient_secret = "x"'), "backend.client_secret: unknown key"),
    ],
)
def test_85_every_mistake_of_a_backend_table_is_named(problems_of, change, says):
    (problem,) = problems_of(GOOD + BACKEND.replace(*change))
    assert says in problem


OTHER = (GOOD + BACKEND).replace("riverside", "lakeside").replace("ehr.example", "lakeside.example")


@pytest.mark.usefixtures("backend_key")
def test_85_87_a_backend_key_is_nobody_elses(problems_of, monkeypatch, tmp_path):
    monkeypatch.setenv("RIVERSIDE_KEY", (tmp_path / "backend.pem").read_text())
    (problem,) = problems_of(ASYMMETRIC + 'signing_alg = "ES384"\n' + BACKEND)
    assert problem.startswith("issuers.riverside.backend.key: the same key as that of issuers.riverside;")
    (problem,) = problems_of(GOOD + BACKEND + OTHER)
    assert problem.startswith(
        "issuers.lakeside.backend.key: the same key as that of issuers.riverside.backend;"
    )


@pytest.mark.usefixtures("backend_key")
def test_46_one_kid_for_two_keys_is_a_mistake_since_an_ehr_would_see_one(problems_of, file_with, tmp_path):
    (tmp_path / "other.pem").write_text(generate_key("ES384"))
    second = OTHER.replace("backend.pem", "other.pem")
    assert len(tuple(load_issuers(file_with(GOOD + BACKEND + second)))) == 2
    both = (GOOD + BACKEND + 'kid = "2026"\n') + (second + 'kid = "2026"\n')
    assert problems_of(both) == (
        "issuers.lakeside.backend.kid: 2026 is another key's in issuers.riverside.backend",
    )


EXAMPLE = Path(__file__).parents[2] / "manifests" / "issuers.example.toml"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The example file with the key and the secret that it points at."""
    monkeypatch.setenv("LAKESIDE_CLIENT_SECRET", "s3cret")
    (tmp_path / "keys").mkdir()
    for name in ("riverside-2026.pem", "riverside-backend-2026.pem"):
        (tmp_path / "keys" / name).write_text(generate_key("ES384"))
    return EXAMPLE.read_text()


def test_the_example_is_accepted_as_it_is(example, file_with):
    kinds = [issuer.client_auth for issuer in load_issuers(file_with(example))]
    assert kinds == ["private_key_jwt", "client_secret_basic", "public"]


def test_the_example_shows_every_key(example):
    shown = set(re.findall(r"^(?:# )?(\w+) = |\[issuers\.\w+\.(\w+)\]|or: (\w+) = ", example, re.MULTILINE))
    known = Issuer.model_fields.keys() | Backend.model_fields.keys() | CdsClient.model_fields.keys()
    assert {name for names in shown for name in names if name} == known - {"id"}


def test_the_defaults_that_the_example_shows_are_the_defaults(example, an_issuer):
    shown = re.findall(r"^# (\w+) = (.*?) *(?:#.*)?$", example, re.MULTILINE)
    examples = {"jku", "also_publish", "scopes", "id_token_issuer", "jwks_uri", "endpoint_origins", "ca_file"}
    examples |= {"role_claim", "tenant"}
    defaults = {key: tomllib.loads(f"x = {value}")["x"] for key, value in shown if key not in examples}
    assert len(defaults) == 7
    issuer = an_issuer().model_dump(mode="json")
    assert {key: issuer[key] for key in defaults} == defaults
