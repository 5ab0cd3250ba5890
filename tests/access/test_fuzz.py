"""Anything at all, to every address of the application and in every document it reads: no 500, no traceback, no leak.

The addresses are those of the application's own map, and the documents are those that a launch and a capture read, so
that what is new is in it by itself. A sample here; `make fuzz` makes more than 100,000 inputs of it (bench/fuzz.py).
"""

from __future__ import annotations

import copy
import html
import io
import json
import os
import random
import re
import uuid
from functools import partial
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from sqlalchemy import delete

from quarterhour.plugin import capture, database, subscriptions
from quarterhour.plugin.worker import work_job
from quarterhour.sandbox.authorization import signing_keys

INPUTS = int(os.environ.get("QUARTERHOUR_FUZZ", "2000"))
COUNTS = os.environ.get("QUARTERHOUR_FUZZ_COUNTS")  # where bench/fuzz.py looks for what was done
SHARE = {"strangers": 0.45, "open visit": 0.38, "told": 0.15, "documents": 0.02}
PLACES = 5  # to which the same is sent, one after another
NASTY = [
    "", "\0", "\r\nX: 1", "'", '"', "<script>", "{{7*7}}", "${7*7}", "%s%n", "../../etc/passwd", "\u202e", "\ud7ff",
    "a" * 5000, "-1", "1e309", "NaN", "9" * 400, "٣", "null", "[]", "{}", "http://127.0.0.1:9/", "0x10", " ", "é" * 200,
]  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(max_size=60))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Origin", "Sec-Fetch-Site", "X-Fragment", "Host", "Cookie", "Authorization", "Content-Type"]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    max_size=2,
)
MORE = """
[issuers.sandbox.capture]
visits_per_minute = 100000
"""
CDS = """
[issuers.sandbox.cds]
iss = "EHR_URL"
jku = "EHR_URL/oauth/jwks"
"""
ROLES = 'users = {"Practitioner/pr-reyes" = ["therapist", "administrator"]}'


def inputs(kind):
    """How many of a kind, at least a few."""
    return max(20, int(INPUTS * SHARE[kind]))


def anything(kind, each=1):
    """``each`` is how many inputs one example makes: drawing it takes longer than sending it."""
    return settings(
        max_examples=-(-inputs(kind) // each),
        deadline=None,
        database=None,
        derandomize=INPUTS < 10_000,  # a sample that fails is the same on every machine
        suppress_health_check=list(HealthCheck),
    )


class Fuzzed:
    """A site with a visit open in one browser, and what must be seen by nobody."""

    def __init__(self, site, logged):
        self.site, self.logged, self.count = site, logged, 0
        self.client = site.app.test_client()
        self.person = site.person()
        self.page = self.person.launch()
        stored = site.sandbox.store
        patients = [filed.resource for filed in stored.all("Patient")]
        people = {patient["name"][0]["family"] for patient in patients} | {each["id"] for each in patients}
        people |= {each["value"] for patient in patients for each in patient.get("identifier", ())}
        self.people = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(people)))})\b")
        self.secrets = {(site.folder / name).read_text()[30:90] for name in ("es384.pem", "backend.pem")}
        self.secrets |= {key.get_secret_value() for key in site.installation.settings.secret_keys}
        self.rules = [rule for rule in site.app.url_map.iter_rules() if rule.endpoint != "static"]

    @property
    def tokens(self):
        issued = self.site.sandbox.smart.issued.tokens.values()
        return {token.access_token for token in issued} | {token.refresh_token for token in issued} - {None}

    def checked(self, answer, *, stranger=False):
        """What holds for every answer, whatever was sent."""
        self.count += 1
        text = answer.get_data(as_text=True)
        assert answer.status_code != 500, text
        assert "Traceback" not in text
        assert "site-packages" not in text
        assert "Content-Security-Policy" in answer.headers
        assert not [secret for secret in self.secrets | self.tokens if secret in text]
        if stranger:
            assert not self.people.search(text)
        self.forget()
        return text

    def forget(self):
        """Memory stays what it is; what was logged is looked through first."""
        written = self.logged.getvalue()
        assert '"unexpected"' not in written, written[-2000:]
        assert '"cds_failed"' not in written, written[-2000:]
        if self.count % 50 == 0:
            assert not [secret for secret in self.secrets | self.tokens if secret in written]
            assert not self.people.search(written)
        self.logged.seek(0)
        self.logged.truncate()
        self.site.ehr_side.clear()
        self.site.app_side.clear()
        self.site.app.extensions["quarterhour_limiter"].storage.reset()

    def address(self, rule, values):
        """The rule's address with its places filled; what is not given is the open launch and its first visit."""
        known = {"launch_id": self.page.launch_id, "position": "1"}

        def filled(place):
            name = place[1].rpartition(":")[2]
            return known[name] if name in known else (values.pop() if values else "1")

        path = re.sub(r"<([^>]+)>", filled, rule.rule)
        return path.replace("?", "").replace("#", "").replace("\\", "") or "/"

    def reopened(self):
        """The visit is opened anew where an input has ended its session."""
        self.person = self.site.person()
        self.page = self.person.launch()
        self.client.set_cookie("__Host-quarterhour", self.person.cookie, secure=True)
        self.csrf = dict(self.page.form("/visits/1")[1])["csrf_token"]


@pytest.fixture
def fuzzed(a_site):
    written = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    site = a_site(
        launches_per_minute=10_000_000,
        metrics_from="127.0.0.0/8",  # so that what is counted is looked through too
        backend='also_for = ["subscriptions"]' + MORE + CDS,
        roles=ROLES,
        client="ES384",
    )
    made = Fuzzed(site, written)
    yield made
    structlog.configure(**before)


def counted(kind, fuzzed):
    assert fuzzed.count >= inputs(kind)
    if COUNTS:
        with Path(COUNTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "inputs": fuzzed.count}) + "\n")


def several(things):
    return st.lists(st.sampled_from(things), min_size=PLACES, max_size=PLACES)


# --- addresses ------------------------------------------------------------------------------------------------


def test_no_address_breaks_or_tells_a_stranger_anything(fuzzed):
    names = ["iss", "launch", "code", "state", "error", "error_description", "x"]

    @anything("strangers", PLACES)
    @given(
        rules=several(fuzzed.rules),
        method=METHODS,
        launch=st.none() | TEXT,
        parts=st.lists(TEXT, max_size=3),
        query=st.dictionaries(st.sampled_from(names), TEXT, max_size=4),
        headers=HEADERS,
        body=st.none() | JSON,
    )
    def ask(rules, method, launch, parts, query, headers, body):
        sent = {"data": query} if body is None else {"json": body}
        for rule in rules:
            path = fuzzed.address(rule, list(parts))
            if launch is not None:
                path = path.replace(fuzzed.page.launch_id, launch.replace("?", "").replace("#", "") or "1")
            answer = fuzzed.client.open(path, method=method, query_string=query, headers=headers, **sent)
            fuzzed.checked(answer, stranger=True)

    ask()
    counted("strangers", fuzzed)


def test_no_page_of_an_open_visit_breaks(fuzzed):
    fuzzed.reopened()
    _, fields = fuzzed.page.form("/visits/1")
    visit = dict(fields)["visit"]
    names = sorted(
        ({name for name, _ in fields} | set(re.findall(r'name="([^"]+)"', fuzzed.page.html))) - {"csrf_token"}
    )
    shown = st.sampled_from(
        sorted({html.unescape(v) for v in re.findall(r'value="([^"]+)"', fuzzed.page.html)})
    )
    others = st.sampled_from(
        ["person", "encounter", "why", "who", "action", "since", "until", "page", "check", "go"]
    )
    rules = [rule for rule in fuzzed.rules if "launch_id" in rule.arguments]

    @anything("open visit", PLACES)
    @given(
        rules=several(rules),
        method=METHODS,
        parts=st.lists(TEXT, max_size=2),
        entered=st.dictionaries(
            st.sampled_from(names) | others | st.text(max_size=20), shown | TEXT, max_size=6
        ),
        fragment=st.booleans(),
    )
    def use(rules, method, parts, entered, fragment):
        headers = {"X-Fragment": "1"} if fragment else {}
        for rule in rules:
            path = fuzzed.address(rule, list(parts))
            form = {"visit": visit, **entered, "csrf_token": fuzzed.csrf}
            sent = {"query_string": entered} if method in {"GET", "HEAD"} else {"data": form}
            answer = fuzzed.client.open(
                path, method=method, headers=headers, base_url=fuzzed.site.app_url, **sent
            )
            fuzzed.checked(answer)
            if answer.status_code == 401 or path.endswith("/end"):
                fuzzed.reopened()

    use()
    # What was sent at random counted as nobody's sign-off.
    assert fuzzed.site.sandbox.charge_items("cms-ex1") == []
    counted("open visit", fuzzed)


# --- what EHRs tell us ----------------------------------------------------------------------------------------


def cds_call(fuzzed, service, below):
    """A call as the specification shows it, with a token that is good for it: address, headers, body."""
    site = fuzzed.site
    path = f"/cds-services/{service['id']}"
    now = int(site.clock.now.timestamp())
    key = signing_keys()["ES384"]
    claims = {
        "iss": site.ehr_url,
        "aud": f"{site.app_url}{path}",
        "iat": now,
        "exp": now + 300,
        "jti": str(uuid.uuid4()),
    }
    token = jwt.encode({"alg": "ES384", "kid": key.kid, "typ": "JWT"}, claims, key, algorithms=["ES384"])
    visit = site.sandbox.scenario("cms-ex1")
    coverages = [
        filed.resource
        for filed in site.sandbox.store.all("Coverage")
        if filed.patient == f"Patient/{visit.patient}"
    ]
    body = {
        "hook": service["hook"],
        "hookInstance": str(uuid.uuid4()),
        "fhirServer": f"{site.ehr_url}/fhir",
        "context": {
            "userId": "Practitioner/pr-reyes",
            "patientId": visit.patient,
            "encounterId": visit.encounter,
            "appointments": {
                "resourceType": "Bundle",
                "entry": [{"resource": {"resourceType": "Appointment"}}],
            },
        },
        "prefetch": {
            "coverages": {"resourceType": "Bundle", "entry": [{"resource": each} for each in coverages]},
        },
        "feedback": [
            {"card": str(uuid.uuid4()), "outcome": "overridden", "overrideReason": {"reason": {"code": "x"}}}
        ],
    }
    return f"{path}{below}", {"Authorization": f"Bearer {token}"}, body


def notifications(fuzzed):
    """Addresses, headers and bodies of what the EHR sends where it was subscribed at."""
    here = fuzzed.site.installation
    issuer = next(iter(here.issuers))
    subscriptions.subscribe(here, issuer, None, None)
    assert fuzzed.site.sandbox.subscriptions.all_sent()
    sent = [each for each in fuzzed.site.app_side if each.path.startswith("/subscriptions/")]
    return [
        (each.path, {"Authorization": each.headers["Authorization"]}, json.loads(each.body)) for each in sent
    ]


def spoilt(document, value, seed):
    """The document with another value somewhere in it, chosen by ``seed``."""
    document = copy.deepcopy(document)
    chance = random.Random(seed)
    place = document
    for _ in range(chance.randrange(1, 9)):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or chance.random() < 0.2:
            place[key] = value
            return document
        place = place[key]
    return document if place is not document else value


def test_nothing_that_an_ehr_tells_us_breaks_anything(fuzzed):
    site = fuzzed.site
    told = 4 * [partial(tuple, each) for each in notifications(fuzzed)]
    assert told
    services = fuzzed.client.get("/cds-services").get_json()["services"]
    told += [partial(cds_call, fuzzed, service, below) for service in services for below in ("", "/feedback")]
    assert len(services) == 4

    @anything("told", PLACES)
    @given(
        which=several(told),
        value=JSON,
        seed=st.integers(0, 2**32),
        times=st.integers(0, 2),
        raw=st.none() | st.binary(max_size=80),
    )
    def tell(which, value, seed, times, raw):
        for path, headers, body in (made() for made in which):
            sent = body
            for n in range(times):
                sent = spoilt(sent, value, seed + n) if isinstance(sent, dict | list) else sent
            data = json.dumps(sent).encode() if raw is None else raw
            answer = fuzzed.client.post(
                path, data=data, headers=headers, content_type="application/json", base_url=site.app_url
            )
            assert answer.status_code in {200, 400, 413, 429}, answer.status_code
            fuzzed.checked(answer)

    tell()
    counted("told", fuzzed)


# --- documents ------------------------------------------------------------------------------------------------


VISIT = "cms-ex1"


def documents(fuzzed):
    """Everything that the EHR is asked for in a launch and its sign-off, a launch without a visit, and a capture."""
    site = fuzzed.site
    site.ehr_side.clear()
    site.installation.discovered.clear()
    signed(fuzzed, lambda: None)
    site.person().launch(VISIT, encounter=False)
    captured(fuzzed)
    read = {each.path for each in site.ehr_side if each.status < 300}
    return sorted(path for path in read if not path.startswith("/oauth/authorize"))


def signed(fuzzed, lie):
    """A sign-off after whose review the EHR begins to lie; then as if it had not been."""
    person = fuzzed.site.person()
    review = person.launch(VISIT)
    lie()
    receipt = person.submit(review, "/visits/1", go="sign")
    if '/sign">' in receipt.html:
        receipt = person.submit(receipt, "/sign")
    fuzzed.site.lies.clear()
    for charge in fuzzed.site.sandbox.store.all("ChargeItem"):
        fuzzed.site.sandbox.store.remove("ChargeItem", charge.resource["id"])
    with fuzzed.site.installation.engine.begin() as connection:
        for table in (database.charge, database.decision, database.lease):
            connection.execute(delete(table))
    return receipt


def captured(fuzzed):
    here = fuzzed.site.installation
    issuer = next(iter(here.issuers))
    fuzzed.site.clock.forward(minutes=5)  # so that the token is asked for anew
    with here.engine.begin() as connection:
        capture.ask(
            connection, here, issuer.iss, f"Encounter/{fuzzed.site.sandbox.scenario(VISIT).encounter}"
        )
    while work_job(here, lambda: None) is not None:
        pass


def test_no_document_of_the_ehr_breaks_what_is_read_of_it(fuzzed):
    site = fuzzed.site
    paths = documents(fuzzed)
    assert {"/fhir/Procedure", "/oauth/token", "/fhir/.well-known/smart-configuration"} <= set(paths)

    @anything("documents")
    @given(
        path=st.sampled_from(paths),
        value=JSON,
        seed=st.integers(0, 2**32),
        raw=st.none() | st.binary(max_size=80),
        how=st.sampled_from(["launched", "chosen", "captured", "signed"]),
    )
    def read(path, value, seed, raw, how):
        site.lies.clear()
        site.installation.discovered.clear()
        site.installation.styles.clear()

        def lie(honest):
            if raw is not None:
                return (raw,)
            try:
                return (json.dumps(spoilt(json.loads(honest), value, seed), ensure_ascii=True).encode(),)
            except ValueError:
                return (honest,)

        def begin():
            site.lies[path] = lie

        if how == "signed":
            page = signed(fuzzed, begin)
        else:
            begin()
            page = None if how == "captured" else site.person().launch(VISIT, encounter=how == "launched")
        if page is None:
            captured(fuzzed)
        else:
            assert page.status != 500, (path, page.text)
            assert "Traceback" not in page.html
        fuzzed.count += 1
        fuzzed.forget()

    read()
    counted("documents", fuzzed)
