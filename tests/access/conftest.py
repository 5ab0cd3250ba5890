"""Quarterhour and EHRs on loopback over real HTTP, with everything recorded that passed between them."""

from __future__ import annotations

import html
import io
import re
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urljoin

import pytest
import requests
import structlog
from cryptography.fernet import Fernet
from requests.adapters import HTTPAdapter
from requests.cookies import extract_cookies_to_jar, get_cookie_header

from quarterhour.launch.keys import generate_key
from quarterhour.plugin.app import create_app
from quarterhour.plugin.config import Settings
from quarterhour.plugin.installation import install
from quarterhour.sandbox.authorization import Authorized
from quarterhour.sandbox.clients import DEMO_SECRET
from quarterhour.sandbox.ehr import create_sandbox, running
from quarterhour.sandbox.quirks import Quirks

NOON = datetime(2026, 11, 20, 17, 0, tzinfo=UTC)

CREDENTIALS = {
    "public": 'client_id = "quarterhour-public"\nclient_auth = "public"',
    "basic": 'client_id = "quarterhour-basic"\nclient_auth = "client_secret_basic"\n'
    'client_secret_file = "secret"',
    "RS384": 'client_id = "quarterhour-jwt"\nclient_auth = "private_key_jwt"\nsigning_alg = "RS384"\n'
    'key_file = "rs384.pem"',
    "ES384": 'client_id = "quarterhour-jwt"\nclient_auth = "private_key_jwt"\nsigning_alg = "ES384"\n'
    'key_file = "es384.pem"',
}
ISSUER = """\
[issuers.{id}]
name = "{name}"
iss = "{ehr_url}/fhir"
{credentials}
time_zone = "America/New_York"
embedding_origins = [{embedding}]
allow_http = true
allow_private_addresses = true
{more}

[issuers.{id}.roles]
{roles}
{backend}
[issuers.{id}.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]
"""
BACKEND = """
[issuers.sandbox.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_file = "backend.pem"
{more}
"""


class Clock:
    """The time of all sides; a test moves it."""

    def __init__(self):
        self.now = NOON

    def __call__(self):
        return self.now

    def forward(self, **by):
        self.now += timedelta(**by)


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as the server that was asked saw it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer_headers: dict[str, str]
    answer: bytes

    @property
    def params(self):
        return parse_qs(self.query, keep_blank_values=True)

    @property
    def form(self):
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


def recorded(application, exchanges, lies=None):
    """The application with everything that passes kept in ``exchanges``.

    ``lies`` gives, by path, what a dishonest server answers instead: a function of the honest body.
    """

    def recording(environ, start_response):
        body = environ["wsgi.input"].read()
        environ["wsgi.input"] = io.BytesIO(body)
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
        asked = {
            name.removeprefix("HTTP_").replace("_", "-").title(): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or name == "CONTENT_TYPE"
        }
        seen = {}

        def started(status, headers, exc_info=None):
            seen["status"], seen["headers"] = status, dict(headers)

        parts = application(environ, started)
        answer = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        if lies and path in lies:
            answer, *more = lies[path](answer)
            seen["headers"] |= {"Content-Length": str(len(answer)), **(more[0] if more else {})}
            seen["status"] = more[1] if len(more) > 1 else seen["status"]
        start_response(seen["status"], list(seen["headers"].items()))
        status = int(seen["status"].split()[0])
        exchanges.append(Exchange(method, path, query, asked, body, status, seen["headers"], answer))
        return [answer]

    return recording


class _KeepsSecureCookies(HTTPAdapter):
    """As browsers do on loopback, and requests by itself does not."""

    def __init__(self):
        super().__init__()
        self.jar = CookieJar(DefaultCookiePolicy(secure_protocols=["http", "https"]))

    def send(self, request, **settings):
        request.headers.pop("Cookie", None)
        kept = get_cookie_header(self.jar, request)
        if kept:
            request.headers["Cookie"] = kept
        answer = super().send(request, **settings)
        extract_cookies_to_jar(self.jar, request, answer.raw)
        return answer


class Page:
    """An answer, and what stands on it."""

    def __init__(self, answer):
        self.answer, self.status, self.url, self.html = answer, answer.status_code, answer.url, answer.text
        self.headers = answer.headers
        self.text = html.unescape(" ".join(re.sub(r"<[^>]*>", " ", self.html).split()))
        heading = re.search(r"<h1>(.*?)</h1>", self.html, re.DOTALL)
        self.heading = html.unescape(heading[1]) if heading else ""

    @property
    def launch_id(self):
        return re.search(r"/launches/([^/]+)/", self.url)[1]

    def form(self, action_ending):
        """Where a form goes, and all that is filled in as the page stands."""
        for action, inside in re.findall(
            r'<form method="post" action="([^"]+)">(.*?)</form>', self.html, re.DOTALL
        ):
            if action.endswith(action_ending):
                fields = []
                for tag in re.findall(r"<input [^>]*>", inside):
                    given = dict(re.findall(r'([\w:-]+)="([^"]*)"', tag))
                    if given.get("type") in {"radio", "checkbox"} and " checked" not in tag:
                        continue
                    if "name" in given:
                        fields.append((html.unescape(given["name"]), html.unescape(given.get("value", ""))))
                return urljoin(self.url, action), fields
        raise AssertionError(f"no form to {action_ending} on '{self.heading}'")


class Person:
    """Somebody with a browser of their own."""

    def __init__(self, site):
        self.site = site
        self.http = requests.Session()
        self.http.trust_env = False
        self.adapter = _KeepsSecureCookies()
        self.http.mount("http://", self.adapter)

    @property
    def cookie(self):
        return next(cookie.value for cookie in self.adapter.jar if cookie.name == "__Host-quarterhour")

    def get(self, url, **settings):
        return Page(self.http.get(urljoin(self.site.app_url, url), timeout=30, **settings))

    def post(self, url, data=(), **settings):
        return Page(self.http.post(urljoin(self.site.app_url, url), data=data, timeout=30, **settings))

    def submit(self, page, action_ending, **entered):
        address, fields = page.form(action_ending)
        kept = [(name, value) for name, value in fields if name not in entered]
        return self.post(address, [*kept, *entered.items()])

    def launch(self, scenario="cms-ex1", **who):
        return self.get(self.site.launch_url(scenario, **who))

    def authorize(self, scenario="cms-ex1", **who):
        """The address at the EHR's authorization page, not yet followed."""
        return self.get(self.site.launch_url(scenario, **who), allow_redirects=False).headers["Location"]

    def callback(self, scenario="cms-ex1", **who):
        """The address of ours that the EHR sends the browser back to, not yet followed."""
        back = self.http.get(self.authorize(scenario, **who), timeout=30, allow_redirects=False)
        return back.headers["Location"]

    def standalone(self, *, user="pr-reyes", patient="", encounter="", iss=None):
        """Sign in from our own page; who and for whom is chosen at the EHR."""
        start = self.http.get(
            urljoin(self.site.app_url, "/start"),
            params={"iss": iss or f"{self.site.ehr_url}/fhir"},
            allow_redirects=False,
            timeout=30,
        )
        asked = start.headers["Location"]
        choose = asked.replace("/oauth/authorize?", "/oauth/authorize/choose?")
        chosen = {"user": user, "patient": patient, "encounter": encounter}
        return Page(self.http.post(choose, data=chosen, timeout=30))

    def sign(self, page):
        """From a review page to the receipt, or to whatever stops it."""
        position = re.search(r'/visits/(\d+)">', page.html)[1]
        confirm = self.submit(page, f"/visits/{position}", go="sign")
        return self.submit(confirm, "/sign")


@dataclass
class Site:
    """Quarterhour and one EHR that may launch it, from the inside."""

    app_url: str
    ehr_url: str
    sandbox: object
    installation: object
    app: object
    clock: Clock
    folder: Path
    ehr_side: list[Exchange] = field(default_factory=list)
    app_side: list[Exchange] = field(default_factory=list)
    lies: dict = field(default_factory=dict)

    def person(self):
        return Person(self)

    def launch_url(self, scenario="cms-ex1", *, user="", encounter=True, patient=True):
        chosen = self.sandbox.scenario(scenario)
        token = self.sandbox.smart.launch(
            Authorized(
                f"Practitioner/{user or chosen.user}",
                f"Patient/{chosen.patient}" if patient else None,
                f"Encounter/{chosen.encounter}" if encounter and patient else None,
            )
        )
        return f"{self.app_url}/launch?iss={self.ehr_url}/fhir&launch={token}"

    def asked(self, path, method="*"):
        """What the EHR was asked at a path."""
        return [each for each in self.ehr_side if each.path == path and method in ("*", each.method)]

    @property
    def charges(self):
        return [filed.resource for filed in self.sandbox.store.all("ChargeItem")]

    def trail(self):
        """The audit trail, read back."""
        from quarterhour.plugin import audit  # noqa: PLC0415

        with self.installation.engine.begin() as connection:
            return audit.entries(connection, self.installation.vault)

    def database(self):
        """Every byte that is stored, the write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("*.sqlite3*")))

    def rows(self, table):
        with self.installation.engine.begin() as connection:
            return connection.execute(table.select()).all()


@pytest.fixture(scope="session")
def client_keys():
    return {"RS384": generate_key("RS384"), "ES384": generate_key("ES384"), "backend": generate_key("ES384")}


@pytest.fixture
def a_site(tmp_path, client_keys):
    """Opens a site with settings of its own, for as long as the test runs."""
    with ExitStack() as stack:
        count = iter(range(1000))
        yield lambda **settings: _site(stack, tmp_path / str(next(count)), client_keys, **settings)


def _site(
    stack,
    folder,
    client_keys,
    *,
    quirks=None,
    client="public",
    more="",
    roles="",
    issuers=None,
    clock=None,
    embedded=True,
    backend=None,
    **settings,
):
    folder.mkdir()
    clock = clock or Clock()
    ehr_side, app_side, lies, made = [], [], {}, {}
    (folder / "secret").write_text(DEMO_SECRET)
    for name, pem in client_keys.items():
        (folder / f"{name.lower()}.pem").write_text(pem)
        (folder / f"{name.lower()}.pem").chmod(0o600)
    (folder / "secret").chmod(0o600)

    def ehr(base_url):
        made["ehr"] = create_sandbox(
            base_url=base_url, app_url=app_url, clock=clock, quirks=quirks or Quirks()
        )
        return recorded(made["ehr"], ehr_side, lies)

    def quarterhour(environ, start_response):
        return made["app"](environ, start_response)  # made below, once both addresses are known

    app_url = stack.enter_context(running(lambda _: recorded(quarterhour, app_side), host="localhost"))
    ehr_url = stack.enter_context(running(ehr))
    text = ISSUER.format(
        id="sandbox",
        name="Sandbox EHR",
        ehr_url=ehr_url,
        credentials=CREDENTIALS[client],
        more=more.replace("EHR_URL", ehr_url),
        roles=roles,
        backend="" if backend is None else BACKEND.format(more=backend).replace("EHR_URL", ehr_url),
        embedding=f'"{ehr_url}"' if embedded else "",
    )
    (folder / "issuers.toml").write_text(text + (issuers or ""))
    installation = install(
        Settings(
            public_url=app_url,
            issuers_file=folder / "issuers.toml",
            secret_keys=Fernet.generate_key().decode(),
            database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
            **settings,
        ),
        clock,
    )
    stack.enter_context(closing(installation))
    made["app"] = create_app(installation)
    sandbox = made["ehr"].extensions["sandbox"]
    return Site(app_url, ehr_url, sandbox, installation, made["app"], clock, folder, ehr_side, app_side, lies)


@pytest.fixture
def site(a_site):
    return a_site()


@pytest.fixture
def person(site):
    return site.person()


@pytest.fixture
def logged():
    """Everything that was logged, as `quarterhour serve` writes it."""
    written = io.StringIO()
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
        cache_logger_on_first_use=False,
    )
    yield written.getvalue
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def _quiet():
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.configure(**before)
