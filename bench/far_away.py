"""The sandbox EHR as it looks from 50 ms away, over TLS, and a record of who waited for what and how long.

    app ── wire (delays bytes) ── TLS end ── sandbox

The sandbox has a process of its own, wire and TLS end share another. All clocks are ``time.monotonic``,
which on Linux is one clock for all processes.

The wire costs what a long line does: a byte arrives half a trip after it was sent, on each way. The kernel
accepts a connection on loopback at once, so the trip that connecting takes is made up for by holding the
first bytes back for a whole trip. TLS is real: its handshake crosses the wire like everything else.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from quarterhour.sandbox.ehr import create_sandbox, running

TRIP = 0.050  # seconds there and back
HOST = "127.0.0.1"
CHUNK = 64 * 1024


class Span(NamedTuple):
    """From one instant to another, in seconds of the monotonic clock."""

    start: float
    end: float


class Wait(NamedTuple):
    """One connection, from the first byte towards the EHR to the last that came back; a later one is longer."""

    connection: int
    span: Span
    port: int  # of whoever asks


class Exchange(NamedTuple):
    """What the EHR was asked, from the whole request to its whole answer."""

    connection: int
    request: str
    span: Span


@dataclass
class Record:
    """What went over the wire since the last look."""

    near: list[Wait] = field(default_factory=list)  # as whoever asks sees it, from connecting on
    far: list[Wait] = field(default_factory=list)  # as the EHR sees it, its share of the TLS handshake too
    exchanges: list[Exchange] = field(default_factory=list)


class Departures:
    """When requests left this process, by the port they left from.

    The wire sees a byte once its process has been woken, a third of a millisecond later on an idle virtual
    machine: that is neither ours nor the EHR's. An answer counts from the wire's word on, so that whatever
    we take to notice it is ours.
    """

    def __init__(self) -> None:
        self._at: list[tuple[int, float]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Notes all that leaves over TLS."""
        send = ssl.SSLSocket.send

        def noting(sock: ssl.SSLSocket, data: bytes, flags: int = 0) -> int:
            sent = send(sock, data, flags)
            self._at.append((sock.getsockname()[1], time.monotonic()))
            return sent

        with mock.patch.object(ssl.SSLSocket, "send", noting):
            yield

    def corrected(self, waits: Iterable[Wait]) -> list[Wait]:
        """The whole waits, each from when its request had left; what is no request is left as it is."""
        whole = {(wait.connection, wait.span.start): wait for wait in waits}
        ended: dict[int, float] = {}
        found = []
        for wait in sorted(whole.values(), key=lambda wait: wait.span):
            since = ended.get(wait.connection, 0.0)
            left = (at for port, at in self._at if port == wait.port and since < at < wait.span.start)
            found.append(wait._replace(span=Span(min(left, default=wait.span.start), wait.span.end)))
            ended[wait.connection] = wait.span.end
        self._at.clear()
        return found


class FarAway:
    """The EHR as a test bench sees it: its address, its launches, the record of the wire."""

    def __init__(
        self, url: str, ca_file: Path, wire: Connection, sandbox: Connection, departures: Departures
    ) -> None:
        self.url = url
        self.ca_file = ca_file
        self._departures = departures
        self._wire = wire
        self._sandbox = sandbox

    def launch_url(self, scenario: str, client: str) -> str:
        """What a click in the chart leads to."""
        self._sandbox.send((scenario, client))
        return str(self._sandbox.recv())

    def record(self) -> Record:
        """The waits and exchanges that ended since the last call."""
        self._wire.send("record")
        found = self._wire.recv()
        assert isinstance(found, Record)
        return replace(found, near=self._departures.corrected(found.near))


@contextmanager
def ehr_far_away(folder: Path, app_url: str) -> Iterator[FarAway]:
    """The sandbox behind the wire, until the end of the ``with``. Certificates are made in ``folder``."""
    ca_file, chain = _certificates(folder)
    near, far = (socket.create_server((HOST, 0), backlog=128) for _ in range(2))
    with closing(near), closing(far):
        port, far_port = near.getsockname()[1], _free_port()
        url = f"https://{HOST}:{port}"
        spawn = multiprocessing.get_context("spawn")
        wire, wire_end = spawn.Pipe()
        sandbox, sandbox_end = spawn.Pipe()
        processes = [
            spawn.Process(target=_run_wire, args=(wire_end, near, far, chain, far_port), daemon=True),
            spawn.Process(target=_run_sandbox, args=(sandbox_end, url, app_url, far_port), daemon=True),
        ]
        for process in processes:
            process.start()
        try:
            for pipe in (wire, sandbox):
                if not pipe.poll(60):
                    raise TimeoutError("The EHR did not start.")
                pipe.recv()
            departures = Departures()
            with departures.noted():
                yield FarAway(url, ca_file, wire, sandbox, departures)
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _run_sandbox(pipe: Connection, base_url: str, app_url: str, port: int) -> None:
    app = create_sandbox(base_url=base_url, app_url=app_url)
    with running(lambda _: app, port=port):
        pipe.send("ready")
        while True:
            scenario, client = pipe.recv()
            pipe.send(app.extensions["sandbox"].launch_url(scenario, client))


def _run_wire(
    pipe: Connection, near: socket.socket, far: socket.socket, chain: Path, sandbox_port: int
) -> None:
    asyncio.run(_Wire(pipe, far.getsockname()[1], sandbox_port).serve(near, far, chain))


class _Wire:
    """Both hops in one event loop."""

    def __init__(self, pipe: Connection, far_port: int, sandbox_port: int) -> None:
        self.pipe = pipe
        self.far_port = far_port
        self.sandbox_port = sandbox_port
        self.record = Record()
        self.connections = 0
        self.by_port: dict[int, int] = {}  # of the connection between the hops -> number

    async def serve(self, near: socket.socket, far: socket.socket, chain: Path) -> None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(chain)
        await asyncio.start_server(self.delay, sock=near)
        await asyncio.start_server(self.end_tls, sock=far, ssl=tls)
        asyncio.get_running_loop().add_reader(self.pipe.fileno(), self.answer)
        self.pipe.send("ready")
        await asyncio.Event().wait()

    def answer(self) -> None:
        self.pipe.recv()
        self.pipe.send(self.record)
        self.record = Record()

    async def delay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection over the wire."""
        accepted = time.monotonic()
        self.connections += 1
        number = self.connections
        up, down = await asyncio.open_connection(HOST, self.far_port)
        self.by_port[down.get_extra_info("sockname")[1]] = number
        port = writer.get_extra_info("peername")[1]
        near, far = _End(number, port, accepted), _End(number, port)
        await asyncio.gather(
            _carry(
                reader,
                down,
                not_before=accepted + TRIP,
                on_read=near.asked,
                on_arrival=far.asked,
            ),
            _carry(
                up,
                writer,
                not_before=0.0,
                on_read=lambda at: self.record.far.append(far.answered(at)),
                on_arrival=lambda _: self.record.near.append(near.answered(time.monotonic())),
            ),
        )

    async def end_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The EHR's end of one connection: reads requests, hands them on, times the answers."""
        number = self.by_port[writer.get_extra_info("peername")[1]]
        up, down = await asyncio.open_connection(HOST, self.sandbox_port)
        try:
            while True:
                head, body = await _message(reader)
                whole = time.monotonic()
                down.write(head + body)
                answer_head, answer_body = await _message(up)
                writer.write(answer_head + answer_body)
                method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
                path = target.partition("?")[0]
                self.record.exchanges.append(
                    Exchange(number, f"{method} {path}", Span(whole, time.monotonic()))
                )
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            down.close()
            writer.close()


class _End:
    """One end of a connection: since when it waits."""

    def __init__(self, number: int, port: int, since: float | None = None) -> None:
        self.number = number
        self.port = port
        self.since = since  # None: nothing was asked yet
        self.had_answer = False

    def asked(self, at: float) -> None:
        if self.since is None or self.had_answer:
            self.since, self.had_answer = at, False

    def answered(self, at: float) -> Wait:
        assert self.since is not None
        self.had_answer = True
        return Wait(self.number, Span(self.since, at), self.port)


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    not_before: float,
    on_read: Callable[[float], None],
    on_arrival: Callable[[float], None],
) -> None:
    """Bytes from one to the other, each half a trip late, in order. Told with the time that is due."""
    loop = asyncio.get_running_loop()

    def deliver(chunk: bytes, due: float) -> None:
        if writer.is_closing():
            return
        if chunk:
            writer.write(chunk)
            on_arrival(due)
        else:
            writer.close()

    chunk = b"-"
    while chunk:
        try:
            chunk = await reader.read(CHUNK)
        except OSError:
            chunk = b""
        now = time.monotonic()
        if chunk:
            on_read(now)
        due = max(now, not_before) + TRIP / 2
        loop.call_at(due, deliver, chunk, due)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one HTTP/1.1 message; its length stands in its head, or it has no body."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:-2])
    assert b"transfer-encoding" not in fields, "the sandbox and requests state the length"
    return head, await reader.readexactly(int(fields.get(b"content-length", 0)))


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _certificates(folder: Path) -> tuple[Path, Path]:
    """An authority of our own, and a key with a certificate of it for ``HOST``; all for one day."""
    now = datetime.now(UTC)

    def build(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        def named(common: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])

        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )

    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = (
        build("Bench authority", "Bench authority", authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority, hashes.SHA256())
    )
    leaf = (
        build(HOST, "Bench authority", server)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    ca_file, chain = folder / "authority.pem", folder / "server.pem"
    ca_file.write_bytes(root.public_bytes(pem))
    chain.touch(mode=0o600)
    chain.write_bytes(
        server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(pem)
    )
    return ca_file, chain
