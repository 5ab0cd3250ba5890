"""The way out, over real loopback HTTP: its limits, and its connections."""

import gzip
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from zoneinfo import ZoneInfo

import pytest
import requests
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from quarterhour.fhir.chart import AT_ONCE, SIDE_BY_SIDE, begin_chart, finish_chart
from quarterhour.fhir.errors import BadAnswer, Busy, ForeignLink, TimedOut
from quarterhour.fhir.server import Server as FhirServer
from quarterhour.fhir.site import ChartSettings
from quarterhour.launch.errors import EhrUnavailable
from quarterhour.launch.http import (
    LARGEST_BODY,
    PLACES,
    BodyTooLarge,
    EhrBusy,
    ask,
    is_public,
    open_http,
    waiting_for,
    warm,
)
from quarterhour.plugin.sessions import RenewingServer

SOON = 0.5  # seconds


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer):
        self.answer = answer
        self.connections = 0
        self.requests = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        self.server.answer(self)

    def reply(self, body=b"{}", status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serving():
    running = []

    def serve(answer=Handler.reply):
        server = Server(answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def opened(an_issuer):
    sessions = []

    def open_(**changes):
        development = {"iss": "http://127.0.0.1/fhir", "allow_http": True, "allow_private_addresses": True}
        session = open_http(an_issuer(**(development | changes)))
        sessions.append(session)
        return session

    yield open_
    for session in sessions:
        session.close()


@pytest.fixture
def certificate(tmp_path):
    """A server's certificate for 127.0.0.1, signed by nobody but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ehr")])
    today = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ehr.pem").write_bytes(signed.public_bytes(Encoding.PEM) + encoded)
    return tmp_path / "ehr.pem"


def test_02_a_server_is_authenticated_against_the_authority_that_the_operator_names(
    serving, opened, certificate
):
    server = serving()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    with pytest.raises(requests.exceptions.SSLError):
        opened().get(url)
    assert opened(ca_file=certificate).get(url).status_code == 200
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "::", "::1", "fe80::1", "fe80::1%eth0"),
        *("fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"),
    ],
)
def test_10_an_address_that_is_not_public_is_known_as_such(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_10_a_public_address_is_known_as_such(address):
    assert is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"])
def test_10_private_addresses_are_refused_before_any_connection(serving, opened, host):
    server = serving()
    http = opened(allow_private_addresses=False)
    with pytest.raises(requests.ConnectionError):
        http.get(f"http://{host}:{server.server_port}/")
    assert server.connections == 0


@pytest.mark.parametrize("second", ["127.0.0.1", "93.184.216.34"])
def test_10_a_name_that_leads_to_a_private_address_is_refused(serving, opened, monkeypatch, second):
    server = serving()

    def rebound(host, port, *_, **__):
        addresses = ("127.0.0.1", second)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    with pytest.raises(requests.ConnectionError, match="not public"):
        opened(allow_private_addresses=False).get(f"http://ehr.example:{server.server_port}/")
    assert server.connections == 0


def test_10_a_private_address_is_reached_where_the_operator_allows_it(serving, opened):
    assert opened().get(serving().url).json() == {}


def test_02_plain_http_is_not_even_possible_without_the_development_switch(serving, opened):
    server = serving()
    http = opened(iss="https://ehr.example/fhir", allow_http=False)
    with pytest.raises(requests.exceptions.InvalidSchema):
        http.get(server.url)
    assert server.connections == 0


def test_10_redirects_are_handed_back_and_not_followed(serving, opened):
    target = serving()
    for status in (301, 302, 303, 307, 308):
        server = serving(lambda self, status=status: self.reply(status=status, Location=target.url))
        assert opened().get(server.url, allow_redirects=True).status_code == status
    assert target.requests == []


def test_10_a_body_over_the_limit_is_refused(serving, opened):
    server = serving(lambda self: self.reply(b" " * (LARGEST_BODY + 1)))
    with pytest.raises(BodyTooLarge):
        opened().get(server.url)


def test_10_a_body_at_the_limit_is_read(serving, opened):
    server = serving(lambda self: self.reply(b" " * LARGEST_BODY))
    assert len(opened().get(server.url).content) == LARGEST_BODY


def test_10_a_gzip_bomb_is_refused_by_what_it_unpacks_to(serving, opened):
    bomb = gzip.compress(b" " * (LARGEST_BODY * 4))
    assert len(bomb) < 100_000
    server = serving(lambda self: self.reply(bomb, Content_Encoding="gzip"))
    with pytest.raises(BodyTooLarge):
        opened().get(server.url)


def test_a_gzipped_body_is_unpacked(serving, opened):
    body = gzip.compress(b'{"a": "' + b"x" * 200_000 + b'"}')
    server = serving(lambda self: self.reply(body, Content_Encoding="gzip"))
    assert opened().get(server.url).json() == {"a": "x" * 200_000}


def test_a_chunked_body_is_read_and_its_connection_used_again(serving, opened):
    def chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b'3\r\n{"a\r\n4\r\n": 1\r\n1\r\n}\r\n0\r\n\r\n')

    server, http = serving(chunked), opened()
    assert [http.get(server.url).json() for _ in range(3)] == [{"a": 1}] * 3
    assert server.connections == 1


def test_a_broken_encoding_is_a_failed_connection(serving, opened):
    server = serving(lambda self: self.reply(b"not gzip", Content_Encoding="gzip"))
    with pytest.raises(requests.ConnectionError):
        opened().get(server.url)


def test_10_silence_ends_after_the_read_timeout(serving, opened):
    server = serving(lambda _: time.sleep(SOON * 3))
    started = time.monotonic()
    with pytest.raises(requests.ReadTimeout):
        opened(read_timeout=SOON).get(server.url)
    assert time.monotonic() - started < SOON * 2


class Drip:
    """An EHR by hand: once the request is there it sends ``first``, then ``again`` over and over."""

    def __init__(self, first, again, context=None):
        self.first, self.again, self.context = first, again, context
        self.over = threading.Event()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.listening.getsockname()[1]}/"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        try:
            peer, _ = self.listening.accept()
        except OSError:
            return
        with (
            suppress(OSError),
            peer if self.context is None else self.context.wrap_socket(peer, server_side=True) as connection,
        ):
            connection.recv(65536)
            connection.sendall(self.first)
            while not self.over.wait(SOON / 10):
                connection.sendall(self.again)

    def close(self):
        self.over.set()
        self.listening.close()
        self.thread.join()


@pytest.fixture
def dripping(certificate):
    running = []

    def drip(first, again, tls):
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
        running.append(Drip(first, again, context))
        return running[-1].url

    yield drip
    for each in running:
        each.close()


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (HEAD + b"X-Long: ", b"x"),
        (HEAD, b"X-Many: x\r\n"),
        (b"HTTP/1.1 100 Continue\r\nX-Interim: ", b"x"),
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: x\r\n"),
        (HEAD + b"Connection: close\r\n\r\n", b" "),
    ],
    ids=[
        *("status line", "a header", "headers", "an interim answer", "body", "chunk size", "chunk extension"),
        *("chunks", "trailers", "body to the end"),
    ],
)
def test_10_an_answer_that_only_drips_ends_wherever_it_drips(
    dripping, opened, certificate, first, again, tls
):
    http = opened(read_timeout=SOON * 2, ca_file=certificate)
    started = time.monotonic()
    with pytest.raises(requests.Timeout):
        http.get(dripping(first, again, tls))
    assert SOON < time.monotonic() - started < SOON * 4


def test_10_a_dripping_answer_is_an_ehr_that_is_unavailable_and_a_read_that_timed_out(dripping, opened):
    http = opened(read_timeout=SOON)
    with pytest.raises(EhrUnavailable, match="did not answer"):
        ask(http, "GET", dripping(HEAD, b"X", tls=False))
    ehr = FhirServer(dripping(HEAD, b"X", tls=False), "token", http, read_timeout=SOON)
    with pytest.raises(TimedOut):
        ehr.read("Encounter/E1")


def test_10_an_answer_that_drips_on_a_connection_used_before_ends_too(serving, opened):
    def drip(self):
        with suppress(OSError):
            self.wfile.write(HEAD)
            for _ in range(100):
                self.wfile.write(b"X-Many: x\r\n")
                time.sleep(SOON / 10)
        self.close_connection = True

    server, http = serving(), opened(read_timeout=SOON)
    http.get(server.url)
    server.answer = drip
    with pytest.raises(requests.Timeout):
        http.get(server.url)
    assert server.connections == 1
    server.answer = Handler.reply
    assert http.get(server.url).status_code == 200


def test_an_answer_that_takes_its_time_within_the_time_is_read(serving, opened):
    def slowly(self):
        for piece in (HEAD, b"Content-Length: 2\r\n\r\n", b"{", b"}"):
            time.sleep(SOON / 10)
            self.wfile.write(piece)

    server, http = serving(slowly), opened(read_timeout=SOON * 5)
    assert [http.get(server.url).json() for _ in range(2)] == [{}, {}]
    assert server.connections == 1


def test_10_a_tls_handshake_that_never_ends_is_given_up_with_connecting(dripping, opened):
    url = dripping(b"\x16\x03\x03\x40\x00", b"\x00", tls=False).replace("http:", "https:")
    started = time.monotonic()
    with pytest.raises(requests.RequestException):
        opened(connect_timeout=SOON).get(url)
    assert time.monotonic() - started < SOON * 3


@pytest.mark.parametrize("private", [True, False])
def test_10_all_addresses_of_a_name_share_one_time_for_connecting(opened, monkeypatch, private):
    tried = []

    def never(address, timeout, *_):
        tried.append(address)
        time.sleep(timeout)
        raise TimeoutError

    def many(_host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"8.8.8.{n}", port)) for n in range(20)]

    monkeypatch.setattr(socket, "getaddrinfo", many)
    monkeypatch.setattr("quarterhour.launch.http.create_connection", never)
    started = time.monotonic()
    with pytest.raises(requests.ConnectTimeout):
        opened(connect_timeout=SOON, allow_private_addresses=private).get("http://ehr.example/")
    assert time.monotonic() - started < SOON * 2
    assert len(tried) == 1


def test_10_an_ehr_that_does_not_take_what_is_sent_is_given_up(opened):
    body = b"x" * 20_000_000  # more than the system keeps on its way
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        started = time.monotonic()
        with pytest.raises(requests.RequestException):
            opened(connect_timeout=SOON).post(f"http://127.0.0.1:{deaf.getsockname()[1]}/", data=body)
        assert time.monotonic() - started < SOON * 4


@pytest.fixture
def held():
    """An answer that waits until the test is over, and how many wait for it."""
    waiting, gate = threading.Semaphore(0), threading.Event()

    def answer(self):
        waiting.release()
        gate.wait(10)
        self.reply()

    answer.waiting, answer.gate = waiting, gate
    yield answer
    gate.set()


def in_threads(do, n):
    threads = [threading.Thread(target=do) for _ in range(n)]
    for thread in threads:
        thread.start()
    return threads


def test_10_no_more_than_the_places_wait_for_one_ehr_and_another_is_asked_all_the_same(
    serving, opened, held, monkeypatch
):
    monkeypatch.setattr("quarterhour.launch.http.PATIENCE", SOON)
    slow, other, http = serving(held), serving(), opened()
    waiting = in_threads(lambda: http.get(slow.url), PLACES)
    assert all(held.waiting.acquire(timeout=5) for _ in waiting)
    started = time.monotonic()
    with pytest.raises(EhrBusy):
        http.get(slow.url)
    assert SOON <= time.monotonic() - started < SOON * 3
    assert len(slow.requests) == PLACES
    assert opened().get(other.url).status_code == 200
    held.gate.set()
    for thread in waiting:
        thread.join()
    assert http.get(slow.url).status_code == 200


def test_10_after_one_has_waited_in_vain_for_a_place_the_next_do_not_wait(serving, opened, held, monkeypatch):
    monkeypatch.setattr("quarterhour.launch.http.PATIENCE", SOON)
    slow, http = serving(held), opened()
    waiting = in_threads(lambda: http.get(slow.url), PLACES)
    assert all(held.waiting.acquire(timeout=5) for _ in waiting)
    with pytest.raises(EhrUnavailable, match="too many wait for a slow EHR already"):
        ask(http, "GET", slow.url)
    started = time.monotonic()
    with pytest.raises(Busy, match="nothing was sent"):
        FhirServer(slow.url, "token", http).read("Encounter/E1")  # nor is it tried again
    with pytest.raises(EhrUnavailable, match="too many wait"), waiting_for(http, slow.url):
        pass
    assert time.monotonic() - started < SOON
    held.gate.set()
    for thread in waiting:
        thread.join()


def test_who_finds_a_place_in_time_goes_on(serving, opened, held):
    server, http = serving(held), opened()
    waiting = in_threads(lambda: http.get(server.url), PLACES + 3)
    assert all(held.waiting.acquire(timeout=5) for _ in range(PLACES))
    held.gate.set()
    for thread in waiting:
        thread.join()
    assert len(server.requests) == PLACES + 3


def test_what_a_holder_of_a_place_sets_others_to_read_needs_no_further_one(serving, opened, held):
    server, http = serving(held), opened()
    with http.place():
        context = copy_context()
        reads = in_threads(lambda: context.copy().run(http.get, server.url), PLACES * 2)
        assert all(held.waiting.acquire(timeout=5) for _ in reads)
        held.gate.set()
        for thread in reads:
            thread.join()


def test_cookies_of_the_ehr_are_not_kept_for_the_next_user(serving, opened):
    server = serving(lambda self: self.reply(Set_Cookie="session=user-1; Path=/"))
    http = opened()
    http.get(server.url)
    http.get(server.url)
    assert "Cookie" not in server.requests[1][1]
    assert list(http.cookies) == []


def test_nothing_of_the_environment_changes_where_a_request_goes(serving, opened, monkeypatch, tmp_path):
    elsewhere, server = serving(), serving()
    monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.setenv("ALL_PROXY", elsewhere.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert opened().get(server.url).status_code == 200
    assert elsewhere.requests == []
    assert "Authorization" not in server.requests[0][1]


def test_warming_opens_the_connections_that_later_reads_use(serving, opened):
    def slowly(self):
        time.sleep(0.05)
        self.reply()

    server, http = serving(slowly), opened()
    for thread in warm(http, f"{server.url}/warm", 6):
        thread.join()
    assert server.connections == 6
    reads = [threading.Thread(target=http.get, args=(f"{server.url}/read",)) for _ in range(6)]
    for thread in reads:
        thread.start()
    for thread in reads:
        thread.join()
    assert server.connections == 6
    assert len(server.requests) == 12


def test_warming_twice_at_once_warms_once(serving, opened):
    gate = threading.Event()

    def gated(self):
        gate.wait(5)
        self.reply()

    server, http = serving(gated), opened()
    first = warm(http, server.url, 2)
    assert warm(http, server.url, 2) == ()
    gate.set()
    for thread in first:
        thread.join()


def test_what_is_warm_is_not_warmed_again_until_the_ehr_has_closed_a_connection(serving, opened):
    server, http = serving(), opened()
    for thread in warm(http, server.url, 3):
        thread.join()
    assert warm(http, server.url, 3) == ()
    assert len(server.requests) == 3

    def last_answer(self):
        self.close_connection = True
        self.reply()

    server.answer = last_answer
    http.get(server.url)
    server.answer = Handler.reply
    deadline = time.monotonic() + 5
    while not (again := warm(http, server.url, 3)) and time.monotonic() < deadline:
        time.sleep(0.01)  # until the end of that connection has arrived
    assert len(again) == 3
    for thread in again:
        thread.join()


def test_warming_an_ehr_that_is_down_fails_silently(serving, opened):
    server = serving()
    http = opened()
    url = server.url

    def hang_up(self):
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    server.answer = hang_up
    for thread in warm(http, url, 3):
        thread.join()
    assert http.warming == set()


@pytest.mark.parametrize(
    ("status", "raises"), [(499, False), (500, True), (503, True), (429, True), (428, False)]
)
def test_an_answer_that_says_the_ehr_is_unwell_is_unavailable(serving, opened, status, raises):
    server = serving(lambda self: self.reply(status=status))
    if raises:
        with pytest.raises(EhrUnavailable, match=f"HTTP {status}"):
            ask(opened(), "GET", server.url)
    else:
        assert ask(opened(), "GET", server.url).status_code == status


def test_a_host_that_cannot_be_reached_is_unavailable_and_its_address_not_shown(serving, opened):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/Patient/1?name=Doe"
        with pytest.raises(EhrUnavailable) as caught:
            ask(opened(), "GET", url)
    assert "Doe" not in str(caught.value)
    assert "Patient" not in str(caught.value)


# --- sent ahead ---------------------------------------------------------------------------------------------


@pytest.fixture
def a_read(opened, serving):
    """A server, a session with one connection open to it, and a read that was prepared for it."""

    def make(answer=Handler.reply, **changes):
        server, http = serving(), opened(**changes)
        http.get(f"{server.url}/before")
        server.answer = answer
        return server, http, requests.Request("GET", f"{server.url}/read").prepare()

    return make


def until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_sent_ahead_arrives_before_anybody_waits_and_once(a_read):
    server, http, read = a_read(lambda self: self.reply(b'{"here": 1}'))
    assert http.send_ahead(read)
    until(lambda: len(server.requests) == 2)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(http.send(read)))
    waiting.start()
    waiting.join()
    assert answers[0].content == b'{"here": 1}'
    assert [path for path, _ in server.requests] == ["/before", "/read"]
    assert server.connections == 1


def test_a_connection_on_which_something_was_sent_ahead_is_used_again(a_read):
    server, http, read = a_read()
    assert http.send_ahead(read)
    http.send(read)
    following = requests.Request("GET", f"{server.url}/next").prepare()
    assert http.send_ahead(following)
    http.get(f"{server.url}/other")
    until(lambda: len(server.requests) == 4)
    assert [path for path, _ in server.requests].count("/next") == 1
    assert server.connections == 2, "the other one does not get the connection whose answer is still to come"
    http.send(following)
    assert len(server.requests) == 4


def test_a_request_that_was_sent_ahead_is_sent_again_where_it_is_sent_a_second_time(a_read):
    server, http, read = a_read()
    assert http.send_ahead(read)
    http.send(read)
    http.send(read)
    assert [path for path, _ in server.requests] == ["/before", "/read", "/read"]


def test_what_was_sent_ahead_and_nobody_waits_for_is_closed_with_the_session(a_read):
    gone = threading.Event()

    def wait_for_the_end(self):
        if self.rfile.read(1) == b"":
            gone.set()

    _, http, read = a_read(wait_for_the_end)
    assert http.send_ahead(read)
    http.close()
    assert gone.wait(5)


def test_what_is_sent_ahead_names_the_request_it_is_made_for(a_read):
    server, http, read = a_read()
    with structlog.contextvars.bound_contextvars(request_id="0123456789abcdef"):
        assert http.send_ahead(read)
        http.send(read)
    assert server.requests[-1][1]["X-Request-Id"].startswith("0123456789abcdef.")


def test_something_is_done_while_an_answer_is_waited_for(serving, opened):
    server, http = serving(), opened()
    http.get(server.url)
    seen = []

    def meanwhile():
        until(lambda: len(server.requests) == 2)
        seen.append(server.requests[-1][0])

    assert ask(http, "GET", f"{server.url}/token", meanwhile=meanwhile).status_code == 200
    assert seen == ["/token"]
    assert len(server.requests) == 2


def test_a_body_that_was_sent_ahead_arrives_once(serving, opened, monkeypatch):
    bodies = []

    def post(self):
        bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply()

    monkeypatch.setattr(Handler, "do_POST", post, raising=False)
    server, http = serving(), opened()
    http.get(server.url)
    ask(http, "POST", f"{server.url}/token", data={"code": "c"}, meanwhile=lambda: until(lambda: bodies))
    assert bodies == [b"code=c"]


def test_something_to_do_meanwhile_is_done_before_where_no_connection_is_open(serving, opened):
    server, http = serving(), opened()
    seen = []
    ask(http, "GET", f"{server.url}/token", meanwhile=lambda: seen.append(len(server.requests)))
    assert (seen, len(server.requests)) == ([0], 1)


def test_10_nothing_is_sent_ahead_without_a_place(serving, opened, held, monkeypatch):
    monkeypatch.setattr("quarterhour.launch.http.PATIENCE", 0.01)
    slow, other, http = serving(held), serving(), opened()
    http.get(other.url)
    waiting = in_threads(lambda: http.get(slow.url), PLACES)
    assert all(held.waiting.acquire(timeout=5) for _ in waiting)
    with pytest.raises(EhrUnavailable):
        ask(http, "GET", f"{other.url}/token", meanwhile=lambda: None)
    assert len(other.requests) == 1
    held.gate.set()
    for thread in waiting:
        thread.join()


def test_nothing_is_sent_ahead_where_no_connection_is_open(serving, opened):
    server, http = serving(), opened()
    read = requests.Request("GET", f"{server.url}/read").prepare()
    assert not http.send_ahead(read)
    assert (server.connections, server.requests) == (0, [])
    assert http.send(read).status_code == 200
    assert len(server.requests) == 1


def test_nothing_is_sent_ahead_on_a_connection_that_the_ehr_has_closed(a_read):
    def last_answer(self):
        self.close_connection = True
        self.reply()

    server, http, read = a_read(last_answer)
    http.get(f"{server.url}/last")
    time.sleep(0.3)  # until the end of the connection has arrived
    assert not http.send_ahead(read)
    assert [path for path, _ in server.requests] == ["/before", "/last"]


def test_10_an_answer_to_what_was_sent_ahead_has_no_more_time_than_any(a_read):
    held = threading.Event()
    _, http, read = a_read(lambda _: held.wait(5), read_timeout=SOON)
    assert http.send_ahead(read)
    begun = time.monotonic()
    with pytest.raises(requests.Timeout):
        http.send(read)
    held.set()
    assert time.monotonic() - begun < 4 * SOON


def test_10_the_address_that_was_checked_is_the_one_that_is_asked_ahead(opened, serving):
    server = serving()
    http = opened(allow_private_addresses=False)
    read = requests.Request("GET", f"{server.url}/read").prepare()
    assert not http.send_ahead(read)
    assert server.connections == 0


def test_02_what_is_sent_ahead_goes_over_the_connection_that_was_authenticated(serving, opened, certificate):
    server = serving()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.url.replace("http://", "https://")
    http = opened(ca_file=certificate)
    http.get(f"{url}/before")
    read = requests.Request("GET", f"{url}/read").prepare()
    assert http.send_ahead(read)
    assert http.send(read).status_code == 200
    assert [path for path, _ in server.requests] == ["/before", "/read"]
    assert server.connections == 1


def test_a_read_of_fhir_waits_for_what_was_sent_ahead_of_it(serving, opened):
    server, http = serving(), opened()
    ehr = FhirServer(f"{server.url}/fhir", "token", http)
    ehr.read("Encounter/E0")
    ehr.send_ahead("Encounter/E1")
    until(lambda: len(server.requests) == 2)
    ehr.read("Encounter/E1")
    assert [path for path, _ in server.requests] == ["/fhir/Encounter/E0", "/fhir/Encounter/E1"]
    ehr.read("Encounter/E1")
    assert len(server.requests) == 3, "what was read once is asked for again"


def test_a_read_that_was_sent_ahead_is_tried_again_as_any_other(serving, opened):
    server, http = serving(), opened()
    ehr = FhirServer(f"{server.url}/fhir", "token", http, sleep=lambda _: None)
    ehr.read("Encounter/E0")

    def once_busy(self):
        self.server.answer = Handler.reply
        self.reply(status=503)

    server.answer = once_busy
    ehr.send_ahead("Encounter/E1")
    assert ehr.read("Encounter/E1") == b"{}"
    assert [path for path, _ in server.requests][1:] == ["/fhir/Encounter/E1"] * 2


def test_the_id_in_an_error_is_that_of_the_request_that_was_sent_ahead(serving, opened):
    server, http = serving(), opened()
    ehr = FhirServer(f"{server.url}/fhir", "token", http)
    ehr.read("Encounter/E0")
    server.answer = lambda self: self.reply(b"moved", 302, Location="/elsewhere")
    ehr.send_ahead("Encounter/E1")
    with pytest.raises(ForeignLink) as refused:
        ehr.read("Encounter/E1")
    assert refused.value.request_id == server.requests[-1][1]["X-Request-Id"]


def test_what_was_sent_ahead_with_the_token_before_is_asked_for_again_with_the_new_one(serving, opened):
    def knows_the_new_one(self):
        self.reply(status=200 if self.headers["Authorization"] == "Bearer new" else 401)

    server, http = serving(), opened()
    http.get(server.url)
    server.answer = knows_the_new_one
    ehr = RenewingServer(f"{server.url}/fhir", "old", http, renew=lambda: "new")
    ehr.send_ahead("Encounter/E1")
    ehr.read("Patient/P1")
    assert ehr.read("Encounter/E1") == b"{}"


def test_a_chart_that_finds_no_room_sends_nothing_ahead(serving, opened, held, monkeypatch):
    monkeypatch.setattr("quarterhour.fhir.chart.PATIENCE", 0.1)
    server, http = serving(), opened()
    for thread in warm(http, server.url, 1):
        thread.join()
    server.answer = held
    settings = ChartSettings(time_zone=ZoneInfo("America/New_York"))
    visit = {"patient": "P1", "encounter": "E1", "user": "Practitioner/T1"}
    with http.place():
        charts = [
            begin_chart(
                FhirServer(f"{server.url}/fhir", "token", http, retries=0),
                **visit,
                settings=settings,
                now=datetime.now(UTC),
            )
            for _ in range(AT_ONCE // SIDE_BY_SIDE)
        ]
        assert all(held.waiting.acquire(timeout=20) for _ in range(AT_ONCE))
        asked = len(server.requests)
        refused = begin_chart(
            FhirServer(f"{server.url}/fhir", "token", http), **visit, settings=settings, now=datetime.now(UTC)
        )
        with pytest.raises(Busy):
            finish_chart(refused)
        assert len(server.requests) == asked
        held.gate.set()
        for begun in charts:
            with suppress(BadAnswer):
                finish_chart(begun)


@pytest.mark.parametrize(
    "reference", ["https://evil.example/fhir/Encounter/E1", "Encounter/../../x", "", "Encounter"]
)
def test_what_is_no_reference_of_this_server_is_not_sent_ahead(serving, opened, reference):
    server, http = serving(), opened()
    ehr = FhirServer(f"{server.url}/fhir", "token", http)
    ehr.read("Encounter/E0")
    ehr.send_ahead(reference)
    time.sleep(0.05)
    assert len(server.requests) == 1
