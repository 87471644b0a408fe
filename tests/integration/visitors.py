"""
Browsers, and servers in processes of their own, for tests of web sessions.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPMessage
from http.cookies import SimpleCookie
from pathlib import Path
from typing import IO, Self

__all__ = ["Served", "Visitor", "free_port"]

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 30.0
_LISTENING = re.compile(rb" starting on (\d+)")
# How many bytes of what a server prints may come before it says where it listens.
_START = 100_000


def free_port() -> int:
    """A port that nobody listens at, for the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class Visitor:
    """
    A browser: keeps cookies.

    @ivar cookies: what it has.
    @ivar headers: of the last answer.
    """

    def __init__(self, port: int, cookies: Mapping[str, str] | None = None) -> None:
        self.port = port
        self.cookies = dict(cookies or {})
        self.headers = HTTPMessage()

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, str]:
        """A request, and its answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if self.cookies:
                named["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
            connection.request(method, path, body, named)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        self.headers = response.headers
        for line in response.headers.get_all("set-cookie", []):
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        return response.status, text

    def get(self, path: str) -> tuple[int, str]:
        """A page."""
        return self.ask("GET", path)


class Served:
    """
    A server in a process of its own, which listens when this is entered.

    @param arguments: what Python is to run.
    @param port: where it will listen; by default it says so, as Twisted's
        servers do.
    @ivar output: what it has printed, once it has ended.
    """

    def __init__(self, *arguments: str, port: int = 0) -> None:
        self.port = port
        self.output = ""
        self._arguments = arguments
        self._resources = ExitStack()
        self._said: IO[str] | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._said = self._resources.enter_context(tempfile.TemporaryFile("w+"))
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, *self._arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + _SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"{self._arguments} does not listen:\n{self.output}")
            # Nobody tells when another process listens.
            self._wait(0.05)
        return self

    def __exit__(self, *details: object) -> None:
        self.end()

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self.process is not None and self.process.poll() is None

    def _listens(self) -> bool:
        assert self._said is not None
        if not self.port:
            # Not by reading, which would move where the process writes.
            told = _LISTENING.search(os.pread(self._said.fileno(), _START, 0))
            if told is None:
                return False
            self.port = int(told[1])
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _wait(self, seconds: float) -> bool:
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> int:
        """
        Stop it by SIGTERM, unless it has ended.

        @return: its status.
        """
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            if not self._wait(_SECONDS):
                self.process.kill()
        status = self.process.wait()
        if self._said is not None and not self._said.closed:
            self._said.seek(0)
            self.output = self._said.read()
            self._resources.close()
        return status
