"""The way out, over real loopback HTTP: its limits, and its connections."""

import gzip
import ipaddress
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from quarterhour.launch.errors import EhrUnavailable
from quarterhour.launch.http import LARGEST_BODY, BodyTooLarge, ask, is_public, open_http, warm

SOON = 0.3  # seconds


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


def test_10_an_answer_that_only_trickles_ends_too(serving, opened):
    def trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        try:
            for _ in range(100):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(SOON / 10)
        except OSError:
            self.close_connection = True

    server = serving(trickle)
    started = time.monotonic()
    with pytest.raises(requests.Timeout):
        opened(read_timeout=SOON).get(server.url)
    assert SOON < time.monotonic() - started < SOON * 6


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
