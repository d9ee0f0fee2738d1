"""A client of the WebSocket protocol (RFC 6455) in the standard library: text messages to a server on this machine."""

from __future__ import annotations

import base64
import os
import socket
import struct


class WebSocket:
    """A connection to ws://127.0.0.1:port/path; every wait ends after `timeout` seconds."""

    def __init__(self, port: int, path: str, timeout: float = 120.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self._read(1)
        assert b" 101 " in answer.split(b"\r\n")[0], answer

    def send(self, text: str) -> None:
        self._frame(0x1, text.encode())

    def receive(self) -> str:
        """The next message; pings are answered on the way."""
        message = b""
        while True:
            first, second = self._read(2)
            size = second & 127
            if size > 125:
                size = struct.unpack(">H" if size == 126 else ">Q", self._read(2 if size == 126 else 8))[0]
            data, kind = self._read(size), first & 15
            assert kind != 0x8, "the browser closed the connection"
            if kind == 0x9:
                self._frame(0xA, data)
            elif kind != 0xA:
                message += data
                if first & 128:
                    return message.decode()

    def close(self) -> None:
        self._socket.close()

    def _frame(self, kind: int, data: bytes) -> None:
        size = len(data)
        head = bytes([128 | kind])
        if size < 126:
            head += bytes([128 | size])
        elif size < 1 << 16:
            head += bytes([128 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([128 | 127]) + struct.pack(">Q", size)
        mask = os.urandom(4)
        self._socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(min(size - len(data), 1 << 20))
            assert part, "the browser closed the connection"
            data += part
        return data
