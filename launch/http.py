"""The way out to one EHR: short of time, short of trust, and with its connections kept open."""

from __future__ import annotations

import ipaddress
import itertools
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLContext
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import requests
import structlog
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection
from urllib3.util.ssl_ import create_urllib3_context

from .errors import EhrUnavailable
from .issuers import Issuer, origin_of

if TYPE_CHECKING:
    from .identity import SigningKeys

log = structlog.get_logger()

HOSTS = 4  # FHIR server, authorization server, signing keys, style sheet
CONNECTIONS_A_HOST = 32
LARGEST_BODY = 16 * 1024 * 1024  # a page of 500 Procedures is about half a megabyte
LARGEST_METADATA = 256 * 1024
CHUNK = 64 * 1024
WHOLE_ANSWER = 3  # times the read timeout, which by itself limits only each silence

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BodyTooLarge(requests.RequestException):
    """The body, once decompressed, is larger than we read."""


class AnswerTooSlow(requests.Timeout):
    """The body kept trickling in after the time for the whole answer."""


class AddressRefused(NewConnectionError):  # named for what happened
    """The host's name leads to an address that is not public."""


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, also where IPv6 only wraps an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class _PublicOnly(HTTPConnection):
    """Connects to the very addresses that it has checked, so a name cannot change its mind in between."""

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(map(is_public, addresses)):
            raise AddressRefused(self, f"{self.host} leads to an address that is not public")
        for address in addresses:
            try:
                return create_connection(
                    (address, self.port), self.timeout, self.source_address, self.socket_options
                )
            except TimeoutError as error:
                failure: Exception = ConnectTimeoutError(self, f"{self.host} did not answer in time")
                failure.__cause__ = error
            except OSError as error:
                failure = NewConnectionError(self, f"{self.host} cannot be reached: {error}")
        raise failure


class _PublicOnlyTls(_PublicOnly, HTTPSConnection):
    pass


class _PublicOnlyPool(HTTPConnectionPool):
    ConnectionCls = _PublicOnly


class _PublicOnlyTlsPool(HTTPSConnectionPool):
    ConnectionCls = _PublicOnlyTls


@cache
def _trust(authorities: str) -> SSLContext:
    """Reading the usual bundle takes 35 ms, which requests would spend on each new connection."""
    context = create_urllib3_context()  # verifies certificate and host name
    context.load_verify_locations(authorities)
    return context


class _Adapter(HTTPAdapter):
    """Every server is verified against the same authorities, read once; nobody can ask for less."""

    def __init__(self, authorities: str) -> None:
        self.pool_settings = {"ssl_context": _trust(authorities), "cert_reqs": "CERT_REQUIRED"}
        super().__init__(pool_connections=HOSTS, pool_maxsize=CONNECTIONS_A_HOST)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> tuple[Any, Any]:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, self.pool_settings

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing to add to the pool's own trust."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Headers and form members that say who we are to a token endpoint, made ahead for one request."""

    headers: dict[str, str] = field(repr=False)
    form: dict[str, str] = field(repr=False)
    made_at: datetime


class Http(requests.Session):
    """A ``requests.Session`` for one issuer, kept for the process's life and shared between threads.

    - No redirect is followed: a 3xx comes back as it is, and a caller treats it as a failure.
    - Timeouts on connecting, on each silence and on the whole answer; bodies up to 16 MiB decompressed.
    - Private, loopback and link-local addresses are refused when connecting, unless the issuer allows them.
    - No proxy, netrc or CA bundle from the environment; no cookie is kept, since users share the session.

    Failures are those of ``requests`` (``requests.RequestException``).
    """

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["User-Agent"] = "Quarterhour"
        self.default_timeout = (issuer.connect_timeout, issuer.read_timeout)
        self.signing_keys: dict[str, SigningKeys] = {}  # by jwks_uri; kept here to live as long as the pool
        self.keys_failed: dict[str, datetime] = {}  # by jku: when it could not be had
        self.proofs: dict[str, Proof] = {}  # by token endpoint
        self.warming: set[tuple[str, str, int]] = set()  # origins
        # Told of each request: its status or failure, and the seconds it took.
        self.watch: Callable[[int | requests.RequestException, float], None] = lambda _outcome, _seconds: None
        self._adapter = adapter = _Adapter(str(issuer.ca_file or DEFAULT_CA_BUNDLE_PATH))
        if not issuer.allow_private_addresses:
            adapter.poolmanager.pool_classes_by_scheme = {
                "http": _PublicOnlyPool,
                "https": _PublicOnlyTlsPool,
            }
        self.mount("https://", adapter)
        if issuer.allow_http:
            self.mount("http://", adapter)
        else:
            del self.adapters["http://"]

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As ``requests.Session.send``, with the limits above."""
        begun = time.perf_counter()
        outcome: int | requests.RequestException | None = None
        try:
            response = self.read_whole(self._begun(request, **kwargs))
            outcome = response.status_code
        except requests.RequestException as error:
            outcome = error
            raise
        else:
            return response
        finally:
            if outcome is not None:
                self.watch(outcome, time.perf_counter() - begun)

    def begin(self, url: str, *, headers: Mapping[str, str]) -> requests.Response:
        """A GET up to the head of its answer; its connection is in use until ``read_whole``."""
        return self._begun(self.prepare_request(requests.Request("GET", url, headers=headers)))

    def _begun(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        kwargs["allow_redirects"] = False
        kwargs["stream"] = True
        ours = structlog.contextvars.get_contextvars().get("request_id")
        if ours:  # so that the EHR's log and ours can be matched
            request.headers.setdefault("X-Request-Id", f"{ours}.{secrets.token_hex(6)}")
        kwargs["timeout"] = kwargs.get("timeout") or self.default_timeout
        return super().send(request, **kwargs)

    def read_whole(self, response: requests.Response) -> requests.Response:
        """The response with its body, read within the limits above."""
        try:
            # requests has no limit of its own; these two attributes are how it marks a body as read.
            response._content = self._body(response)  # noqa: SLF001
            response._content_consumed = True  # type: ignore[attr-defined]  # noqa: SLF001
        except BaseException:
            response.raw.close()
            raise
        response.close()
        return response

    def are_open(self, url: str, n: int) -> bool:
        """Whether n connections to the origin of ``url`` wait in the pool, none of them closed by the EHR."""
        pool = self._adapter.poolmanager.connection_from_url(url, self._adapter.pool_settings)
        # Taken out, looked at and put back: a connection that another thread uses must not be touched.
        waiting = []
        with suppress(queue.Empty):
            while True:
                waiting.append(pool.pool.get_nowait())
        found = [connection for connection in waiting if connection is not None]
        alive = [connection for connection in found if connection.is_connected]
        for connection in found:
            if connection not in alive:
                connection.close()
        # The pool hands out the last first, so the empty places, with which it starts, go below.
        for connection in [None] * (len(waiting) - len(alive)) + alive:
            pool._put_conn(connection)  # noqa: SLF001  # urllib3 offers no other way
        return len(alive) >= n

    def _body(self, response: requests.Response) -> bytes:
        deadline = time.monotonic() + WHOLE_ANSWER * self.default_timeout[1]
        body = bytearray()
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=True):
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise BodyTooLarge(f"over {LARGEST_BODY} bytes", response=response)
                if time.monotonic() > deadline:
                    raise AnswerTooSlow("the answer did not end", response=response)
        except HTTPError as error:
            raise requests.ConnectionError(error, request=response.request) from error
        return bytes(body)


def open_http(issuer: Issuer) -> Http:
    """The one session for an issuer; open it once, keep it, close it when the process ends."""
    return Http(issuer)


def ask(http: Http, method: str, url: str, **kwargs: Any) -> requests.Response:
    """A request whose failure to be answered at all is ``EhrUnavailable``; 5xx and 429 are too."""
    try:
        # Prepared here and not by the session: half the cost, and nothing of the environment.
        headers = {**http.headers, **kwargs.pop("headers", {})}
        response = http.send(requests.Request(method, url, headers=headers, **kwargs).prepare())
    except requests.RequestException as error:
        log.warning("ehr_unavailable", host=origin_of(url)[1], why=type(error).__name__)
        raise unavailable(origin_of(url)[1], "did not answer") from None
    if response.status_code >= 500 or response.status_code == 429:  # noqa: PLR2004
        log.warning("ehr_unavailable", host=origin_of(url)[1], status=response.status_code)
        raise unavailable(origin_of(url)[1], f"answered with HTTP {response.status_code}")
    return response


def unavailable(host: str, what: str) -> EhrUnavailable:
    return EhrUnavailable(
        f"The EHR's server {host} {what}.",
        advice="Wait a minute, then open Quarterhour again from the patient's chart.",
    )


Document = TypeVar("Document")


def read_json(
    response: requests.Response, shape: type[Document], *, largest: int = LARGEST_METADATA
) -> Document:
    """A body as a typed value; ValueError for whatever is too large, too deep, not JSON or of another shape.

    The message names the place in the document and never what stood there.
    """
    if len(response.content) > largest:
        raise ValueError(f"the answer is over {largest} bytes")
    try:
        return msgspec.json.decode(response.content, type=shape)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("the answer is not UTF-8") from None


def warm(http: Http, url: str, n: int) -> tuple[Thread, ...]:
    """Sees that n connections to the origin of ``url`` are open, by n simultaneous GETs in the background.

    For the time the browser is at the authorization page: connecting and a TLS handshake cost two round
    trips, which the clinician would otherwise wait for. Nothing is asked where n are open already, and while
    an origin is being warmed it is not warmed again. Failures are logged and otherwise ignored. The threads
    are returned for whoever wants to wait.
    """
    origin = origin_of(url)
    if origin in http.warming or http.are_open(url, n):
        return ()
    http.warming.add(origin)
    all_answered = threading.Barrier(n)
    finished = itertools.count(1)

    def touch() -> None:
        try:
            response = http.begin(url, headers={"Accept": "application/json"})
            # An answer that is read gives its connection back, and the next request would use that one.
            with suppress(threading.BrokenBarrierError):
                all_answered.wait(timeout=http.default_timeout[1])
            http.read_whole(response)
        except requests.RequestException as error:
            all_answered.abort()
            log.info("warming_failed", host=origin[1], why=type(error).__name__)
        finally:
            if next(finished) == n:
                http.warming.discard(origin)

    threads = tuple(Thread(target=copy_context().run, args=(touch,), daemon=True) for _ in range(n))
    for thread in threads:
        thread.start()
    return threads
