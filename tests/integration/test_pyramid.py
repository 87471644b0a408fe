"""
C{config.include("txmongokit.settings")} in real Pyramid applications: below
Twisted's WSGI container, and below another.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.server import Site
from twisted.web.wsgi import WSGIResource

from tests.httpclients import http_client
from tests.integration.test_settings import SettingsCase, settings
from tests.reactorthreads import renew_reactor_thread
from txmongokit.database import Database
from txmongokit.errors import ConfigurationError, DuplicateKeyError
from txmongokit.settings import MongoHandle

ROOT = Path(__file__).resolve().parents[2]
# Nobody asks these anything.
MEMBERS = {"mongo.master_host": "a", "mongo.slave_hosts": "b", "mongo.db": "foo"}


def sign(request: Request) -> dict[str, Any]:
    """A view that writes."""
    guests = request.db.guests
    try:
        guests.insert_one({"_id": request.params["name"], "visits": 1})
    except DuplicateKeyError:
        guests.update_one({"_id": request.params["name"]}, {"$inc": {"visits": 1}})
    return {"signed": guests.find_one({"_id": request.params["name"]})["visits"]}


def guests(request: Request) -> dict[str, Any]:
    """A view that reads."""
    found = request.db.guests.find({}, ["_id"]).sort("_id").limit(3)
    databases = request.db_conn.list_database_names()
    return {"names": [each["_id"] for each in found], "here": "settings" in databases}


async def visits(db: Database) -> int:
    """What runs on the reactor's side."""
    return sum([each["visits"] async for each in db.guests.find()])


def total(request: Request) -> dict[str, Any]:
    """A view with asynchronous work."""
    return {"visits": request.run_mongo(visits, request.db)}


def careless(request: Request) -> dict[str, Any]:
    """A view that begins what it does not end."""
    before = request.db_conn.in_request()
    request.db_conn.start_request()
    request.db_conn.start_request()
    return {"before": before, "after": request.db_conn.in_request()}


def careful(request: Request) -> dict[str, Any]:
    """A view that begins, and asks another view before it ends."""
    before = request.db_conn.in_request()
    request.db_conn.start_request()
    inner = request.invoke_subrequest(Request.blank("/careless"))
    return {"before": before, "inner": inner.json, "after": request.db_conn.in_request()}


def application(configuration: dict[str, Any]) -> Any:
    """The Pyramid application, and what it keeps of its settings."""
    with Configurator(settings=configuration) as config:
        config.include("txmongokit.settings")
        for view in (sign, guests, total, careless, careful):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__, renderer="json")
    return config.make_wsgi_app(), config.registry["mongo"]


class PyramidTests(SettingsCase):
    """
    C{config.include("txmongokit.settings")}.
    """

    def setUp(self) -> None:
        """For threads that wait."""
        super().setUp()
        renew_reactor_thread(self)

    def serve(self, configuration: dict[str, Any]) -> tuple[MongoHandle, HTTPClient]:
        """Serve the application, and a client of it."""
        app, handle = application(configuration)
        self.addCleanup(handle.disconnect)
        serving: Any = reactor
        resource = WSGIResource(reactor, serving.getThreadPool(), app)
        port = serving.listenTCP(0, Site(resource), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.url = f"http://127.0.0.1:{port.getHost().port}"
        return handle, http_client(self)

    def test_requests(self) -> Deferred[None]:
        """Views write, read and wait for asynchronous work."""
        return Deferred.fromCoroutine(self.requests())

    async def requests(self) -> None:
        """See L{test_requests}."""
        handle, client = self.serve(settings())
        for name, expected in [("Ada", 1), ("Bo", 1), ("Ada", 2), ("Cy", 1), ("Di", 1)]:
            response = await client.get(f"{self.url}/sign?name={name}")
            self.assertEqual(await response.json(), {"signed": expected})
        response = await client.get(f"{self.url}/guests")
        self.assertEqual(await response.json(), {"names": ["Ada", "Bo", "Cy"], "here": True})
        response = await client.get(f"{self.url}/total")
        self.assertEqual(await response.json(), {"visits": 5})
        # The application's own side of Twisted has the asynchronous API.
        self.assertEqual(await handle.db.guests.count_documents({}), 4)

    def test_documented(self) -> Deferred[None]:
        """The application of C{docs/settings.rst} serves as it stands there."""
        return Deferred.fromCoroutine(self.documented())

    async def documented(self) -> None:
        """See L{test_documented}."""
        text = (ROOT / "docs" / "settings.rst").read_text()
        section = text.partition("In a Pyramid application")[2]
        block = section.partition(".. code-block:: python\n")[2].partition("\n* ")[0]
        names: dict[str, Any] = {}
        exec(textwrap.dedent(block), names)
        app = names["main"]({}, **settings())
        self.addCleanup(app.registry["mongo"].disconnect)
        port = names["serve"](app, 0)
        self.addCleanup(port.stopListening)
        client, url = http_client(self), f"http://127.0.0.1:{port.getHost().port}"
        for number in (1, 2):
            response = await client.get(f"{url}/visits")
            self.assertEqual(await response.json(), {"visits": number})
        response = await client.get(f"{url}/total")
        self.assertEqual(await response.json(), {"total": 2})

    def test_requests_end(self) -> Deferred[None]:
        """What C{start_request} began ends with Pyramid's request."""
        return Deferred.fromCoroutine(self.requests_end())

    async def requests_end(self) -> None:
        """See L{test_requests_end}."""
        _, client = self.serve(MEMBERS)
        # More often than there are threads.
        for _ in range(25):
            response = await client.get(f"{self.url}/careless")
            self.assertEqual(await response.json(), {"before": False, "after": True})

    def test_requests_within_requests(self) -> Deferred[None]:
        """What a view began outlives the requests that it makes of other views."""
        return Deferred.fromCoroutine(self.within_requests())

    async def within_requests(self) -> None:
        """See L{test_requests_within_requests}."""
        _, client = self.serve(MEMBERS)
        # More often than there are threads.
        for _ in range(25):
            response = await client.get(f"{self.url}/careful")
            inner = {"before": True, "after": True}
            told = {"before": False, "inner": inner, "after": True}
            self.assertEqual(await response.json(), told)

    def test_values_from_outside(self) -> Deferred[None]:
        """What a request says is a value, whatever it looks like."""
        return Deferred.fromCoroutine(self.outside())

    async def outside(self) -> None:
        """See L{test_values_from_outside}."""
        _, client = self.serve(settings())
        for name in ("$ne", '{"$ne": ""}', "a.b"):
            response = await client.get(f"{self.url}/sign", params={"name": name})
            self.assertEqual(await response.json(), {"signed": 1})
        self.assertEqual(self.database["guests"].count_documents({}), 3)

    def test_wrong_settings(self) -> None:
        """An application with wrong settings does not start."""
        error = self.assertRaises(
            ConfigurationError, application, settings(**{"mongo.maxPolSize": "3"})
        )
        self.assertIn("mongo.maxPolSize is not known: did you mean", str(error))

    def test_another_container(self) -> Deferred[None]:
        """Below a WSGI server without Twisted the application works, and ends."""
        return Deferred.fromCoroutine(self.another_container())

    async def another_container(self) -> None:
        """See L{test_another_container}."""
        script = (
            "import json, sys\n"
            "from wsgiref.util import setup_testing_defaults\n"
            "from tests.integration.test_pyramid import application\n"
            "app, _ = application(json.loads(sys.argv[1]))\n"
            "for path in ('/sign', '/sign', '/guests'):\n"
            "    environ = {'PATH_INFO': path, 'QUERY_STRING': 'name=Ada'}\n"
            "    setup_testing_defaults(environ)\n"
            "    print(b''.join(app(environ, lambda status, headers: None)).decode())\n"
        )
        out, err, code = await getProcessOutputAndValue(
            sys.executable,
            # Pyramid's own, of what newer setuptools will have no more.
            ["-W", "ignore:pkg_resources:UserWarning", "-c", script, json.dumps(settings())],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            path=str(ROOT),
        )
        self.assertEqual((err.decode(), code), ("", 0))
        told = [json.loads(line) for line in out.decode().splitlines()]
        self.assertEqual(told, [{"signed": 1}, {"signed": 2}, {"names": ["Ada"], "here": True}])
