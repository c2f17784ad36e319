"""A test adbd: the device's side of adb over TCP on 127.0.0.1, for the real adb client, with faults on order.

Shells run on this machine, with the folders below /data/local/tmp in a sandbox. Like Android's own adbd it
hangs up (SIGHUP) on the shell, and on nothing else, when the client closes a stream or the device is lost.
Source: packages/modules/adb, protocol.txt and shell_protocol.h.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

CNXN, AUTH, OPEN, OKAY, CLSE, WRTE = (
    int.from_bytes(name, "little") for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"CLSE", b"WRTE")
)
VERSION, PAYLOAD = 0x01000001, 1 << 18
TOKEN, SIGNATURE = 1, 2
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
PARENT = "/data/local/tmp"


class Adbd:
    """A phone: sandbox is its /data/local/tmp, bin comes first in the PATH of its shells.

    authorized: whether it trusts the client; deaf: whether it leaves new calls without an answer; commands:
    what its shells were asked to do.
    """

    def __init__(self, sandbox: Path, bin: Path) -> None:
        self.sandbox, self.bin = sandbox, bin
        self.authorized, self.deaf = True, False
        self.commands: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def lose(self) -> None:
        """Pull the cable."""
        for each in (self._listener, *self._connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(client)
            threading.Thread(target=Transport(self, client).serve, daemon=True).start()


class Transport:
    """One connection with an adb server, and the streams in it."""

    def __init__(self, phone: Adbd, client: socket.socket) -> None:
        self.phone, self._socket = phone, client
        self._streams: dict[int, Stream] = {}
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Until it is closed."""
        read = self._socket.makefile("rb")
        with suppress(OSError, ValueError):
            while len(header := read.read(24)) == 24:
                command, first, second, length, _, _ = struct.unpack("<6I", header)
                self._handle(command, first, second, read.read(length))
        for stream in [*self._streams.values()]:
            stream.end()

    def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        """One message."""
        header = struct.pack("<6I", command, first, second, len(data), 0, command ^ 0xFFFFFFFF)
        with self._sending:
            self._socket.sendall(header + data)

    def _handle(self, command: int, first: int, second: int, data: bytes) -> None:
        if command in (CNXN, AUTH):
            if self.phone.authorized:
                banner = b"device::ro.product.name=test;ro.product.model=Test_Phone;features=shell_v2,cmd"
                self.send(CNXN, VERSION, PAYLOAD, banner)
            elif command == CNXN or first == SIGNATURE:  # a public key is answered by its user
                self.send(AUTH, TOKEN, 0, bytes(20))
        elif command == OPEN and not self.phone.deaf:
            self._open(first, data.rstrip(b"\0").decode())
        elif second in self._streams:
            stream = self._streams[second]
            if command == OKAY:
                stream.credit.release()
            elif command == WRTE:
                stream.received.put(data)
                self.send(OKAY, second, first)
            elif command == CLSE:
                stream.end()

    def _open(self, remote: int, service: str) -> None:
        kind, _, script = service.partition(":")
        if not kind.startswith("shell,v2") or not script:
            self.send(CLSE, 0, remote)
            return
        local = len(self._streams) + 1
        self._streams[local] = Stream(self, local, remote)
        self.send(OKAY, local, remote)
        threading.Thread(target=self._streams[local].shell, args=(script,), daemon=True).start()


class Stream:
    """One service that a client opened; every message to it is answered before the next one."""

    def __init__(self, transport: Transport, local: int, remote: int) -> None:
        self._transport, self._local, self._remote = transport, local, remote
        self.credit = threading.Semaphore(1)
        self.received: queue.Queue[bytes] = queue.Queue()
        self._ended = threading.Event()
        self._framing = threading.Lock()

    def end(self) -> None:
        """The other side is gone."""
        self._ended.set()
        self.credit.release(1000)
        self.received.put(b"")

    def shell(self, script: str) -> None:
        """A shell with its own stderr and exit code."""
        phone = self._transport.phone
        phone.commands.append(script)
        process = subprocess.Popen(
            ["/bin/sh", "-c", script.replace(PARENT, str(phone.sandbox))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": f"{phone.bin}:/usr/bin:/bin", "HOME": "/"},
            start_new_session=True,
        )
        phone.processes.append(process)
        assert process.stdin and process.stdout and process.stderr
        threading.Thread(target=self._feed, args=(process,), daemon=True).start()
        outputs = ((STDOUT, process.stdout.fileno()), (STDERR, process.stderr.fileno()))
        pumps = [threading.Thread(target=self._pump, args=output, daemon=True) for output in outputs]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        process.stdout.close()
        process.stderr.close()
        code = process.wait()
        with suppress(OSError):
            self._frame(EXIT, bytes([code if code >= 0 else 128 - code]))
            self._transport.send(CLSE, self._local, self._remote)

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        received = b""
        with suppress(OSError):
            while data := self.received.get():
                received += data
                while len(received) >= 5:
                    end = 5 + int.from_bytes(received[1:5], "little")
                    if len(received) < end:
                        break
                    kind, text, received = received[0], received[5:end], received[end:]
                    if kind == STDIN:
                        process.stdin.write(text)
                        process.stdin.flush()
                    elif kind == CLOSE_STDIN:
                        process.stdin.close()
        self._ended.wait()
        if process.poll() is None:
            process.send_signal(signal.SIGHUP)
        with suppress(OSError):
            process.stdin.close()

    def _pump(self, kind: int, output: int) -> None:
        with suppress(OSError):
            while data := os.read(output, 1 << 15):
                self._frame(kind, data)

    def _frame(self, kind: int, data: bytes) -> None:
        with self._framing:
            self.credit.acquire()
            if self._ended.is_set():
                raise BrokenPipeError
            frame = struct.pack("<BI", kind, len(data)) + data
            self._transport.send(WRTE, self._local, self._remote, frame)
