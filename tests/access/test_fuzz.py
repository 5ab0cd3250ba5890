"""Anything at all, to every address of the application and in every document it reads: no 500, no traceback, no leak.

A sample here; `make fuzz` makes 120,000 inputs of it.
"""

import copy
import json
import os
import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("QUARTERHOUR_FUZZ", "2400"))
SHARE = {"addresses": 0.65, "forms": 0.3, "documents": 0.05}
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


def anything(share):
    return settings(
        max_examples=max(20, int(INPUTS * SHARE[share])),
        deadline=None,
        database=None,
        derandomize=INPUTS < 10_000,  # a sample that fails is the same on every machine
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def open_site(a_site):
    """A site with a visit open in one browser: its client, its launch, and what must not be seen by others."""
    site = a_site(launches_per_minute=10_000_000)
    person = site.person()
    page = person.launch()
    return site, person, page


def check(answer):
    """What holds for every answer, whatever was sent."""
    text = answer.get_data(as_text=True)
    assert answer.status_code != 500, text
    assert "Traceback" not in text
    assert "site-packages" not in text
    assert "Content-Security-Policy" in answer.headers
    return text


def test_no_address_of_the_application_breaks(open_site):
    site, _person, _page = open_site
    rules = [rule for rule in site.app.url_map.iter_rules() if rule.endpoint != "static"]
    tokens = set(site.sandbox.smart.issued.tokens)
    client = site.app.test_client()

    @anything("addresses")
    @given(
        rule=st.sampled_from(rules),
        method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
        parts=st.lists(TEXT, min_size=2, max_size=2),
        names=st.lists(
            st.sampled_from(["iss", "launch", "code", "state", "error", "error_description", "x"]), max_size=4
        ),
        values=st.lists(TEXT, min_size=4, max_size=4),
        headers=st.dictionaries(
            st.sampled_from(["Origin", "Sec-Fetch-Site", "X-Fragment", "Host", "Cookie"]),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
            max_size=2,
        ),
    )
    def ask(rule, method, parts, names, values, headers):
        path = re.sub(r"<[^>]+>", lambda _: parts.pop() if parts else "1", rule.rule)
        query = [(name, value) for name, value in zip(names, values, strict=False)]
        path = path.replace("?", "").replace("#", "").replace("\\", "") or "/"
        answer = client.open(path, method=method, query_string=dict(query), headers=headers, data=dict(query))
        text = check(answer)
        assert not any(token in text for token in tokens)

    ask()


def test_no_form_of_an_open_visit_breaks(open_site):
    site, person, page = open_site
    client = site.app.test_client()
    client.set_cookie("__Host-quarterhour", person.cookie, secure=True)
    address, fields = page.form("/visits/1")
    path = address.removeprefix(site.app_url)
    names = sorted(
        {name for name, _ in fields} | set(re.findall(r'name="([^"]+)"', page.html)) - {"csrf_token"}
    )
    csrf = dict(fields)["csrf_token"]
    posts = [path, f"{path}/sign", f"{path}/send", f"/launches/{page.launch_id}/encounters"]

    @anything("forms")
    @given(
        where=st.sampled_from(posts),
        entered=st.dictionaries(st.sampled_from(names) | st.text(max_size=20), TEXT, max_size=6),
        fragment=st.booleans(),
    )
    def post(where, entered, fragment):
        headers = {"X-Fragment": "1"} if fragment else {}
        answer = client.post(
            where, data={**entered, "csrf_token": csrf}, headers=headers, base_url=site.app_url
        )
        check(answer)

    post()
    # Nothing that was sent counted as a sign-off of what nobody saw.
    assert site.sandbox.charge_items("cms-ex1") == []


DOCUMENTS = (
    "/fhir/.well-known/smart-configuration", "/oauth/token", "/oauth/jwks", "/smart-style.json", "/fhir/metadata",
    "/fhir/Encounter/enc-cms-ex1", "/fhir/Procedure", "/fhir/Coverage", "/fhir/ChargeItem", "/fhir/PractitionerRole",
    "/fhir/Encounter", "/fhir/Practitioner/pr-reyes",
)  # fmt: skip


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


def test_no_document_of_the_ehr_breaks_the_launch(open_site):
    site, person, _page = open_site
    client = site.app.test_client()
    client.set_cookie("__Host-quarterhour", person.cookie, secure=True)

    @anything("documents")
    @given(
        path=st.sampled_from(DOCUMENTS),
        value=JSON,
        seed=st.integers(0, 2**32),
        raw=st.none() | st.binary(max_size=80),
    )
    def read(path, value, seed, raw):
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

        site.lies[path] = lie
        page = site.person().launch()
        assert page.status != 500, (path, page.text)
        assert "Traceback" not in page.html
        site.ehr_side.clear()
        site.app_side.clear()

    read()
