"""The way out to one EHR: short of time, short of trust, and with its connections kept open."""

from __future__ import annotations

import io
import ipaddress
import itertools
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from ssl import SSLContext
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
import requests
import structlog
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util.connection import create_connection
from urllib3.util.ssl_ import create_urllib3_context
from urllib3.util.timeout import Timeout

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
TLS_RECORD = 16 * 1024
PLACES = 10  # of the sixteen threads that serve requests: the others are for other EHRs, and for /health
PATIENCE = 2.0  # seconds to wait for a place
BUSY = "was not asked, since too many wait for a slow EHR already"
NO_PATIENCE = 5.0  # seconds without any, after somebody waited in vain

NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BodyTooLarge(requests.RequestException):
    """The body, once decompressed, is larger than we read."""


class AnswerTooSlow(requests.Timeout):
    """The answer was not whole when the time for it was over."""


class EhrBusy(requests.ConnectTimeout):
    """As many as may are waiting already, for this EHR or for all together; nothing was sent."""


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


class _Incoming(io.RawIOBase):
    """What a socket receives, all of it within one time-out, however slowly it drips.

    A socket's own time-out begins anew with each byte, so that a status line could take for ever.
    """

    def __init__(self, sock: socket.socket, received: io.RawIOBase) -> None:
        self._sock = sock
        self._received = received
        self._until = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._until))
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def _left(until: float) -> float:
    """Seconds; raises TimeoutError where there are none, since a socket takes zero for something else."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Answer(HTTPResponse):
    """Status line, headers and body within the time-out that the socket has when the request is sent."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Incoming(sock, self.fp.detach()))


class _Connection(HTTPConnection):
    """Each of connecting (with TLS), sending and answering ends at a time, whatever the other side does.

    Only the system's resolver, which looks the name up, has time-outs of its own.
    """

    response_class = _Answer
    public_only = False
    sent_ahead = False

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where ``Http.send_ahead`` has sent it already."""
        if not self.sent_ahead:
            super().request(*args, **kwargs)
        self.sent_ahead = False

    def _new_conn(self) -> socket.socket:
        """Connects to the very addresses that were checked, so a name cannot change its mind in between."""
        try:
            found = socket.getaddrinfo(self._dns_host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, socket.gaierror(str(error))) from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if self.public_only and not all(map(is_public, addresses)):
            raise AddressRefused(self, f"{self.host} leads to an address that is not public")
        until = time.monotonic() + float(self.timeout or 0.0)
        for address in addresses:
            try:
                connected = create_connection(
                    (address, self.port), _left(until), self.source_address, self.socket_options
                )
                connected.settimeout(max(until - time.monotonic(), 0.001))  # for the TLS handshake
            except TimeoutError as error:
                failure: Exception = ConnectTimeoutError(self, f"{self.host} did not answer in time")
                failure.__cause__ = error
            except OSError as error:
                failure = NewConnectionError(self, f"{self.host} cannot be reached: {error}")
            else:
                return connected
        raise failure

    def send(self, data: Any) -> None:
        """In pieces: TLS would give each of its records the whole time-out again."""
        if self.sock is None:
            self.connect()
        until = time.monotonic() + float(self.timeout or 0.0)
        for start in range(0, len(data), TLS_RECORD):
            self.sock.settimeout(_left(until))
            super().send(data[start : start + TLS_RECORD])


class _ConnectionTls(_Connection, HTTPSConnection):
    pass


class _PublicOnly(_Connection):
    public_only = True


class _PublicOnlyTls(_ConnectionTls):
    public_only = True


# The connection on which this thread's request was sent ahead.
_SENT_ON: ContextVar[_Connection | None] = ContextVar("sent_on", default=None)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection

    def _get_conn(self, timeout: float | None = None) -> Any:
        return _SENT_ON.get() or super()._get_conn(timeout)


class _TlsPool(_Pool, HTTPSConnectionPool):
    ConnectionCls = _ConnectionTls


class _PublicOnlyPool(_Pool):
    ConnectionCls = _PublicOnly


class _PublicOnlyTlsPool(_TlsPool):
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


# Whose place this thread holds, and those that it has set to work hold with it.
_PLACED: ContextVar[Http | None] = ContextVar("placed", default=None)


@dataclass(frozen=True, slots=True)
class Proof:
    """Headers and form members that say who we are to a token endpoint, made ahead for one request."""

    headers: dict[str, str] = field(repr=False)
    form: dict[str, str] = field(repr=False)
    made_at: datetime


class Http(requests.Session):
    """A ``requests.Session`` for one issuer, kept for the process's life and shared between threads.

    - No redirect is followed: a 3xx comes back as it is, and a caller treats it as a failure.
    - Timeouts on connecting and on the whole answer, however it drips; bodies up to 16 MiB decompressed.
    - Private, loopback and link-local addresses are refused when connecting, unless the issuer allows them.
    - No more than ``places`` threads wait for it at once, and no more than ``of_all`` for all EHRs together; one more
      is ``EhrBusy`` after a while.
    - No proxy, netrc or CA bundle from the environment; no cookie is kept, since users share the session.

    Failures are those of ``requests`` (``requests.RequestException``).
    """

    def __init__(
        self, issuer: Issuer, places: int = PLACES, of_all: threading.BoundedSemaphore | None = None
    ) -> None:
        super().__init__()
        self.trust_env = False
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers["User-Agent"] = "Quarterhour"
        self.default_timeout = (issuer.connect_timeout, issuer.read_timeout)
        self.signing_keys: dict[str, SigningKeys] = {}  # by jwks_uri; kept here to live as long as the pool
        self.keys_failed: dict[str, datetime] = {}  # by jku: when it could not be had
        self.proofs: dict[str, Proof] = {}  # by token endpoint
        self.warming: set[tuple[str, str, int]] = set()  # origins
        self._sent_ahead: WeakKeyDictionary[requests.PreparedRequest, _Connection] = WeakKeyDictionary()
        self._places = threading.BoundedSemaphore(places)
        self._of_all = of_all or threading.BoundedSemaphore(places)
        self._hopeless_until = 0.0
        # Told of each request: its status or failure, and the seconds it took.
        self.watch: Callable[[int | requests.RequestException, float], None] = lambda _outcome, _seconds: None
        self._adapter = adapter = _Adapter(str(issuer.ca_file or DEFAULT_CA_BUNDLE_PATH))
        private = issuer.allow_private_addresses
        adapter.poolmanager.pool_classes_by_scheme = {
            "http": _Pool if private else _PublicOnlyPool,
            "https": _TlsPool if private else _PublicOnlyTlsPool,
        }
        self.mount("https://", adapter)
        if issuer.allow_http:
            self.mount("http://", adapter)
        else:
            del self.adapters["http://"]

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As ``requests.Session.send``, with the limits above."""
        with self.place():
            return self._sent(request, **kwargs)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among those who may wait for this EHR, for all that is done within; raises ``EhrBusy``.

        Whoever holds one needs no other, nor do the threads that it starts in its context: what they do side
        by side must have a limit of its own. An EHR that is slow soon has nobody waiting for a place, so that
        they do not take the threads either.
        """
        if _PLACED.get() is self:
            yield
            return
        self._take(self._places)
        try:
            self._take(self._of_all)
            token = _PLACED.set(self)
            try:
                yield
            finally:
                _PLACED.reset(token)
                self._of_all.release()
        finally:
            self._places.release()

    def _take(self, places: threading.BoundedSemaphore) -> None:
        if not places.acquire(blocking=False):
            hopeless = time.monotonic() < self._hopeless_until
            if hopeless or not places.acquire(timeout=PATIENCE):
                if not hopeless:
                    self._hopeless_until = time.monotonic() + NO_PATIENCE
                raise EhrBusy("too many wait already")

    def _sent(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
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

    def send_ahead(self, request: requests.PreparedRequest) -> bool:
        """Sends a request on a connection that waits in the pool; ``send`` then only waits for its answer.

        For whoever has another thread wait, which need not be awake before the request is on its way, or something
        to do meanwhile. False where no connection is open, or the request could not be sent whole.
        """
        pool: Any = self._adapter.get_connection_with_tls_context(request, verify=True)
        connection = None
        _give_id(request)
        try:
            connection = pool._get_conn()  # noqa: SLF001  # urllib3 offers no other way
            connection.timeout = self.default_timeout[0]
            if connection.sock is not None:
                # As urllib3's own ``urlopen`` does for requests: the body comes as it was sent, when it is read.
                connection.request(
                    request.method,
                    request.path_url,
                    body=request.body,
                    headers=request.headers,
                    preload_content=False,
                    decode_content=False,
                )
                connection.sent_ahead = True
                self._sent_ahead[request] = connection
                return True
        except (OSError, HTTPError, HTTPException):  # told by ``send``
            if connection is not None:
                connection.close()
        if connection is not None:
            pool._put_conn(connection)  # noqa: SLF001
        return False

    def close(self) -> None:
        """Also what was sent ahead and nobody waited for."""
        super().close()
        for connection in tuple(self._sent_ahead.values()):
            connection.close()

    def begin(self, url: str, *, headers: Mapping[str, str]) -> requests.Response:
        """A GET up to the head of its answer; its connection is in use until ``read_whole``."""
        return self._begun(self.prepare_request(requests.Request("GET", url, headers=headers)))

    def _begun(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        kwargs["allow_redirects"] = False
        kwargs["stream"] = True
        _give_id(request)
        connect, read = kwargs.get("timeout") or self.default_timeout
        kwargs["timeout"] = Timeout(connect=connect, read=read, total=connect + read)
        token = _SENT_ON.set(self._sent_ahead.pop(request, None))
        try:
            return super().send(request, **kwargs)
        finally:
            _SENT_ON.reset(token)

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
        body = bytearray()
        try:
            while chunk := response.raw.read1(CHUNK, decode_content=True):
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise BodyTooLarge(f"over {LARGEST_BODY} bytes", response=response)
        except ReadTimeoutError as error:
            raise AnswerTooSlow("the answer did not end", response=response) from error
        except HTTPError as error:
            raise requests.ConnectionError(error, request=response.request) from error
        return bytes(body)


def _give_id(request: requests.PreparedRequest) -> None:
    """So that the EHR's log and ours can be matched."""
    ours = structlog.contextvars.get_contextvars().get("request_id")
    if ours:
        request.headers.setdefault("X-Request-Id", f"{ours}.{secrets.token_hex(6)}")


def open_http(issuer: Issuer, places: int = PLACES, of_all: threading.BoundedSemaphore | None = None) -> Http:
    """The one session for an issuer; open it once, keep it, close it when the process ends."""
    return Http(issuer, places, of_all)


def ask(
    http: Http, method: str, url: str, *, meanwhile: Callable[[], object] | None = None, **kwargs: Any
) -> requests.Response:
    """A request whose failure to be answered at all is ``EhrUnavailable``; 5xx and 429 are too.

    ``meanwhile`` is done while it is under way, where a connection is open, and else before.
    """
    try:
        # Prepared here and not by the session: half the cost, and nothing of the environment.
        headers = {**http.headers, **kwargs.pop("headers", {})}
        request = requests.Request(method, url, headers=headers, **kwargs).prepare()
        with http.place():
            if meanwhile is not None:
                http.send_ahead(request)
                meanwhile()
            response = http.send(request)
    except requests.RequestException as error:
        log.warning("ehr_unavailable", host=origin_of(url)[1], why=type(error).__name__)
        what = BUSY if isinstance(error, EhrBusy) else "did not answer"
        raise unavailable(origin_of(url)[1], what) from None
    if response.status_code >= 500 or response.status_code == 429:  # noqa: PLR2004
        log.warning("ehr_unavailable", host=origin_of(url)[1], status=response.status_code)
        raise unavailable(origin_of(url)[1], f"answered with HTTP {response.status_code}")
    return response


@contextmanager
def waiting_for(http: Http, url: str) -> Iterator[None]:
    """As ``Http.place``, for whoever has others read and waits for them; ``EhrUnavailable`` where there is none."""
    with ExitStack() as held:
        try:
            held.enter_context(http.place())
        except EhrBusy:
            log.warning("ehr_unavailable", host=origin_of(url)[1], why=EhrBusy.__name__)
            raise unavailable(origin_of(url)[1], BUSY) from None
        yield


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
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:  # the system gives no more threads: what follows is slower, no more
        all_answered.abort()
        http.warming.discard(origin)
        log.warning("warming_failed", host=origin[1], why=type(error).__name__)
        return ()
    return threads
