"""
Where a service listens, and who may come in: the rules that those of the
applications share which answer over HTTP.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

__all__ = ["EndpointError", "bearer_token", "is_loopback", "listening_place", "page_refusal"]

# What colons separate in an endpoint; a backslash takes a character as it is.
_PART = r"(?:\\.|[^\\:])+"
_ENDPOINT = re.compile(rf"{_PART}(?::{_PART})+", re.DOTALL)
_OPTION = re.compile(r"((?:\\.|[^\\=])+)=(.*)", re.DOTALL)
# Those that have an interface, and where on this machine they would listen.
_LOOPBACKS = {
    "tcp": "interface=127.0.0.1",
    "tcp6": r"interface=\:\:1",
    "ssl": "interface=127.0.0.1",
}
_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain"})


class EndpointError(ValueError):
    """
    A service cannot be offered there: one sentence with the mend.
    """


def listening_place(endpoint: str, *, has_token: bool, option: str, token_option: str) -> str:
    """
    Where to listen, as a server endpoint's description.

    @param endpoint: such as C{tcp:8080:interface=127.0.0.1}, C{tcp:8080}
        (this machine alone, where there is no token), C{8080}, or
        C{unix:/run/mongosync}.
    @param has_token: whether requests have to show a token.
    @param option: what the endpoint was given by.
    @param token_option: what a token would be given by.

    @raise EndpointError: it is no endpoint, or other machines could come, and
        there is no token.
    """
    text = f"tcp:{endpoint}" if endpoint.isdigit() else endpoint
    kind, *parts = re.findall(_PART, text) if _ENDPOINT.fullmatch(text) else [""]
    places = [part for part in parts if not _OPTION.fullmatch(part)]
    if not parts or (kind in _LOOPBACKS and len(places) > 1):
        raise EndpointError(
            f"{option} {endpoint!r} must be an endpoint such as tcp:8080 or "
            "tcp:8080:interface=127.0.0.1"
        )
    if kind == "unix" or has_token:
        return text
    interfaces = _interfaces(parts)
    if kind == "tcp" and not interfaces:
        return f"{text}:{_LOOPBACKS[kind]}"
    # Of several, one is used; which one is not for us to say.
    if interfaces and all(is_loopback(each) for each in interfaces):
        return text
    mend = f"protect it with {token_option}"
    if kind in _LOOPBACKS:
        mend = f"listen at {_LOOPBACKS[kind]}, or {mend}"
    raise EndpointError(f"{option} {endpoint!r} can be reached from other machines: {mend}")


def _interfaces(parts: list[str]) -> list[str]:
    """What the parts of an endpoint's description say of where it listens."""
    options = [found.groups() for found in map(_OPTION.fullmatch, parts) if found]
    plain = [[re.sub(r"\\(.)", r"\1", each) for each in pair] for pair in options]
    return [value for name, value in plain if name == "interface"]


def is_loopback(host: str) -> bool:
    """
    Whether a name or address, in brackets or not, is this machine's own.
    """
    if host.lower() in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def bearer_token(authorization: bytes | None) -> bytes | None:
    """
    The token in a header C{Authorization}.

    @return: C{None} if there is none of the scheme C{Bearer} (RFC 6750).
    """
    scheme, _, shown = (authorization or b"").partition(b" ")
    return shown.strip() if scheme.lower() == b"bearer" else None


def page_refusal(host: bytes | None, origin: bytes | None, token_option: str) -> str | None:
    """
    Why a request that shows no token is not answered: a web page that
    somebody on this machine looks at must not get in, be it by a form or by a
    name that leads here.

    @param host: the header C{Host}.
    @param origin: the header C{Origin}.
    @return: C{None} if there is nothing against it.
    """
    if origin is not None:
        return "orders from web pages are not taken"
    if host is not None and not is_loopback(re.sub(r":\d+\Z", "", host.decode("latin-1"))):
        return f"ask for 127.0.0.1 or localhost, or use {token_option}"
    return None
