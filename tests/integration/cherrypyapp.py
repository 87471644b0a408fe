"""
A CherryPy application with sessions, run by C{test_cherrypy} under CherryPy's
own server and under Twisted's: C{python -m tests.integration.cherrypyapp
SERVER PORT URI COLLECTION}.  Below C{/explicit} nothing is locked unless a page
does so.
"""

from __future__ import annotations

import os
import sys
import time
from threading import Event
from typing import Any

import cherrypy

from txmongokit.web.cherrypy_sessions import Session

__all__ = ["Application", "main"]

THREADS = 60
# How long a page is held that nobody lets go on, in seconds.
LONGEST = 20.0
_let = Event()


class Application:
    """
    Pages that use a session in each of the ways that there are.

    @ivar early: the same with locks before the body is read.
    @ivar explicit: the same without locks.
    @ivar impatient: the same, but soon tired of waiting for them.
    """

    early: Application | None = None
    explicit: Application | None = None
    impatient: Application | None = None

    @cherrypy.expose
    @cherrypy.tools.json_out()
    def index(self) -> dict[str, Any]:
        """What there is."""
        found = {key: value for key, value in cherrypy.session.items() if value is not None}
        return {"id": cherrypy.session.id, "data": found, "missing": cherrypy.session.missing}

    @cherrypy.expose
    def put(self, **fields: str) -> str:
        """Change something."""
        cherrypy.session.update(fields)
        return "done"

    @cherrypy.expose
    def add(self, name: str = "count", pause: str = "0", held: str = "") -> str:
        """One more, and perhaps later, or not before another page lets it."""
        before = cherrypy.session.get(name, 0)
        time.sleep(float(pause))  # The page is slow on purpose: others come in between.
        if held:
            _let.wait(LONGEST)
            _let.clear()
        cherrypy.session[name] = before + 1
        return str(before + 1)

    @cherrypy.expose
    def let(self) -> str:
        """Let the page that is held go on."""
        _let.set()
        return "done"

    @cherrypy.expose
    def locked(self) -> str:
        """One more, with a lock that is asked for."""
        cherrypy.session.acquire_lock()
        try:
            return str(self.add())
        finally:
            cherrypy.session.save()

    @cherrypy.expose
    @cherrypy.config(**{"response.stream": True})
    def stream(self) -> Any:
        """A change that is saved behind the last byte."""
        cherrypy.session["streamed"] = True
        yield "one"
        yield "two"

    @cherrypy.expose
    def append(self, item: str) -> str:
        """A change deep inside."""
        cherrypy.session.setdefault("items", []).append(item)
        return "done"

    @cherrypy.expose
    def regenerate(self) -> str:
        """Another id, as after a login."""
        cherrypy.session.regenerate()
        cherrypy.session["user"] = "ann"
        return str(cherrypy.session.id)

    @cherrypy.expose
    def forget(self) -> str:
        """The end of a session."""
        cherrypy.session.delete()
        cherrypy.lib.sessions.expire()
        return "done"

    @cherrypy.expose
    def clean(self) -> str:
        """Expired sessions removed, the others counted."""
        cherrypy.session.load()
        cherrypy.session.clean_up()
        return str(len(cherrypy.session))

    @cherrypy.expose
    def crash(self) -> None:
        """The end of the process, with the lock held."""
        cherrypy.session["half"] = True
        os._exit(9)

    @cherrypy.expose
    def quiet(self) -> str:
        """Nothing to do with the session."""
        return "done"

    @cherrypy.expose
    def login(self, user: str) -> str:
        """A user comes."""
        cherrypy.session.bind_user(user)
        return str(cherrypy.session.user)


def configuration(uri: str, collection: str) -> dict[str, Any]:
    """As CherryPy's documentation has it."""
    return {
        "/": {
            "tools.sessions.on": True,
            "tools.sessions.storage_class": Session,
            "tools.sessions.uri": uri,
            "tools.sessions.collection_name": collection,
            "tools.sessions.lock_timeout": 20,
            "tools.sessions.lock_lease": 1,
            "tools.sessions.timeout": 60,
            "tools.sessions.httponly": True,
        },
        "/early": {"tools.sessions.locking": "early"},
        "/explicit": {"tools.sessions.locking": "explicit"},
        "/impatient": {"tools.sessions.lock_timeout": 0.2},
    }


def main(server: str, port: str, uri: str, collection: str) -> None:
    """Serve until a signal comes."""
    cherrypy.config.update({"environment": "production", "log.screen": True})
    application = Application()
    application.early, application.explicit = Application(), Application()
    application.impatient = Application()
    cherrypy.tree.mount(application, "/", configuration(uri, collection))
    if server == "cherrypy":
        cherrypy.config.update(
            {
                "server.socket_host": "127.0.0.1",
                "server.socket_port": int(port),
                "server.thread_pool": THREADS,
            }
        )
        cherrypy.engine.signals.subscribe()
        cherrypy.engine.start()
        cherrypy.engine.block()
    else:
        serve_with_twisted(int(port))
    print("ended", flush=True)


def serve_with_twisted(port: int) -> None:
    """The same application below twisted.web."""
    from twisted.internet import reactor as installed
    from twisted.python.threadpool import ThreadPool
    from twisted.web.server import Site
    from twisted.web.wsgi import WSGIResource

    reactor: Any = installed
    cherrypy.server.unsubscribe()
    cherrypy.config.update({"engine.autoreload.on": False})
    pool = ThreadPool(maxthreads=THREADS)
    reactor.callWhenRunning(pool.start)
    reactor.addSystemEventTrigger("after", "shutdown", pool.stop)
    reactor.callWhenRunning(cherrypy.engine.start)
    reactor.addSystemEventTrigger("before", "shutdown", cherrypy.engine.exit)
    site = Site(WSGIResource(reactor, pool, cherrypy.tree))
    reactor.listenTCP(port, site, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
