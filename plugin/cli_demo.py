"""`quarterhour demo`: the plug-in and an EHR in a box on loopback, in one process; nothing outlives it."""

from __future__ import annotations

import html
import json
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, build_opener

import click
import structlog
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import select

from ..core.calculate import Answered
from ..core.text import text
from ..fhir.normalise import PreparedVisit
from ..launch.keys import generate_key
from ..sandbox.ehr import Sandbox, create_sandbox, running
from . import database
from .app import create_app
from .config import Settings
from .installation import Installation, install
from .review import Answers, review
from .subscriptions import subscribe
from .worker import work

ISSUERS = """\
[issuers.sandbox]
name = "Sandbox EHR"
iss = "{ehr_url}/fhir"
client_id = "quarterhour-jwt"
client_auth = "private_key_jwt"
signing_alg = "ES384"
key_file = "key.pem"
time_zone = "America/New_York"
embedding_origins = ["{ehr_url}"]
allow_http = true
allow_private_addresses = true

[issuers.sandbox.backend]
client_id = "quarterhour-backend"
signing_alg = "ES384"
key_file = "backend-key.pem"
also_for = ["planned-charges", "subscriptions"]

[issuers.sandbox.capture]
visits_per_minute = 1200

[issuers.sandbox.cds]
iss = "{ehr_url}"
jku = "{ehr_url}/oauth/jwks"

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]
"""

LONGEST_WAIT = 5  # seconds


@dataclass(frozen=True)
class Demo:
    """Both sides of a running demo."""

    ehr_url: str
    app_url: str
    sandbox: Sandbox
    installation: Installation


@contextmanager
def demonstration(*, app_port: int = 0, ehr_port: int = 0, capture: bool = False) -> Iterator[Demo]:
    """A sandbox EHR on 127.0.0.1 and Quarterhour on localhost: two sites to a browser, as in life.

    With ``capture`` the EHR tells when a visit ends, and its suggestion waits on the worklist by itself.
    """
    app_port, ehr_port = _free(app_port), _free(ehr_port)
    app_url, ehr_url = f"http://localhost:{app_port}", f"http://127.0.0.1:{ehr_port}"
    with tempfile.TemporaryDirectory(prefix="quarterhour-demo-") as folder:
        installation = install(_settings(Path(folder), app_url, ehr_url))
        ehr = create_sandbox(base_url=ehr_url, app_url=app_url)
        with (
            closing(installation),
            running(lambda _: create_app(installation), host="localhost", port=app_port),
            running(lambda _: ehr, port=ehr_port),
            closing(ehr.extensions["sandbox"].subscriptions),
            _capturing(installation) if capture else nullcontext(),
        ):
            yield Demo(ehr_url, app_url, ehr.extensions["sandbox"], installation)


@contextmanager
def _capturing(here: Installation) -> Iterator[None]:
    """Subscribed at the EHR, and a worker for what it tells, as in `quarterhour serve`."""
    (issuer,) = here.issuers
    subscribe(here, issuer, None, None)
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(here, stop), name="worker")
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


@click.command()
@click.option("--once", is_flag=True, help="One visit without a browser: print what happened, then stop.")
@click.option("--port", default=8000, show_default=True, help="Quarterhour's port; the EHR takes the next.")
def demo(*, once: bool, port: int) -> None:
    """Try Quarterhour: an EHR in a box with synthetic patients, and Quarterhour inside it."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=_quiet)
    if once:
        with demonstration() as shown:
            walk_once(shown)
        return
    with demonstration(app_port=port, ehr_port=port + 1, capture=True) as shown:
        click.echo(f"\n  Open  {shown.ehr_url}/  in a browser.\n")
        click.echo("  A sandbox EHR with synthetic patients; open a visit, then Quarterhour in it.")
        click.echo(
            "  One of its visits is still open: finish it there, and it waits on Quarterhour's worklist."
        )
        click.echo("  Nothing is kept. Ctrl+C stops it.")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def walk_once(shown: Demo) -> None:
    """One visit from launch to ChargeItem over real HTTP, told step by step. Raises where a step fails."""
    scenario = shown.sandbox.scenario("cms-ex1")
    click.echo(f"Visit: {scenario.title}")
    browser = _browser()
    arrived = _get(browser, shown.sandbox.launch_url(scenario.id, "quarterhour-jwt"))
    click.echo(f"Launched by SMART on FHIR from {shown.ehr_url}/fhir")
    launch_id = re.search(r"/launches/([^/]+)/", arrived.url)
    if launch_id is None:
        raise click.ClickException(f"The launch did not reach the review page: {_heading(arrived.text)}")

    prepared = _read(shown, launch_id[1])
    click.echo("\nRead:")
    for service in prepared.visit.services:
        click.echo(f"  {service.reference}: {service.code}, {service.start:%H:%M} to {service.end:%H:%M}")
    reviewed = review(prepared, Answers(), shown.installation.library)
    if reviewed.suggestion is None:
        raise click.ClickException("No policy was found for the visit.")
    click.echo("\nSuggested:")
    click.echo("  " + text(Answered(reviewed.suggestion, None)).replace("\n", "\n  ").rstrip())

    confirm = _submit(browser, arrived, go="sign")
    receipt = _submit(browser, confirm)
    click.echo(f"\n{_heading(receipt.text)}")
    written = shown.sandbox.charge_items(scenario.id)
    click.echo("\nWritten to the EHR:")
    for item in written:
        click.echo(json.dumps(item, indent=2, ensure_ascii=False))
    got = {item["code"]["coding"][0]["code"]: item["quantity"]["value"] for item in written}
    if got not in [dict(answer) for answer in scenario.expected]:
        raise click.ClickException(f"Published is {scenario.expected}, but the EHR has {got}.")
    click.echo(f"\n{len(written)} charges, as published: {', '.join(f'{c} x {u}' for c, u in got.items())}.")


def _read(shown: Demo, launch_id: str) -> PreparedVisit:
    """The visit as the plug-in read and kept it, which it does once the page is out."""
    here = shown.installation
    query = select(database.launch.c.chart).where(database.launch.c.id == launch_id)
    until = time.monotonic() + LONGEST_WAIT
    while True:
        with here.engine.begin() as connection:
            sealed: bytes | None = connection.execute(query).scalar_one()
        if sealed is not None:
            (prepared,) = here.vault.open(sealed, tuple[PreparedVisit, ...])
            return prepared
        if time.monotonic() > until:
            raise click.ClickException("The visit that was read was not kept.")
        time.sleep(0.05)


def _settings(folder: Path, app_url: str, ehr_url: str) -> Settings:
    """An installation in a folder that goes away: new keys, an empty database, one issuer."""
    for key in (folder / "key.pem", folder / "backend-key.pem"):
        key.touch(mode=0o600)
        key.write_text(generate_key("ES384"))
    (folder / "issuers.toml").write_text(ISSUERS.format(ehr_url=ehr_url), encoding="utf-8")
    return Settings(
        public_url=app_url,
        issuers_file=folder / "issuers.toml",
        secret_keys=(SecretStr(Fernet.generate_key().decode()),),
        database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
        launches_per_minute=100_000,  # one address launches all
    )


def _free(port: int) -> int:
    """That port where it is free; else one below those that the system hands out, so that nobody else is given it
    before it is used.
    """
    try:
        with socket.create_server(("127.0.0.1", port or 20_000 + secrets.randbelow(12_000))) as probe:
            return int(probe.getsockname()[1])
    except OSError:
        return _free(0)


def _quiet(*_: object) -> structlog.PrintLogger:
    """Keeps the log out of the newcomer's terminal."""
    return structlog.PrintLogger(Path("/dev/null").open("w"))


@dataclass(frozen=True)
class Shown:
    """A page as it arrived."""

    url: str
    text: str


def _browser() -> OpenerDirector:
    """A client that keeps Secure cookies on loopback, as browsers do."""
    policy = DefaultCookiePolicy(secure_protocols=["http", "https"])
    return build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar(policy)))


def _get(browser: OpenerDirector, url: str, data: bytes | None = None) -> Shown:
    """The page an address leads to, redirects followed. Raises for a page that says what went wrong."""
    try:
        with browser.open(url, data, timeout=60) as answer:
            return Shown(answer.url, answer.read().decode())
    except HTTPError as error:
        raise click.ClickException(f"HTTP {error.code}: {_heading(error.read().decode())}") from None


def _submit(browser: OpenerDirector, page: Shown, **fields: str) -> Shown:
    """Presses a button of a page's form."""
    form = re.search(r'<form method="post" action="([^"]+)"', page.text)
    if form is None:
        raise click.ClickException(f"There is no form on the page '{_heading(page.text)}'.")
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text)
    boxes = re.findall(r'<input type="checkbox" name="([^"]+)"[^>]* value="([^"]*)" checked', page.text)
    data = urlencode([*hidden, *boxes, *fields.items()]).encode()
    return _get(browser, urljoin(page.url, form[1]), data)


def _heading(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    return html.unescape(found[1]) if found else "a page without heading"
