"""
A guest book: Twisted's web server and a database from settings, in one file.

    .venv/bin/python examples/guestbook.py

It reads C{guestbook.ini} beside it.  Where no MongoDB server answers there, it
starts one of its own, which forgets everything when the guest book ends.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bson.errors import InvalidId
from bson.objectid import ObjectId
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import react
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from txmongokit.database import Database
from txmongokit.errors import PyMongoError, ServerSelectionTimeoutError
from txmongokit.settings import MongoHandle, from_settings, read_ini
from txmongokit.testing import Deployment, ServerNotFound, standalone

__all__ = ["GuestBook", "ShortRequest", "main"]

LONGEST_BODY = 16384
LONGEST_NAME = 80
LONGEST_TEXT = 2000
ON_A_PAGE = 20

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Guest book</title>
<h1>Guest book</h1>
<form method="post" action="/">
<p><label>Name <input name="name" required maxlength="{name}"></label></p>
<p><label>Text <textarea name="text" required maxlength="{text}"></textarea></label></p>
<p><button>Sign</button></p>
</form>
{entries}
{older}
</html>
"""
_ENTRY = "<article><p><b>{name}</b>, {at:%d %B %Y, %H:%M} UTC</p><p>{text}</p></article>"
_HEADERS = {
    b"content-type": b"text/html; charset=utf-8",
    b"content-security-policy": b"default-src 'none'; form-action 'self'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
}


class _Refused(Exception):
    """
    A request is not as it should be.

    @ivar code: the status to answer with.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ShortRequest(Request):
    """
    A request of which no more is kept than a guest may write.
    """

    too_long = False

    def handleContentChunk(self, data: bytes) -> None:
        """
        Keep a part of the body, or drop it.
        """
        if self.content is not None and self.content.tell() + len(data) > LONGEST_BODY:
            self.too_long = True
        else:
            super().handleContentChunk(data)


class GuestBook(Resource):
    """
    The one page: C{GET} shows the newest entries, or those before one;
    C{POST} adds an entry.

    @param db: where the entries are.
    """

    isLeaf = True
    _log = Logger()

    def __init__(self, db: Database) -> None:
        super().__init__()
        self._entries = db["entries"]

    def render_GET(self, request: Any) -> int:
        """
        Show entries.
        """
        return self._answer(request, self._show)

    def render_POST(self, request: Any) -> int:
        """
        Add an entry.
        """
        return self._answer(request, self._sign)

    def _answer(self, request: Any, work: Callable[[Any], Coroutine[Any, Any, str]]) -> int:
        for name, value in _HEADERS.items():
            request.setHeader(name, value)
        working = Deferred.fromCoroutine(work(request))
        gone: list[Failure] = []

        def leave(failure: Failure) -> None:
            gone.append(failure)
            working.cancel()

        def finish(page: str) -> None:
            request.write(page.encode("utf-8"))
            request.finish()

        def fail(failure: Failure) -> None:
            if gone and failure.check(CancelledError):
                return
            if isinstance(failure.value, _Refused):
                request.setResponseCode(failure.value.code)
                finish(escape(str(failure.value)))
                return
            self._log.failure("the guest book cannot answer", failure)
            request.setResponseCode(http.SERVICE_UNAVAILABLE)
            finish("The guest book is closed for the moment: try again later")

        request.notifyFinish().addErrback(leave)
        working.addCallbacks(finish, fail)
        working.addErrback(lambda failure: self._log.failure("an answer was lost", failure))
        return NOT_DONE_YET

    async def _show(self, request: Any) -> str:
        wanted: dict[str, Any] = {}
        if b"before" in request.args:
            wanted = {"_id": {"$lt": _object_id(request.args[b"before"][0])}}
        found = await self._entries.find(wanted).sort("_id", -1).limit(ON_A_PAGE + 1).to_list()
        shown = found[:ON_A_PAGE]
        entries = [
            _ENTRY.format(name=escape(each["name"]), text=escape(each["text"]), at=each["at"])
            for each in shown
        ]
        older = (
            f'<p><a href="/?before={shown[-1]["_id"]}">Older</a></p>' if found[ON_A_PAGE:] else ""
        )
        return _PAGE.format(
            name=LONGEST_NAME, text=LONGEST_TEXT, entries="\n".join(entries), older=older
        )

    async def _sign(self, request: Any) -> str:
        origin = request.getHeader("origin")
        # A page of somebody else's must not make its readers sign.
        if origin is not None and urlsplit(origin).netloc != request.getHeader("host"):
            raise _Refused(http.FORBIDDEN, "sign on the guest book's own page")
        if request.too_long:
            raise _Refused(http.REQUEST_ENTITY_TOO_LARGE, "that is too long: write less")
        entry = {
            "name": _field(request, b"name", LONGEST_NAME),
            "text": _field(request, b"text", LONGEST_TEXT),
            "at": datetime.now(UTC),
        }
        await self._entries.insert_one(entry)
        request.setResponseCode(http.SEE_OTHER)
        request.setHeader(b"location", b"/")
        return "Signed"


def _object_id(value: bytes) -> ObjectId:
    try:
        return ObjectId(value.decode("ascii"))
    except (InvalidId, UnicodeDecodeError):
        raise _Refused(
            http.BAD_REQUEST, "there is no such entry: start at the first page"
        ) from None


def _field(request: Any, name: bytes, longest: int) -> str:
    """What a form says: text of a reasonable length, whatever was sent."""
    label = name.decode("ascii")
    try:
        text = b"".join(request.args.get(name, [])[:1]).decode("utf-8").strip()
    except UnicodeDecodeError:
        raise _Refused(http.BAD_REQUEST, f"the {label} is no text in UTF-8") from None
    if not 0 < len(text) <= longest:
        raise _Refused(http.BAD_REQUEST, f"the {label} must have 1 to {longest} characters")
    return text


async def _opened(
    reactor: Any, settings: dict[str, str], own_server: bool
) -> tuple[MongoHandle, Deployment | None]:
    """The database of the settings, or of a server of one's own."""
    handle = from_settings(settings, reactor=reactor)
    if not own_server:
        try:
            await handle.db.command("ping")
            return handle, None
        except ServerSelectionTimeoutError:
            print("No MongoDB server answers: ", end="")
        except PyMongoError:
            await handle.disconnect()
            raise
    await handle.disconnect()
    deployment = await deferToThread(standalone)
    host, port = deployment.members[0].address
    print(f"a server was started at {host}:{port}, which forgets everything at the end.")
    own = {"mongo.master_host": host, "mongo.master_port": port, "mongo.tz_aware": True}
    own["mongo.db"] = handle.settings.database
    return from_settings(own, reactor=reactor), deployment


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="guestbook.py", description="A guest book.")
    parser.add_argument("--ini", default=Path(__file__).with_suffix(".ini"), help="the settings")
    parser.add_argument("--own-server", action="store_true", help="start a MongoDB server anyhow")
    parser.add_argument("--port", type=int, help="where to listen, 0 for any free port")
    return parser.parse_args(arguments)


async def _run(reactor: Any, arguments: list[str]) -> None:
    options = _arguments(arguments)
    try:
        server = read_ini(options.ini, "server:main", prefix="")
        handle, deployment = await _opened(reactor, read_ini(options.ini), options.own_server)
    except (PyMongoError, ServerNotFound) as error:
        raise SystemExit(str(error)) from None
    reactor.addSystemEventTrigger("before", "shutdown", handle.disconnect)
    if deployment is not None:
        reactor.addSystemEventTrigger("after", "shutdown", deployment.close)
    host = server.get("host", "127.0.0.1")
    port = int(server.get("port", "8080")) if options.port is None else options.port
    site = Site(GuestBook(handle.db), requestFactory=ShortRequest)
    try:
        listening = await TCP4ServerEndpoint(reactor, port, interface=host).listen(site)
    except CannotListenError as error:
        raise SystemExit(f"{error} Choose another by --port.") from None
    print(f"The guest book is at http://{host}:{listening.getHost().port}/", flush=True)
    # Until the reactor stops.
    await Deferred()


def main(arguments: list[str]) -> None:
    """
    Run the guest book until it is interrupted.

    @param arguments: of the command line.
    """
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor, arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])
