"""Running an installation: `serve`, its keys, and its audit trail."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click
import structlog
import waitress
from cryptography.fernet import Fernet

from ..core.library import MistakesFound
from ..launch.errors import IssuersInvalid
from ..launch.keys import SigningAlg, generate_key
from . import audit as trail
from .app import create_app
from .config import ConfigurationError, Settings, read_settings
from .installation import Installation, install


def log_as_json() -> None:
    """One JSON object a line on standard error; nothing in it comes from a chart."""
    # urllib3 would log the paths of requests, which hold ids of patients.
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _installed() -> Installation:
    try:
        return install(read_settings())
    except (ConfigurationError, IssuersInvalid, MistakesFound) as error:
        raise click.ClickException(str(error)) from None


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, help="The port to listen on.")
@click.option("--threads", default=16, show_default=True, help="Requests served at the same time.")
def serve(host: str, port: int, threads: int) -> None:
    """Run Quarterhour, behind a proxy that speaks TLS. Settings come from the environment: see README."""
    log_as_json()
    installation = _installed()
    waitress.serve(
        create_app(installation),
        host=host,
        port=port,
        threads=threads,
        url_scheme=installation.settings.public_url.partition(":")[0],
        ident="Quarterhour",
        **proxied(installation.settings),
    )


def proxied(settings: Settings) -> dict[str, Any]:
    """Whose word the server takes for where a request came from: the proxy's, or nobody's."""
    if settings.trusted_proxy is None:
        return {}
    return {"trusted_proxy": settings.trusted_proxy, "trusted_proxy_headers": {"x-forwarded-for"}}


@click.command()
def new_key() -> None:
    """Print a new key for QUARTERHOUR_SECRET_KEYS."""
    click.echo(Fernet.generate_key().decode())


@click.group()
def keys() -> None:
    """Keys for EHRs that know Quarterhour by private_key_jwt."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--alg", type=click.Choice(["RS384", "ES384"]), default="ES384", show_default=True)
def new(file: Path, alg: SigningAlg) -> None:
    """Write a new private key to FILE, readable by its owner alone. Never overwrites."""
    try:
        file.touch(mode=0o600, exist_ok=False)
        file.write_text(generate_key(alg))
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; a key is never overwritten.") from None


@click.group()
def audit() -> None:
    """The audit trail."""


@audit.command()
def verify() -> None:
    """Check that no entry was edited, removed or moved."""
    installation = _installed()
    with installation.engine.begin() as connection:
        broken = trail.broken_at(connection, installation.vault)
        count = len(trail.entries(connection, installation.vault)) if broken is None else 0
    installation.close()
    if broken is not None:
        raise click.ClickException(f"The trail is broken at entry {broken}.")
    click.echo(f"{count} entries, unbroken.")
