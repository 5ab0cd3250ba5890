"""One FHIR server under one access token: reads with retries, all pages, writes exactly once.

fhirclient's ``FHIRServer`` is the transport; every request of it goes through ``_once`` here, which adds
what it lacks: time-outs, a size limit, bounded retries for reads, one tree of errors with the
OperationOutcome's words, and the rule that the token and our requests stay on the configured server.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import msgspec
import requests
import structlog
from fhirclient.server import FHIRServer
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
)

from .errors import BadAnswer, Busy, Dropped, EhrError, ForeignLink, TimedOut, Unreachable, refusal

MEDIA_TYPE = "application/fhir+json"

Params = Mapping[str, str | Iterable[str]]
_Kind = TypeVar("_Kind")

# Statuses after which a read may be tried again; nothing else is.
_TRY_AGAIN = frozenset({429, 502, 503, 504})
_REFERENCE = re.compile(r"[A-Za-z]{1,64}/[A-Za-z0-9\-.]{1,64}")
_LOCATION = re.compile(r"([A-Za-z]+/[A-Za-z0-9\-.]{1,64})(?:/_history/([^/?#]{1,64}))?$")
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Seconds. Gateways send the time of day as a number (1764326400, or in milliseconds) where the number of
# seconds belongs, and charges would wait for decades. Asking once an hour harms no EHR that means it.
LONGEST_PAUSE = 3600.0


@dataclass(frozen=True, slots=True)
class Created:
    """What the EHR said to a write: 201 it is new, 200 it was there already (or was updated)."""

    status: int
    location: str | None  # "ChargeItem/123"
    version: str | None
    body: bytes  # empty where the EHR sends none
    request_id: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: its entries as the EHR sent them, and where the next one is."""

    entries: tuple[msgspec.Raw, ...]
    next: str | None
    size: int  # bytes, as it was read


class Server(FHIRServer):  # type: ignore[misc] # fhirclient is untyped
    """A FHIR R4 server, reached with one access token.

    ``http`` may be shared with other servers and threads: nothing of ours is stored on it, the token
    goes along with each request. Times are seconds. ``clock`` gives an aware datetime, ``sleep`` waits
    between tries of a read, ``jitter`` gives a number from 0 to 1.
    """

    def __init__(
        self,
        base_url: str,
        access_token: str,
        http: requests.Session,
        *,
        connect_timeout: float = 5.0,
        read_timeout: float = 20.0,
        retries: int = 2,
        backoff: float = 0.2,
        longest_wait: float = 5.0,
        max_pages: int = 50,
        max_bytes: int = 20_000_000,
        max_bytes_of_search: int = 32_000_000,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        # Not fhirclient's own constructor: it opens a session for each server, and we bring one that is open.
        self.client = self.auth = self._capability = None
        self.base_uri = base_url if base_url.endswith("/") else f"{base_url}/"
        self.aud = base_url
        self.session = http
        self._token = access_token
        self._timeout = (connect_timeout, read_timeout)
        self._retries = retries
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._max_pages = max_pages
        self._max_bytes = max_bytes
        self._max_bytes_of_search = max_bytes_of_search
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._jitter = jitter
        self._sent_ahead: dict[str, requests.PreparedRequest] = {}  # by address

    def __repr__(self) -> str:
        return f"Server({self.base_uri!r})"

    # What the rest of fhir/ calls

    def read(self, reference: str) -> bytes:
        """The resource at a relative reference, ``Encounter/E1``, as the EHR sent it. Raises ``EhrError``."""
        if not _REFERENCE.fullmatch(reference):
            raise ForeignLink(
                "The chart points to a record outside this EHR, which we do not follow. "
                "Open Quarterhour again from the visit."
            )
        return bytes(self.request_data(reference))

    def send_ahead(self, reference: str) -> None:
        """Sends the request of ``read`` off, where the session can: ``read`` then waits for its answer. Never raises."""
        send_ahead = getattr(self.session, "send_ahead", None)
        if send_ahead is None or not _REFERENCE.fullmatch(reference):
            return
        with suppress(EhrError, requests.RequestException):  # told by the read
            url = self._own(reference)
            request = self._prepared("GET", url, {"X-Request-Id": _new_request_id()}, None, signed=True)
            if send_ahead(request):
                self._sent_ahead[url] = request

    def search(self, resource_type: str, params: Params) -> list[msgspec.Raw]:
        """Every entry of every page, each as the EHR sent it and not looked into. Raises ``EhrError``.

        ``next`` links are followed on this server only (https://hl7.org/fhir/R4/http.html#paging); more
        than ``max_pages``, a link back to a page already read, or more than ``max_bytes_of_search`` in all
        (an entry keeps its whole page in memory) is a ``BadAnswer``: half a list would pass for a whole one.
        """
        entries: list[msgspec.Raw] = []
        size = 0
        for page in self.pages(resource_type, params):
            size += page.size
            if size > self._max_bytes_of_search:
                raise BadAnswer(
                    f"The EHR's list of {resource_type} is larger than {self._max_bytes_of_search:,} bytes. "
                    "Nothing was left out silently: tell your administrator."
                )
            entries += page.entries
        return entries

    def pages(self, resource_type: str, params: Params, *, at: str | None = None) -> Iterator[Page]:
        """The same page by page, so that a long list needs little memory. ``at`` goes on with that ``next``."""
        path = at or f"{resource_type}?{urlencode(_pairs(params))}"
        seen: set[str] = set()
        while True:
            bundle, size = self._page(path, resource_type)
            seen.add(path)
            link = next(
                (link.url for link in bundle.link or () if link.relation == "next" and link.url), None
            )
            following = urljoin(str(self.base_uri), link) if link else None
            if following in seen or (following and len(seen) == self._max_pages):
                raise BadAnswer(
                    f"The EHR's list of {resource_type} does not end after {len(seen)} pages. "
                    "Nothing was left out silently: tell your administrator."
                )
            yield Page(tuple(bundle.entry or ()), following, size)
            if following is None:
                return
            path = following

    def create(self, resource: Mapping[str, Any], if_none_exist: str | None = None) -> Created:
        """POST a resource once. Never retried: ``TimedOut``, ``Dropped``, ``BadAnswer`` and ``ServerFailed``
        leave open whether it was carried out.

        ``if_none_exist`` is the query of a conditional create
        (https://hl7.org/fhir/R4/http.html#ccreate), for example ``identifier=system|value``.
        """
        headers = {"Prefer": "return=representation"}
        if if_none_exist is not None:
            headers["If-None-Exist"] = if_none_exist
        return self._write("POST", resource["resourceType"], resource, headers)

    def update(self, resource: Mapping[str, Any], version: str | None) -> Created:
        """PUT a resource once over the version that was read; a newer one is a ``Conflict``.

        Without a version (a server without ETags) there is no protection, and the caller says so.
        """
        headers = {"Prefer": "return=representation"}
        if version is not None:
            headers["If-Match"] = f'W/"{version}"'
        return self._write("PUT", f"{resource['resourceType']}/{resource['id']}", resource, headers)

    def operate(self, path: str, parameters: Mapping[str, Any]) -> Created:
        """POST to an operation (https://hl7.org/fhir/R4/operations.html), once, as ``create`` does."""
        return self._write("POST", path, parameters, {})

    def delete(self, reference: str) -> None:
        """DELETE the resource at a relative reference, once. ``NotFound``: it is gone already."""
        if not _REFERENCE.fullmatch(reference):
            raise ForeignLink("Only a record of this EHR can be deleted. Tell your administrator.")
        self.delete_json(reference)

    def transact(self, bundle: Mapping[str, Any]) -> bytes:
        """POST a transaction Bundle to the base, once; its whole answer. Raises as ``create`` does."""
        base = str(self.base_uri).rstrip("/")
        return self._write("POST", base, bundle, {"Prefer": "return=representation"}).body

    @staticmethod
    def located(address: str) -> tuple[str, str | None] | None:
        """Reference and version in a Location; None where there are none."""
        found = _LOCATION.search(address.rstrip("/"))
        return (found[1], found[2]) if found else None

    # fhirclient's transport, led through _once

    def _get(
        self, path: str, headers: Mapping[str, str] | None = None, nosign: bool = False
    ) -> requests.Response:
        """A read, tried again after a lost connection or a busy server, at most ``retries`` times."""
        url = self._own(path)
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = self._once("GET", url, {**(headers or {})}, signed=not nosign)
            except (Unreachable, Dropped) as error:
                if last or isinstance(error, Busy):
                    raise
                wait = None
            else:
                if response.status_code not in _TRY_AGAIN or last:
                    break
                wait = self._retry_after(response)
            if wait is not None and wait > self._longest_wait:
                break
            self._sleep(self._backoff * 2**attempt * (0.5 + self._jitter() / 2) if wait is None else wait)
        self.raise_for_status(response)
        return response

    def post_json(
        self, path: str, resource_json: Mapping[str, Any], nosign: bool = False
    ) -> requests.Response:
        """A write, tried once."""
        return self._send("POST", path, resource_json, {}, signed=not nosign)

    def put_json(
        self, path: str, resource_json: Mapping[str, Any], nosign: bool = False
    ) -> requests.Response:
        """A write, tried once."""
        return self._send("PUT", path, resource_json, {}, signed=not nosign)

    def delete_json(self, path: str, nosign: bool = False) -> requests.Response:
        """Tried once."""
        response = self._once("DELETE", self._own(path), {}, signed=not nosign)
        self.raise_for_status(response)
        return response

    def raise_for_status(self, response: requests.Response) -> None:
        """Raise the ``Refused`` of a status of 400 or over, with the OperationOutcome's words."""
        if response.status_code >= requests.codes.bad_request:
            raise refusal(
                response.status_code,
                self._what(response.url),
                words_of(response.content),
                request_id=_request_id(response),
                retry_after=self._retry_after(response),
            )

    # One request

    def _write(
        self, method: str, path: str, resource: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Created:
        response = self._send(method, path, resource, headers, signed=True)
        body = response.content
        if body.strip():
            _json(body, _Head, self._what(response.url), _request_id(response))
        located = _LOCATION.search(response.headers.get("Location", "").rstrip("/"))
        etag = re.fullmatch(r'(?:W/)?"([^"]{1,64})"', response.headers.get("ETag", "").strip())
        return Created(
            status=response.status_code,
            location=located[1] if located else None,
            version=etag[1] if etag else located[2] if located else None,
            body=body,
            request_id=_request_id(response),
        )

    def _send(
        self, method: str, path: str, resource: Mapping[str, Any], headers: Mapping[str, str], *, signed: bool
    ) -> requests.Response:
        response = self._once(
            method,
            self._own(path),
            {"Content-Type": MEDIA_TYPE, **headers},
            body=msgspec.json.encode(resource),
            signed=signed,
        )
        self.raise_for_status(response)
        return response

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | None = None,
        signed: bool,
    ) -> requests.Response:
        """One request, its answer read whole.

        Raises ``Unreachable`` (nothing was sent), ``TimedOut``, ``Dropped`` or ``BadAnswer``.
        """
        request_id = _new_request_id()
        deadline = self._monotonic() + sum(self._timeout)
        try:
            sent = self._sent_ahead.pop(url, None) if method == "GET" and signed else None
            request = sent or self._prepared(
                method, url, {"X-Request-Id": request_id, **headers}, body, signed=signed
            )
            request_id = request.headers["X-Request-Id"]
            response = self.session.send(request, timeout=self._timeout, allow_redirects=False, stream=True)
            with response:
                self._read_whole(response, deadline, request_id)
        except EhrError:
            raise
        except requests.RequestException as error:
            raise _transport_error(error, request_id) from error
        if requests.codes.multiple_choices <= response.status_code < requests.codes.bad_request:
            raise ForeignLink(
                "The EHR sent us on to another address, which we do not follow. "
                "Ask your administrator to correct the EHR's address in the settings.",
                request_id=request_id,
            )
        return response

    def _prepared(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, *, signed: bool
    ) -> requests.PreparedRequest:
        # Prepared here and not by the session: half the cost, and nothing of the environment
        # (proxies, .netrc, CA bundles) that the session was not given on purpose.
        sent = {**self.session.headers, "Accept": MEDIA_TYPE, **headers}
        if signed:
            sent["Authorization"] = f"Bearer {self._token}"
        return requests.Request(method, url, headers=sent, data=body).prepare()

    def _read_whole(self, response: requests.Response, deadline: float, request_id: str) -> None:
        """Read the body under the size limit and the deadline; a slow drip is no answer either."""
        content = bytearray()
        for chunk in response.iter_content(64 * 1024):
            content += chunk
            if len(content) > self._max_bytes:
                raise BadAnswer(
                    f"The EHR's answer is larger than {self._max_bytes:,} bytes. Tell your administrator.",
                    request_id=request_id,
                )
            if self._monotonic() > deadline:
                raise TimedOut(
                    "The EHR's answer did not arrive in time. Try again in a few minutes.",
                    request_id=request_id,
                )
        response._content = bytes(content)  # noqa: SLF001 - where requests keeps a body that was read
        response._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001

    def _page(self, path: str, what: str) -> tuple[_Bundle, int]:
        response = self._get(path)
        bundle = _json(response.content, _Bundle, what, _request_id(response))
        if bundle.resource_type != "Bundle":
            raise BadAnswer(
                f"The EHR answered a search for {what} with something else. Tell your administrator.",
                request_id=_request_id(response),
                words=words_of(response.content),
            )
        return bundle, len(response.content)

    def _own(self, path: str) -> str:
        """The address on this server, or ``ForeignLink``: same origin, below the same path, no way up.

        HAPI's next links are ``base?_getpages=...``: the base itself without its last slash is ours too.
        """
        url = urljoin(str(self.base_uri), path)
        base, link = urlsplit(str(self.base_uri)), urlsplit(url)
        segments = unquote(unquote(link.path)).replace("\\", "/").split("/")
        try:
            own = (
                _origin(link) == _origin(base)
                and "@" not in link.netloc
                and ".." not in segments
                and (link.path + "/").startswith(base.path)
            )
        except ValueError:  # a port that is no number
            own = False
        if not own:
            raise ForeignLink(
                "The EHR's list goes on at another address, which we do not follow. "
                "Ask your administrator to correct the EHR's paging links or its address in the settings."
            )
        return url

    def _what(self, url: str) -> str:
        """The resource type in an address of ours, for a message."""
        rest = urlsplit(url).path.removeprefix(urlsplit(str(self.base_uri)).path)
        return rest.split("/")[0] or "record"

    def _retry_after(self, response: requests.Response) -> float | None:
        """Seconds for which the EHR asks us to wait; None where it does not say."""
        return asked_to_wait(response.headers.get("Retry-After", ""), self._clock())


def asked_to_wait(retry_after: str, now: datetime) -> float | None:
    """The seconds of a Retry-After (RFC 9110 section 10.2.3: a number or a date), at most ``LONGEST_PAUSE``.

    None where it says nothing that can be read. Never raises.
    """
    value = retry_after.strip()
    try:
        if value.isdecimal():
            seconds = float(value)
        else:
            until = parsedate_to_datetime(value)
            seconds = ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):  # a zone of more hours than there are
        return None
    return min(max(0.0, seconds), LONGEST_PAUSE)


class _Head(msgspec.Struct, rename="camel"):
    resource_type: str


class _Link(msgspec.Struct):
    relation: str | None = None
    url: str | None = None


class _Bundle(msgspec.Struct, rename="camel"):
    resource_type: str
    link: list[_Link] | None = None
    entry: list[msgspec.Raw] | None = None


class _IssueDetails(msgspec.Struct):
    text: str | None = None


class _Issue(msgspec.Struct):
    details: _IssueDetails | None = None
    diagnostics: str | None = None


class _OperationOutcome(msgspec.Struct, rename="camel"):
    resource_type: str
    issue: list[_Issue] = []


def words_of(body: bytes) -> tuple[str, ...]:
    """What an OperationOutcome says, issue by issue; empty for anything else."""
    try:
        outcome = msgspec.json.decode(body, type=_OperationOutcome)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()
    said = [
        text
        for issue in outcome.issue
        for text in (issue.details.text if issue.details else None, issue.diagnostics)
        if text
    ]
    return tuple(dict.fromkeys(said)) if outcome.resource_type == "OperationOutcome" else ()


def _json(body: bytes, kind: type[_Kind], what: str, request_id: str) -> _Kind:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        shown = "a web page" if body.lstrip()[:1] == b"<" else "something that is not whole FHIR JSON"
        raise BadAnswer(
            f"The EHR answered for {what} with {shown}. Try again; if it stays so, tell your administrator.",
            request_id=request_id,
        ) from error


def _transport_error(error: requests.RequestException, request_id: str) -> EhrError:
    """Ours for theirs; what matters is whether the request can have arrived."""
    reason = error.args[0] if error.args else None
    if isinstance(reason, MaxRetryError):
        reason = reason.reason
    # requests makes one of its own only of urllib3's; without, our session did, before anything was sent.
    if isinstance(error, requests.ConnectTimeout) and not isinstance(reason, HTTPError):
        return Busy(request_id=request_id)
    # Other TLS errors may also come after the request was sent.
    bad_certificate = isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY" in str(error)
    if bad_certificate or isinstance(reason, NewConnectionError | ConnectTimeoutError):
        return Unreachable(
            "The EHR cannot be reached; nothing was sent. Try again in a few minutes.", request_id=request_id
        )
    if isinstance(error, requests.Timeout) or isinstance(reason, ReadTimeoutError):
        return TimedOut("The EHR did not answer in time. Try again in a few minutes.", request_id=request_id)
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Dropped(
            "The connection to the EHR broke off. Try again in a few minutes.", request_id=request_id
        )
    return BadAnswer(
        "The EHR's answer cannot be read. Try again; if it stays so, tell your administrator.",
        request_id=request_id,
    )


def _new_request_id() -> str:
    """One of its own for each request; it begins with the id of what it is made for, where that has one.

    So that the EHR's log and ours can be matched (https://hl7.org/fhir/R4/http.html#custom).
    """
    ours = structlog.contextvars.get_contextvars().get("request_id")
    return f"{ours}.{uuid.uuid4().hex[:12]}" if ours else str(uuid.uuid4())


def _request_id(response: requests.Response) -> str:
    return str(response.request.headers["X-Request-Id"])


def _origin(url: Any) -> tuple[str, str | None, int | None]:
    return url.scheme.lower(), url.hostname, url.port or _DEFAULT_PORTS.get(url.scheme.lower())


def _pairs(params: Params) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in params.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
