"""
The cookies that carry ids of sessions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["SessionCookies", "cookie_value"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_ATTRIBUTE = re.compile(r"[\x21-\x3a\x3c-\x7e]*")
_PREFIXES = ("__host-", "__secure-", "__http-")
_SAME_SITE = ("lax", "strict", "none")
_LONG_AGO = "Thu, 01 Jan 1970 00:00:00 GMT"


def cookie_value(request: Any, name: str) -> str | None:
    """
    What a client has sent as a cookie; C{None} for what no cookie of ours has
    in it.
    """
    sent = request.getCookie(name.encode("ascii"))
    try:
        return None if not sent else sent.decode("ascii")
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class SessionCookies:
    """
    Names and flags of the cookies: one for encrypted connections, one for
    others.  Scripts see neither.

    The first has C{Secure}, and a name with a prefix for which browsers make
    sure that no other host and no plain connection has set it:
    C{__Host-session}, or C{__Secure-session} where there is a domain or
    another path.

    @ivar name: of the one for plain connections, without such a prefix: for
        browsers drop what has one and is not C{Secure}.
    @ivar path: which paths get it.
    @ivar domain: which hosts get it; by default this host alone.
    @ivar same_site: C{"lax"}, C{"strict"}, or C{"none"} for sites that are
        embedded in others.
    @ivar persistent: whether it outlives the browser, for as long as the
        session lasts.

    @raise ValueError: one of these cannot be a cookie's.
    """

    name: str = "session"
    path: str = "/"
    domain: str | None = None
    same_site: str = "lax"
    persistent: bool = False

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.name):
            raise ValueError(f"a cookie's name has letters, digits and hyphens, not {self.name!r}")
        if self.name.lower().startswith(_PREFIXES):
            raise ValueError(
                "a cookie's name gets its prefix here, and has it over encrypted connections "
                f"alone: leave it out of {self.name!r}"
            )
        if not self.path.startswith("/") or not _ATTRIBUTE.fullmatch(self.path):
            raise ValueError(f"a cookie's path begins with a slash, unlike {self.path!r}")
        if self.domain is not None and not re.fullmatch(r"[A-Za-z0-9.-]+", self.domain):
            raise ValueError(f"a cookie's domain is a host's name, not {self.domain!r}")
        if self.same_site not in _SAME_SITE:
            raise ValueError(f"same_site must be lax, strict or none, not {self.same_site!r}")

    @property
    def secure_name(self) -> str:
        """
        The name of the one for encrypted connections.
        """
        own = self.path == "/" and self.domain is None
        return f"__Host-{self.name}" if own else f"__Secure-{self.name}"

    def named(self, confidential: bool) -> str:
        """
        The name of the one or the other.
        """
        return self.secure_name if confidential else self.name

    def set(self, request: Any, identifier: str, confidential: bool, seconds: float) -> None:
        """
        Let a response carry a session's id.

        @param seconds: how long the session lasts.
        """
        age = str(max(1, round(seconds))) if self.persistent else None
        self._add(request, identifier, confidential, max_age=age)

    def clear(self, request: Any, confidential: bool) -> None:
        """
        Let a response take the cookie away.
        """
        self._add(request, "", confidential, max_age="0", expires=_LONG_AGO)

    def _add(self, request: Any, value: str, confidential: bool, **age: Any) -> None:
        # Browsers ignore "none" on cookies that are not Secure.
        same_site = self.same_site if confidential or self.same_site != "none" else "lax"
        request.addCookie(
            self.named(confidential),
            value,
            path=self.path,
            domain=self.domain,
            secure=confidential,
            httpOnly=True,
            sameSite=None if same_site == "none" else same_site,
            **age,
        )
        if same_site == "none":
            # Older Twisteds' addCookie does not know it.
            request.cookies[-1] += b"; SameSite=none"
