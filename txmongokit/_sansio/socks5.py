"""
What is said to a SOCKS5 proxy before it hands a connection on (RFC 1928), and
how one logs in there by name and password (RFC 1929).

Follows the drivers' SOCKS5 support specification: host names are the proxy's
to resolve.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Generator

__all__ = ["Socks5Conversation", "Socks5Error"]

_VERSION = 5
_LOGIN_VERSION = 1
_NO_LOGIN = 0
_LOGIN = 2
_NOTHING_SUITS = 0xFF
_CONNECT = 1
_IPV4 = 1
_NAME = 3
_IPV6 = 4
_ADDRESS_SIZES = {_IPV4: 4, _IPV6: 16}
_LONGEST = 255

_REFUSALS = {
    1: "it has failed in general",
    2: "its rules do not allow it",
    3: "the network cannot be reached from there",
    4: "the host cannot be reached from there, or its name is not known there",
    5: "the host refuses the connection",
    6: "it took too long",
    7: "it knows no CONNECT command",
    8: "it does not know this kind of address",
}


class Socks5Error(Exception):
    """
    A proxy refuses, or speaks no SOCKS5.  Shows no password.
    """


class Socks5Conversation:
    """
    One conversation: bytes in, bytes out.

    @param host: where to, a name or a literal address.
    @param username: for a proxy that wants to know who asks; needs
        C{password}.

    @ivar finished: whether the proxy has connected us.
    @ivar rest: what came after its last word: the server's first.

    @raise Socks5Error: host, name or password are longer than the protocol
        allows.
    """

    def __init__(
        self, host: str, port: int, username: str | None = None, password: str | None = None
    ) -> None:
        self.finished = False
        self._to = f"{host}:{port}"
        self._request = bytes((_VERSION, _CONNECT, 0)) + _address(host) + port.to_bytes(2, "big")
        self._login = None
        if username is not None and password is not None:
            self._login = (
                bytes((_LOGIN_VERSION,))
                + _short(username.encode("utf-8"), "the user name")
                + _short(password.encode("utf-8"), "the password")
            )
        self._answers = self._listen()
        self._wanted = 0
        self._received = bytearray()
        self._said = bytearray()

    @property
    def rest(self) -> bytes:
        """What has come and is no part of the conversation."""
        return bytes(self._received)

    def begin(self) -> bytes:
        """
        The first thing to send.
        """
        self._wanted = next(self._answers)
        return self._taken()

    def feed(self, data: bytes) -> bytes:
        """
        Take what the proxy sent, in pieces of any size.

        @return: what to send now, often nothing.
        @raise Socks5Error: it refuses, or this is no SOCKS5.
        """
        self._received += data
        while not self.finished and len(self._received) >= self._wanted:
            answer = bytes(self._received[: self._wanted])
            del self._received[: self._wanted]
            try:
                self._wanted = self._answers.send(answer)
            except StopIteration:
                self.finished = True
        return self._taken()

    def _taken(self) -> bytes:
        said = bytes(self._said)
        self._said.clear()
        return said

    def _listen(self) -> Generator[int, bytes, None]:
        """The whole conversation; yields how many bytes the next answer has."""
        methods = [_NO_LOGIN] if self._login is None else [_NO_LOGIN, _LOGIN]
        self._said += bytes((_VERSION, len(methods), *methods))
        version, method = yield 2
        _check_version(version)
        if method not in methods:
            raise Socks5Error(self._unsuited(method))
        if method == _LOGIN:
            assert self._login is not None
            self._said += self._login
            _, status = yield 2
            if status:
                raise Socks5Error("refuses our user name and password: check proxyUsername")
        self._said += self._request
        version, reply, _, kind = yield 4
        _check_version(version)
        if reply:
            reason = _REFUSALS.get(reply, f"it gives number {reply} as its reason")
            raise Socks5Error(f"does not connect us to {self._to}: {reason}")
        # Where it connects from is of no use to us.
        size = _ADDRESS_SIZES.get(kind)
        if kind == _NAME:
            (size,) = yield 1
        if size is None:
            raise Socks5Error("answers with an address of an unknown kind: is it a SOCKS5 proxy?")
        yield size + 2

    def _unsuited(self, method: int) -> str:
        if method != _NOTHING_SUITS:
            return f"chose a login, number {method}, that was not offered: is it a SOCKS5 proxy?"
        if self._login is None:
            return "wants a login: give proxyUsername and proxyPassword"
        return "takes no login by user name and password: allow it there"


def _check_version(version: int) -> None:
    if version != _VERSION:
        raise Socks5Error("speaks no SOCKS5: check proxyHost and proxyPort")


def _short(text: bytes, what: str) -> bytes:
    if not 0 < len(text) <= _LONGEST:
        raise Socks5Error(f"would need {what} to have 1 to {_LONGEST} bytes: shorten it")
    return bytes((len(text),)) + text


def _address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            name = host.encode("ascii" if host.isascii() else "idna")
        except UnicodeError:
            raise Socks5Error(f"cannot be told the host name {host!r}: correct it") from None
        return bytes((_NAME,)) + _short(name, "the host name")
    return bytes((_IPV4 if address.version == 4 else _IPV6,)) + address.packed
