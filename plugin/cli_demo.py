"""`quarterhour demo`: the plug-in and an EHR in a box on loopback, in one process; nothing outlives it."""

from __future__ import annotations

import html
import json
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from urllib.parse import urljoin

import click
import requests
import structlog
from cryptography.fernet import Fernet
from flask import Flask
from sqlalchemy import select
from waitress import create_server
from waitress.server import BaseWSGIServer

from ..core.text import suggestion_text
from ..fhir.normalise import PreparedVisit
from ..launch.keys import generate_key
from ..sandbox.ehr import Sandbox, create_sandbox
from . import database
from .app import create_app
from .config import Settings
from .installation import Installation, install
from .review import Answers, review

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

[issuers.sandbox.site]
policies = [
    {{policy = "cms-part-b", payer = "Organization/payer-medicare"}},
    {{policy = "optum-0048", payer = "Organization/payer-optum"}},
]
"""


@dataclass(frozen=True)
class Demo:
    """Both sides of a running demo."""

    ehr_url: str
    app_url: str
    sandbox: Sandbox
    installation: Installation


@contextmanager
def demonstration(*, app_port: int = 0, ehr_port: int = 0) -> Iterator[Demo]:
    """A sandbox EHR on 127.0.0.1 and Quarterhour on localhost: two sites to a browser, as in life."""
    with tempfile.TemporaryDirectory(prefix="quarterhour-demo-") as folder:
        app_socket, ehr_socket = _listen(app_port), _listen(ehr_port)
        app_url = f"http://localhost:{app_socket.getsockname()[1]}"
        ehr_url = f"http://127.0.0.1:{ehr_socket.getsockname()[1]}"
        installation = install(_settings(Path(folder), app_url, ehr_url))
        ehr = create_sandbox(base_url=ehr_url, app_url=app_url)
        with _serving(create_app(installation), app_socket), _serving(ehr, ehr_socket):
            yield Demo(ehr_url, app_url, ehr.extensions["sandbox"], installation)
        installation.close()


@click.command()
@click.option("--once", is_flag=True, help="One visit without a browser: print what happened, then stop.")
@click.option("--port", default=8000, show_default=True, help="Quarterhour's port; the EHR takes the next.")
def demo(*, once: bool, port: int) -> None:
    """Try Quarterhour: an EHR in a box with synthetic patients, and Quarterhour inside it."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()], logger_factory=_quiet)
    if once:
        with demonstration() as running:
            walk_once(running)
        return
    with demonstration(app_port=_free(port), ehr_port=_free(port + 1)) as running:
        click.echo(f"\n  Open  {running.ehr_url}/  in a browser.\n")
        click.echo("  A sandbox EHR with synthetic patients; open a visit, then Quarterhour in it.")
        click.echo("  Nothing is kept. Ctrl+C stops it.")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


def walk_once(running: Demo) -> None:
    """One visit from launch to ChargeItem over real HTTP, told step by step. Raises where a step fails."""
    scenario = running.sandbox.scenario("cms-ex1")
    click.echo(f"Visit: {scenario.title}")
    browser = _browser()
    arrived = browser.get(running.sandbox.launch_url(scenario.id, "quarterhour-jwt"))
    arrived.raise_for_status()
    click.echo(f"Launched by SMART on FHIR at {running.ehr_url}/fhir: {len(arrived.history)} redirects")
    launch_id = re.search(r"/launches/([^/]+)/", arrived.url)
    if launch_id is None:
        raise click.ClickException(f"The launch did not reach the review page: {_heading(arrived.text)}")

    prepared = _read(running, launch_id[1])
    click.echo("\nRead:")
    for service in prepared.visit.services:
        click.echo(f"  {service.reference}: {service.code}, {service.start:%H:%M} to {service.end:%H:%M}")
    reviewed = review(prepared, Answers(), running.installation.library)
    click.echo("\nSuggested:")
    click.echo("  " + suggestion_text(reviewed.suggestion).replace("\n", "\n  ").rstrip())

    confirm = _submit(browser, arrived, go="sign")
    receipt = _submit(browser, confirm)
    click.echo(f"\nSigned off: {_heading(receipt.text)}")
    written = running.sandbox.charge_items(scenario.id)
    click.echo("\nWritten to the EHR:")
    for item in written:
        click.echo(json.dumps(item, indent=2, ensure_ascii=False))
    got = {item["code"]["coding"][0]["code"]: item["quantity"]["value"] for item in written}
    if got not in [dict(answer) for answer in scenario.expected]:
        raise click.ClickException(f"Published is {scenario.expected}, but the EHR has {got}.")
    click.echo(f"\n{len(written)} charges, as published: {', '.join(f'{c} x {u}' for c, u in got.items())}.")


def _read(running: Demo, launch_id: str) -> PreparedVisit:
    """The visit as the plug-in read and kept it."""
    here = running.installation
    with here.engine.begin() as connection:
        sealed = connection.scalar(select(database.launch.c.chart).where(database.launch.c.id == launch_id))
    (prepared,) = here.vault.open(sealed, tuple[PreparedVisit, ...])
    return prepared


def _settings(folder: Path, app_url: str, ehr_url: str) -> Settings:
    """An installation in a folder that goes away: new keys, an empty database, one issuer."""
    key = folder / "key.pem"
    key.touch(mode=0o600)
    key.write_text(generate_key("ES384"))
    (folder / "issuers.toml").write_text(ISSUERS.format(ehr_url=ehr_url), encoding="utf-8")
    return Settings(
        public_url=app_url,
        issuers_file=folder / "issuers.toml",
        secret_keys=Fernet.generate_key().decode(),
        database_url=f"sqlite:///{folder / 'quarterhour.sqlite3'}",
    )


def _listen(port: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=128)


def _free(port: int) -> int:
    """That port, or 0 (any) where somebody has it."""
    try:
        _listen(port).close()
    except OSError:
        return 0
    return port


@contextmanager
def _serving(app: Flask, listening: socket.socket) -> Iterator[None]:
    server: BaseWSGIServer = create_server(app, sockets=[listening], threads=16, ident=None)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.close()


def _quiet(*_: object) -> structlog.PrintLogger:
    """Keeps the log out of the newcomer's terminal."""
    return structlog.PrintLogger(Path("/dev/null").open("w"))


def _browser() -> requests.Session:
    """A client that keeps Secure cookies on loopback, as browsers do."""
    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(secure_protocols=["http", "https"]))
    return session


def _submit(browser: requests.Session, page: requests.Response, **fields: str) -> requests.Response:
    """Presses a button of a page's form."""
    form = re.search(r'<form method="post" action="([^"]+)"', page.text)
    if form is None:
        raise click.ClickException(f"There is no form on the page '{_heading(page.text)}'.")
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    boxes = re.findall(r'<input type="checkbox" name="([^"]+)"[^>]* value="([^"]*)" checked', page.text)
    answer = browser.post(
        urljoin(page.url, form[1]), data=[*hidden.items(), *boxes, *fields.items()], timeout=60
    )
    answer.raise_for_status()
    return answer


def _heading(page: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    return html.unescape(found[1]) if found else "a page without heading"
