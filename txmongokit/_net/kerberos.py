"""
Kerberos for GSSAPI, by the C{kerberos} library or Windows' C{winkerberos}.
All of it blocks, and belongs in a thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any
from urllib.parse import quote

from txmongokit._sansio.conversation import SecurityContextWanted, distrust
from txmongokit.errors import ConfigurationError
from txmongokit.options import Credentials

__all__ = ["KerberosContext", "load_kerberos", "open_context"]

_CONTINUE = 0
_FAILED = -1
_WRAPPED = 1
_FORWARD = ("forward",)
_BOTH_WAYS = ("forwardAndReverse", "true")


def load_kerberos() -> Any:
    """
    The library that is installed.

    @raise ConfigurationError: none is.
    """
    for name in ("winkerberos", "kerberos"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ConfigurationError(
        "authMechanism=GSSAPI needs the module kerberos: install the package pykerberos, or "
        "winkerberos on Windows"
    )


def open_context(
    wanted: SecurityContextWanted, load: Callable[[], Any] = load_kerberos
) -> KerberosContext:
    """
    Begin to log in with one server.  Blocks.

    @raise ConfigurationError: there is no library for it.
    @raise OperationFailure: Kerberos refuses.
    """
    library = load()
    properties = wanted.credentials.properties
    host = _canonical(wanted.host, properties.get("CANONICALIZE_HOST_NAME", "none"))
    service = f"{properties.get('SERVICE_NAME', 'mongodb')}@{host}"
    realm = properties.get("SERVICE_REALM")
    if realm is not None:
        service = f"{service}@{realm}"
    with _explained(library):
        result, context = library.authGSSClientInit(
            service,
            gssflags=library.GSS_C_MUTUAL_FLAG,
            **_identity(library, wanted.credentials),
        )
    if result != library.AUTH_GSS_COMPLETE:
        raise distrust("Kerberos cannot begin: check its configuration and its tickets (klist)")
    return KerberosContext(library, context)


def _identity(library: Any, credentials: Credentials) -> dict[str, Any]:
    """Who logs in: without a password, whoever has the tickets."""
    username, password = credentials.username or "", credentials.password
    if password is None:
        return {}
    if library.__name__ == "winkerberos":
        # It unescapes them, and takes a plus sign for what it is.
        return {"principal": f"{quote(username)}:{quote(password)}"}
    user, _, domain = username.partition("@")
    return {"user": user, "domain": domain or None, "password": password}


def _canonical(host: str, how: str) -> str:
    """
    The name by which Kerberos knows a host; the one that was given where DNS
    does not help (authentication specification).
    """
    if how not in (*_FORWARD, *_BOTH_WAYS):
        return host
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME)
    except OSError:
        return host
    name = found[0][3] or host
    if how in _BOTH_WAYS:
        try:
            name = socket.getnameinfo(found[0][4], socket.NI_NAMEREQD)[0]
        except OSError:
            pass
    return name.lower()


class KerberosContext:
    """
    One log-in (L{txmongokit._sansio.conversation.SecurityContext}).
    """

    def __init__(self, library: Any, context: Any) -> None:
        self._library = library
        self._context = context
        # Whoever gives up while a thread is at work must not pull the
        # library's memory away from under it.
        self._busy = Lock()
        self._closed = False

    def step(self, challenge: str) -> tuple[str, bool]:
        """
        Answer a challenge; whether that was the last one.

        @raise OperationFailure: Kerberos refuses.
        """
        with self._at_work() as (library, context):
            result = library.authGSSClientStep(context, challenge)
            if result == _FAILED:
                raise distrust("Kerberos refuses the server's answer")
            answer = library.authGSSClientResponse(context) or ""
            return answer, result != _CONTINUE

    def wrap(self, challenge: str, username: str) -> str:
        """
        Answer the last challenge, with who it is that logs in.

        @raise OperationFailure: Kerberos refuses.
        """
        with self._at_work() as (library, context):
            if library.authGSSClientUnwrap(context, challenge) != _WRAPPED:
                raise distrust("Kerberos cannot unwrap the server's last answer")
            offer = library.authGSSClientResponse(context)
            if library.authGSSClientWrap(context, offer, username) != _WRAPPED:
                raise distrust("Kerberos cannot wrap the name of the user")
            answer: str = library.authGSSClientResponse(context)
            return answer

    def close(self) -> None:
        """
        Forget everything, as soon as no thread is at work with it.
        """
        self._closed = True
        if self._busy.acquire(blocking=False):
            try:
                context, self._context = self._context, None
                if context is not None:
                    self._library.authGSSClientClean(context)
            finally:
                self._busy.release()

    @contextmanager
    def _at_work(self) -> Iterator[tuple[Any, Any]]:
        try:
            with self._busy, _explained(self._library):
                if self._closed:
                    raise distrust("nobody waits for Kerberos any more")
                yield self._library, self._context
        finally:
            if self._closed:
                self.close()


@contextmanager
def _explained(library: Any) -> Iterator[None]:
    try:
        yield
    except library.KrbError as error:
        raise distrust(f"Kerberos: {error}") from error
