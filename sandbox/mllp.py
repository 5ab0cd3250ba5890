"""The other end of an HL7 v2 interface: takes DFT messages over MLLP, acknowledges them, keeps the charges."""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import hl7

START, END = b"\x0b", b"\x1c\x0d"


@dataclass(frozen=True)
class InterfaceFault:
    """What goes wrong with the next message. With ``after`` it is filed first."""

    kind: Literal["drop", "delay", "truncate", "html", "foreign", "answer"]
    after: bool = False
    code: str = "AE"  # of the answer
    seconds: float = 0


@dataclass
class Interface:
    """What was filed, in the order of arrival, and the faults still to come."""

    host: str
    port: int
    messages: list[hl7.Message] = field(default_factory=list)
    faults: list[InterfaceFault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def charges(self) -> list[tuple[str, str, str]]:
        """Transaction id, type (CG, CR) and code of every FT1 that was filed."""
        with self.lock:
            return [
                (str(segment[2]), str(segment[6]), str(segment[25][0][0]))
                for message in self.messages
                for segment in message.segments("FT1")
            ]

    def take_fault(self) -> InterfaceFault | None:
        """The next fault, once."""
        with self.lock:
            return self.faults.pop(0) if self.faults else None


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        interface: Interface = self.server.interface  # type: ignore[attr-defined]
        received = b""
        while not received.endswith(END):
            chunk = self.request.recv(65_536)
            if not chunk:
                return
            received += chunk
        message = hl7.parse(received.removeprefix(START).removesuffix(END).decode())
        fault = interface.take_fault()
        if fault is None or fault.after or fault.kind in {"truncate", "foreign", "html"}:
            self._file(interface, message)
        if fault is not None and fault.kind == "delay":
            time.sleep(fault.seconds)
            if not fault.after:
                self._file(interface, message)
        if fault is not None and fault.kind == "drop":
            return
        try:
            self.request.sendall(self._answer(message, fault))
        except OSError:
            return  # the sender did not wait for it

    @staticmethod
    def _file(interface: Interface, message: hl7.Message) -> None:
        with interface.lock:
            interface.messages.append(message)

    @staticmethod
    def _answer(message: hl7.Message, fault: InterfaceFault | None) -> bytes:
        if fault is not None and fault.kind == "html":
            return START + b"<html><h1>Proxy login</h1></html>" + END
        code = fault.code if fault is not None and fault.kind == "answer" else "AA"
        control = str(message.segment("MSH")[10])
        if fault is not None and fault.kind == "foreign":
            control = "SOMETHING-ELSE"
        why = "|no" if code != "AA" else ""
        whole = START + f"MSH|^~\\&|||||||ACK|1|P|2.5.1\rMSA|{code}|{control}{why}\r".encode() + END
        return whole[: len(whole) // 2] if fault is not None and fault.kind == "truncate" else whole


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def running_interface() -> Iterator[Interface]:
    """An interface on a loopback port of the system's choice."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        host, port = server.server_address[:2]
        interface = Interface(str(host), int(port))
        server.interface = interface  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield interface
        finally:
            server.shutdown()
            thread.join()
