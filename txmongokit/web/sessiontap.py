"""
C{twistd mongosessions}: a session store, and its REST API, as a plugin of
twistd.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.application import strports
from twisted.application.service import IService, MultiService, Service
from twisted.internet.error import CannotListenError
from twisted.python import usage

from txmongokit.errors import ConfigurationError, InvalidName
from txmongokit.listening import EndpointError, listening_place
from txmongokit.web.rest import Limits, SessionAPI
from txmongokit.web.secretfile import read_cipher
from txmongokit.web.sessionmetrics import SessionMetrics
from txmongokit.web.sessionservice import SessionServer, SessionStoreService
from txmongokit.web.tokens import TokenFile

__all__ = ["Options", "makeService"]

_PROGRAM = "twistd mongosessions"
_LARGEST_BODY = 64 << 20


def _number(name: str, least: float, most: float, kind: type[Any], text: str) -> Any:
    try:
        found = kind(text)
    except ValueError:
        found = None
    if found is None or not least <= found <= most:
        raise ValueError(f"--{name} {text!r} must be a number from {least:g} to {most:g}")
    return found


class Options(usage.Options):
    """
    The part of the command line behind C{mongosessions}.
    """

    synopsis = "--db URI [--http ENDPOINT --token-file PATH] [options]"
    longdesc = (
        "Keeps web sessions in MongoDB in order: makes their indexes and removes the sessions that "
        "have ended; and with --http serves them to programs in any language."
    )
    # The values are text here; L{Options.postOptions} reads them.
    optParameters: ClassVar[list[list[str | None]]] = [
        ["db", None, None, "Connection string with the name of a database, mongodb://host/name."],
        ["db-file", None, None, "File with that string, which other users then do not see."],
        ["collection", None, "sessions", "Where the sessions are in that database."],
        ["timeout", None, "3600", "Seconds that a session lasts after its last use."],
        ["reap-every", None, "60", "Seconds between two removals of what has ended."],
        ["http", None, None, "Where to serve: tcp:8080:interface=127.0.0.1, ssl:443:..., unix:..."],
        ["token-file", None, None, "File with a token a line, one of which requests must show."],
        ["key-file", None, None, "File with the keys of encrypted sessions: NAME BASE64 a line."],
        ["max-body", None, "4194304", "Bytes that a request's body may have."],
        ["max-requests", None, "100", "Requests that are served at once."],
        ["max-listed", None, "1000", "Sessions that a list has at most."],
        ["max-seconds", None, "10", "Seconds that a request may take."],
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Read them.

        @raise SystemExit: they cannot be used, with the status 1 and the
            reason on standard error.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            # Some releases of twistd end well after one.
            print(f"Usage: {_PROGRAM} {self.synopsis}\n{_PROGRAM}: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    def parseArgs(self, *arguments: str) -> None:
        """
        There are none but options.
        """
        if arguments:
            # Not shown: it may be a connection string, or a token.
            raise usage.UsageError("there are arguments that belong to no option: give --db URI")

    def postOptions(self) -> None:
        """
        Check what was given.
        """
        try:
            self["db"] = self._database()
            for name, least, most, kind in (
                ("timeout", 1, 315_360_000, float),
                ("reap-every", 0.1, 86_400, float),
                ("max-body", 64, _LARGEST_BODY, int),
                ("max-requests", 1, 100_000, int),
                ("max-listed", 1, 10_000, int),
                ("max-seconds", 0.1, 3600, float),
            ):
                self[name] = _number(name, least, most, kind, self[name])
            if self["http"] is not None:
                self["http"] = listening_place(
                    self["http"],
                    has_token=self["token-file"] is not None,
                    option="--http",
                    token_option="--token-file",
                )
            elif self["token-file"] is not None:
                raise ValueError("--token-file is for --http, which is missing")
        except (EndpointError, ValueError) as error:
            raise usage.UsageError(str(error)) from None

    def _database(self) -> str:
        given, path = self["db"], self["db-file"]
        if (given is None) == (path is None):
            raise ValueError("give the connection string of a database, by --db or by --db-file")
        if path is None:
            return str(given)
        try:
            return Path(path).read_text("utf-8").strip()
        except OSError as error:
            raise ValueError(f"--db-file {path!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"--db-file {path!r} is no text in UTF-8") from None


def makeService(options: Options) -> IService:
    """
    What twistd runs.

    @raise SystemExit: the options cannot be used, see L{Options.parseOptions}.
    """
    from twisted.internet import reactor

    try:
        return _service(reactor, options)
    except (ConfigurationError, InvalidName, ValueError, ImportError) as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _service(reactor: Any, options: Options) -> MultiService:
    metrics = SessionMetrics()
    keys = options["key-file"]
    sessions = SessionStoreService(
        options["db"],
        reap_every=options["reap-every"],
        metrics=metrics,
        name=options["collection"],
        timeout=options["timeout"],
        cipher=None if keys is None else read_cipher(keys),
    )
    place = options["http"]
    if place is None:
        alone = MultiService()
        sessions.setServiceParent(alone)
        return alone
    tokens = None
    if options["token-file"] is None:
        place = _for_this_user(place)
    else:
        tokens = TokenFile(options["token-file"], reactor.seconds)
    limits = Limits(
        body=options["max-body"],
        requests=options["max-requests"],
        listed=options["max-listed"],
        seconds=options["max-seconds"],
    )
    api = SessionAPI(lambda: sessions.store, reactor, tokens=tokens, metrics=metrics, limits=limits)
    try:
        listening = strports.service(place, api.site(), reactor=reactor)
    except Exception as error:  # Whatever a kind of endpoint, or pyOpenSSL, has against it.
        raise EndpointError(f"--http {place!r}: {str(error) or type(error).__name__}") from None
    server = _Server(sessions, listening, api, place)
    if tokens is not None:
        _Reloading(reactor, tokens).setServiceParent(server)
    return server


class _CannotListen(SystemExit, EndpointError):
    """
    The end of the process, with the status 1 and one sentence on standard
    error.  twistd tidies up only after what is an C{Exception}, and Python
    shows no traceback only of what is a C{SystemExit}.
    """


class _Server(SessionServer):
    """
    Says what it is that cannot be listened at.

    @param place: what C{--http} was given.
    """

    def __init__(
        self, sessions: SessionStoreService, listening: IService, api: SessionAPI, place: str
    ) -> None:
        super().__init__(sessions, listening, api)
        self._place = place

    def privilegedStartService(self) -> None:
        """
        Listen.

        @raise SystemExit: that cannot be.
        """
        try:
            super().privilegedStartService()
        except (CannotListenError, OSError, OverflowError) as error:
            raise _CannotListen(f"{_PROGRAM}: --http {self._place!r}: {error}") from None


def _for_this_user(place: str) -> str:
    """
    A UNIX socket without a token is for the user who runs the service, unless
    it says otherwise; Twisted's own is for everybody on the machine.
    """
    if place.startswith("unix:") and ":mode=" not in place:
        return f"{place}:mode=600"
    return place


class _Reloading(Service):
    """
    Reads the tokens again when the process gets SIGHUP.
    """

    def __init__(self, reactor: Any, tokens: TokenFile) -> None:
        self._reactor = reactor
        self._tokens = tokens
        self._before: Any = None

    def startService(self) -> None:
        """Take the signal."""
        super().startService()
        self._before = signal.signal(
            signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self._tokens.reload)
        )

    def stopService(self) -> None:
        """Give it back."""
        super().stopService()
        signal.signal(signal.SIGHUP, self._before)
