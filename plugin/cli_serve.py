"""Running an installation: `serve`."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from typing import Any

import click
import structlog
import waitress

from ..core.library import MistakesFound
from ..launch.errors import IssuersInvalid
from .app import create_app
from .config import ConfigurationError, Settings, read_settings
from .installation import Installation, install
from .worker import work

log = structlog.get_logger()

WORKERS = 2
GRACE = 25.0  # seconds for the steps at hand, within the thirty that container platforms wait
LARGEST_REQUEST = 1024 * 1024  # not even received; the application itself reads a quarter of that


class NoWordsOfOthers(logging.Handler):
    """What other people's code has to say, without its words: they may hold addresses, headers and names.

    Only that something was said, by whom and where, so that it can be looked up.
    """

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info and record.exc_info[0]
        log.warning(
            "library",
            logger=record.name,
            severity=record.levelname.lower(),
            where=f"{record.filename}:{record.lineno}",
            why=kind.__name__ if kind else None,
        )


def log_as_json() -> None:
    """One JSON object a line on standard error; nothing in it comes from a chart."""
    # urllib3 says every address, which holds ids of patients, and every header that it cannot read.
    of_requests = logging.getLogger("urllib3")
    of_requests.setLevel(logging.CRITICAL)
    of_requests.propagate = False
    # First here, so that nobody else's (waitress brings one) writes what any logger says.
    logging.basicConfig(handlers=[NoWordsOfOthers(logging.WARNING)])
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # the id of the request or job
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def thread_failed(failed: threading.ExceptHookArgs) -> None:
    """For ``threading.excepthook``: the kind of what ended a thread, where Python would write its message."""
    log.error("thread_failed", why=failed.exc_type.__name__)


def installed() -> Installation:
    """The installation that the environment describes, or the mistakes in it as the command's own error."""
    try:
        return install(read_settings())
    except (ConfigurationError, IssuersInvalid, MistakesFound) as error:
        raise click.ClickException(str(error)) from None


def settle_memory() -> None:
    """Once all is loaded: what is there now stays, so that it is not looked through for garbage again and again.

    That would hold up a request for 60 ms now and then. A page makes some 20,000 objects, nearly all of
    which are gone by themselves when it is done; to look for the others a few times a page is enough.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, help="The port to listen on.")
@click.option("--threads", default=16, show_default=True, help="Requests served at the same time.")
def serve(host: str, port: int, threads: int) -> None:
    """Run Quarterhour, behind a proxy that speaks TLS. Settings come from the environment: see README."""
    log_as_json()
    threading.excepthook = thread_failed
    installation = installed()
    installation.connections.share(threads)
    app = create_app(installation)
    settle_memory()
    stop = threading.Event()
    # Two, so that one slow EHR holds up no other; leases keep them apart, in other processes too.
    workers = [
        threading.Thread(target=work, args=(installation, stop), name=f"worker {number}", daemon=True)
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as container platforms end a process
    try:
        waitress.serve(
            app,
            host=host,
            port=port,
            threads=threads,
            url_scheme=installation.settings.public_url.partition(":")[0],
            ident="Quarterhour",
            max_request_body_size=LARGEST_REQUEST,
            **proxied(installation.settings),
        )
    finally:
        stop.set()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))


def proxied(settings: Settings) -> dict[str, Any]:
    """Whose word the server takes for where a request came from: the proxy's, or nobody's."""
    if settings.trusted_proxy is None:
        return {}
    return {"trusted_proxy": settings.trusted_proxy, "trusted_proxy_headers": {"x-forwarded-for"}}
