"""
Tests for L{txmongokit.web.rest} and L{txmongokit.web.bounded}, over
connections in memory and with a scripted server.
"""

from __future__ import annotations

import json
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.test.requesthelper import DummyRequest

import txmongokit.web.bounded
from tests.fakes import Script, cursor_reply
from tests.web.logs import logged
from tests.web.secretfiles import write_secret
from tests.web.test_files import Connection, Served
from tests.web.test_store import ID, MATCHED, MISSED, NOW, StoreTestCase, stored
from txmongokit.errors import AutoReconnect, OperationFailure
from txmongokit.web.bounded import BoundedSite, Refusal
from txmongokit.web.rest import Limits, SessionAPI
from txmongokit.web.sessionmetrics import SessionMetrics
from txmongokit.web.tokens import TokenFile

JSON = b"application/json"
EMPTY: dict[str, Any] = {"data": {}}
TOKEN = "a-token-0123456789abc"
ROUTES = (
    "/v1/sessions",
    f"/v1/sessions/{ID}",
    f"/v1/sessions/{ID}/touch",
    f"/v1/sessions/{ID}/regenerate",
    f"/v1/sessions/{ID}/user",
    "/v1/users/ann/sessions",
    f"/v1/keys/{'0' * 64}",
    "/metrics",
    "/nothing",
    "/",
)


class ServedAPI(Served):
    """
    One connection to the API.
    """

    host = b"localhost:8080"

    def __init__(self, site: BoundedSite) -> None:
        self.transport = Connection()
        self.channel = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        """A whole request, and its answer."""
        named = {"Content_Length": b"%d" % len(body or b"")}
        if body is not None:
            named["Content_Type"] = JSON
        named |= {name: value.encode() for name, value in headers.items()}
        self.transport.clear()
        self.send(method.encode(), path.encode(), body, **named)
        return self.answer()


class APITestCase(StoreTestCase):
    """
    An API whose database is a script.
    """

    token: str | None = None

    def serve(self, *replies: Script, limits: Limits | None = None, **options: Any) -> ServedAPI:
        """A connection to it."""
        store = self.store(*replies, **options)
        self.clock = Clock()
        self.metrics = SessionMetrics()
        tokens = None
        if self.token is not None:
            path = write_secret(Path(self.mktemp()), self.token)
            tokens = TokenFile(path, self.clock.seconds)
        limits = Limits() if limits is None else limits
        self.api = SessionAPI(
            lambda: store, self.clock, tokens=tokens, metrics=self.metrics, limits=limits
        )
        self.site = self.api.site()
        return self.connect()

    def connect(self) -> ServedAPI:
        """Another connection to the same."""
        return ServedAPI(self.site)

    def ask(
        self, method: str, path: str, *replies: Script, body: object = None, **headers: str
    ) -> tuple[int, dict[bytes, bytes], Any]:
        """One request, and its answer as an object."""
        raw = None if body is None else json.dumps(body).encode()
        status, found, text = self.serve(*replies).ask(method, path, raw, **headers)
        return status, found, json.loads(text) if text.startswith(b"{") else text


class Fractions:
    """
    A codec of objects that JSON does not have.
    """

    def encode(self, data: dict[str, Any]) -> dict[str, Any]:
        """Nothing is saved by it."""
        return data

    def decode(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Fractions."""
        return {name: Fraction(value) for name, value in stored.items()}


class RouteTests(APITestCase):
    """
    What the routes do.
    """

    def test_load(self) -> None:
        """A session, in extended JSON, with its version."""
        status, headers, found = self.ask("GET", f"/v1/sessions/{ID}", stored({"a": 1}, user="ann"))
        self.assertEqual(status, 200)
        self.assertEqual(headers[b"etag"], b'"3"')
        self.assertEqual(headers[b"content-type"], b"application/json")
        self.assertEqual(headers[b"cache-control"], b"no-store")
        when = {"$date": "2026-11-21T12:00:00Z"}
        self.assertEqual(
            found,
            {
                "id": ID,
                "data": {"a": 1},
                "user": "ann",
                "confidential": False,
                "created": when,
                "used": when,
                "expires": {"$date": "2026-11-21T12:01:40Z"},
                "lifetime": 100.0,
                "version": 3,
            },
        )

    def test_head(self) -> None:
        """The same without a body."""
        served = self.serve(stored({"a": 1}))
        status, headers, body = served.ask("HEAD", f"/v1/sessions/{ID}")
        self.assertEqual((status, headers[b"etag"], body), (200, b'"3"', b""))

    def test_absent(self) -> None:
        """What is not there, or can be no id, is one and the same to the client."""
        absent = cursor_reply([])
        _, _, expected = self.ask("GET", f"/v1/sessions/{ID}", absent)
        for path in (ID, "A", "%24ne", "%ff" * 43, "a.b", "..", "A" * 44, '{"$gt":""}'):
            status, _, found = self.ask("GET", f"/v1/sessions/{path}", absent)
            self.assertEqual((status, found), (404, expected))
            if path != ID:
                self.assertEqual(self.runner.requests, [])
        for method, rest in (("POST", "/touch"), ("POST", "/regenerate"), ("DELETE", "")):
            missed = MISSED if method == "DELETE" else absent
            self.assertEqual(self.ask(method, f"/v1/sessions/{ID}{rest}", missed)[0], 404)
        for match in ("*", '"3"'):
            path = f"/v1/sessions/{ID}"
            self.assertEqual(self.ask("PUT", path, absent, body=EMPTY, If_Match=match)[0], 404)

    def test_create(self) -> None:
        """A new session has an id of the store's own."""
        status, headers, found = self.ask(
            "POST",
            "/v1/sessions",
            MATCHED,
            body={
                "data": {"when": {"$date": "2026-01-01T00:00:00Z"}, "$set": 1},
                "user": "ann",
                "lifetime": 5,
                "confidential": True,
            },
        )
        self.assertEqual((status, headers[b"etag"]), (201, b'"1"'))
        self.assertEqual(len(found["id"]), 43)
        self.assertEqual(headers[b"location"], f"/v1/sessions/{found['id']}".encode())
        (document,) = self.runner.statements()
        self.assertEqual((document["user"], document["lifetime"]), ("ann", 5000))
        self.assertTrue(document["confidential"])
        self.assertNotIn("$set", document["data"])
        self.assertEqual(found["data"]["$set"], 1)

    def test_create_empty(self) -> None:
        """Nothing need be in it."""
        status, _, found = self.ask("POST", "/v1/sessions", MATCHED, body={})
        self.assertEqual((status, found["data"], found["user"]), (201, {}, None))

    def test_save(self) -> None:
        """Data is saved over the version that it was loaded with."""
        path, body = f"/v1/sessions/{ID}", {"data": {"a": 2}, "lifetime": 7}
        status, headers, found = self.ask(
            "PUT", path, stored({"a": 1}), MATCHED, body=body, If_Match='"3"'
        )
        self.assertEqual((status, headers[b"etag"]), (200, b'"4"'))
        self.assertEqual((found["data"], found["lifetime"]), ({"a": 2}, 7.0))
        (update,) = self.runner.statements(-1)
        self.assertEqual((update["q"]["version"], update["u"]["$set"]["data"]), (3, {"a": 2}))

    def test_conflict(self) -> None:
        """Another version is told of, whether it came before or in between."""
        path, body = f"/v1/sessions/{ID}", {"data": {"a": 2}}
        status, headers, _ = self.ask("PUT", path, stored({}), body=body, If_Match='"2"')
        self.assertEqual((status, headers[b"etag"]), (412, b'"3"'))
        self.assertEqual(self.runner.names, ["find"])
        replies = (stored({"a": 1}), MISSED, stored({"a": 5}, version=4))
        status, headers, _ = self.ask("PUT", path, *replies, body=body, If_Match='"3"')
        self.assertEqual((status, headers[b"etag"]), (412, b'"4"'))
        self.assertEqual(self.metrics.conflicts, 1)
        replies = (stored({"a": 1}), MISSED, cursor_reply([]))
        self.assertEqual(self.ask("PUT", path, *replies, body=body, If_Match='"3"')[0], 404)

    def test_any_version(self) -> None:
        """With a star the newest is replaced, whatever it is."""
        status, headers, _ = self.ask(
            "PUT",
            f"/v1/sessions/{ID}",
            *(stored({"a": 1}), MATCHED),
            body={"data": {"a": 2}, "lifetime": 9},
            If_Match="*",
        )
        self.assertEqual((status, headers[b"etag"]), (200, b'"4"'))

    def test_if_match(self) -> None:
        """Without a version there is no save; nor with what is none."""
        path, body = f"/v1/sessions/{ID}", EMPTY
        self.assertEqual(self.ask("PUT", path, body=body)[0], 428)
        for wrong in ("3", 'W/"3"', '"x"', '""', '"3', '"1", "3"', f'"{"9" * 19}"'):
            self.assertEqual(self.ask("PUT", path, body=body, If_Match=wrong)[0], 412)
        self.assertEqual(self.ask("DELETE", path, If_Match='"3"')[0], 400)
        self.assertEqual(self.runner.requests, [])

    def test_delete(self) -> None:
        """A session is ended, by id or by key."""
        for path in (f"/v1/sessions/{ID}", f"/v1/keys/{'0f' * 32}"):
            status, headers, body = self.ask("DELETE", path, MATCHED)
            self.assertEqual((status, body), (204, b""))
            self.assertNotIn(b"content-length", headers)
        self.assertEqual(self.ask("DELETE", "/v1/keys/zz")[0], 404)

    def test_touch(self) -> None:
        """A session lasts, and its version stays."""
        old = stored({}, used=NOW - timedelta(seconds=50))
        path = f"/v1/sessions/{ID}/touch"
        touched = {"value": {"used": NOW, "expires": NOW + timedelta(seconds=100)}, "ok": 1.0}
        status, headers, found = self.ask("POST", path, old, touched)
        self.assertEqual((status, headers[b"etag"]), (200, b'"3"'))
        self.assertEqual(found, {"expires": {"$date": "2026-11-21T12:01:40Z"}})
        self.assertEqual(self.ask("POST", path, old, MISSED)[0], 404)

    def test_new_ids(self) -> None:
        """A session gets a new id, with another user or not."""
        for rest, body, user in (("regenerate", None, "ann"), ("user", {"user": "bob"}, "bob")):
            status, headers, found = self.ask(
                "POST",
                f"/v1/sessions/{ID}/{rest}",
                *(stored({"a": 1}, user="ann"), MATCHED, MATCHED),
                body=body,
            )
            self.assertEqual((status, found["user"], found["data"]), (200, user, {"a": 1}))
            self.assertNotEqual(found["id"], ID)
            self.assertEqual(headers[b"location"], f"/v1/sessions/{found['id']}".encode())
            self.assertEqual(self.runner.names[1:], ["insert", "delete"])

    def test_new_id_of_any_version(self) -> None:
        """Who asks for a new id names no version: others who save are no conflict, at first."""
        newer = stored({"a": 2}, version=4)
        overtaken: tuple[Script, ...] = (MATCHED, MISSED, MATCHED, newer)
        for rest, body in (("regenerate", None), ("user", {"user": "bob"})):
            path = f"/v1/sessions/{ID}/{rest}"
            replies = (stored({"a": 1}), *overtaken, MATCHED, MATCHED)
            status, _, found = self.ask("POST", path, *replies, body=body)
            self.assertEqual((status, found["data"]), (200, {"a": 2}))
            self.assertEqual(len(self.runner.replies), 0)
            status, headers, _ = self.ask("POST", path, stored({}), *overtaken * 5, body=body)
            self.assertEqual((status, headers[b"etag"]), (412, b'"4"'))
            self.assertEqual(len(self.runner.replies), 0)

    def test_logout(self) -> None:
        """A user can be taken away."""
        path = f"/v1/sessions/{ID}/user"
        replies = (stored({}, user="ann"), MATCHED, MATCHED)
        status, _, found = self.ask("POST", path, *replies, body={"user": None})
        self.assertEqual((status, found["user"]), (200, None))
        self.assertEqual(self.ask("POST", path, body={})[0], 400)
        for wrong in ("", 5, "x" * 600):
            self.assertEqual(self.ask("POST", path, stored({}), body={"user": wrong})[0], 400)

    def test_list(self) -> None:
        """A user's sessions have keys, but neither ids nor data."""
        document = stored({"a": 1}, user="ä/b")["cursor"]["firstBatch"][0]
        reply = cursor_reply([document] * 3, namespace="db.sessions")
        path = "/v1/users/%C3%A4%2Fb/sessions"
        status, _, found = self.ask("GET", f"{path}?limit=2", reply)
        self.assertEqual(status, 200)
        self.assertEqual((len(found["sessions"]), found["more"]), (2, True))
        self.assertEqual(
            sorted(found["sessions"][0]),
            ["confidential", "created", "expires", "key", "used", "user"],
        )
        body = self.runner.bodies[0]
        self.assertEqual((body["filter"]["user"], body["limit"]), ("ä/b", 3))
        self.assertFalse(self.ask("GET", path, reply)[2]["more"])
        for wrong in ("0", "1001", "-1", "x", "", "9" * 30):
            self.assertEqual(self.ask("GET", f"{path}?limit={wrong}")[0], 400)

    def test_revoke(self) -> None:
        """All of a user end at once."""
        status, _, found = self.ask("DELETE", "/v1/users/ann/sessions", {"n": 4, "ok": 1.0})
        self.assertEqual((status, found), (200, {"revoked": 4}))
        (delete,) = self.runner.statements()
        self.assertEqual((delete["q"], delete["limit"]), ({"user": "ann"}, 0))
        for wrong in ("%ff", "x" * 600):
            self.assertEqual(self.ask("DELETE", f"/v1/users/{wrong}/sessions")[0], 400)

    def test_health(self) -> None:
        """Well where the database is."""
        self.assertEqual(self.ask("GET", "/health", {"ok": 1.0})[0], 200)
        self.assertEqual(self.ask("GET", "/health", AutoReconnect("gone"))[0], 503)

    def test_metrics(self) -> None:
        """Counts, by route and never by path."""
        served = self.serve(stored({}), {"n": 12, "ok": 1.0}, AutoReconnect("gone"))
        served.ask("GET", f"/v1/sessions/{ID}")
        served.ask("BREW", f"/v1/sessions/{ID}")
        status, headers, text = served.ask("GET", "/metrics")
        self.assertEqual((status, headers[b"content-type"][:10]), (200, b"text/plain"))
        for line in (
            b"mongosessions_sessions 12",
            b"mongosessions_requests_under_way 1",
            b'mongosessions_requests_total{route="session",method="GET",status="200"} 1',
            b'mongosessions_requests_total{route="session",method="other",status="405"} 1',
        ):
            self.assertIn(line, text.splitlines())
        self.assertNotIn(ID.encode(), text)
        self.assertNotIn(b"mongosessions_sessions ", served.ask("GET", "/metrics")[2])

    def test_elsewhere(self) -> None:
        """Other paths and methods are errors in JSON, too."""
        for path in (
            "/",
            "/v1",
            "/v1/sessions/",
            f"/v1/sessions/{ID}/x",
            "/v1/users",
            "/V1/sessions",
        ):
            status, _, found = self.ask("GET", path)
            self.assertEqual((status, list(found)), (404, ["error"]))
        status, headers, found = self.ask("PATCH", f"/v1/sessions/{ID}")
        self.assertEqual((status, headers[b"allow"]), (405, b"DELETE, GET, PUT"))
        self.assertEqual(list(found), ["error"])


class BodyTests(APITestCase):
    """
    Bodies that cannot be used.
    """

    def test_fields(self) -> None:
        """Each field has its type, and there are no others."""
        bodies: list[Any] = [
            {"data": []},
            {"data": 1},
            {"data": None},
            {"dat": {}},
            {"id": ID, "data": {}},
            {"user": 1},
            {"user": ""},
            {"lifetime": "5"},
            {"lifetime": -1},
            {"lifetime": True},
            {"lifetime": 1e300},
            {"lifetime": {"$numberDouble": "NaN"}},
            {"confidential": "no"},
            [],
        ]
        for body in bodies:
            status, _, found = self.ask("POST", "/v1/sessions", body=body)
            self.assertEqual((status, list(found)), (400, ["error"]), body)
        for lifetime in ("5", -1, True, 1e300, {"$numberDouble": "NaN"}):
            for match in ("*", '"3"'):
                changed = {"data": {"b": 1}, "lifetime": lifetime}
                path = f"/v1/sessions/{ID}"
                status = self.ask("PUT", path, stored({}), body=changed, If_Match=match)[0]
                self.assertEqual(status, 400, lifetime)
        self.assertEqual(self.ask("PUT", f"/v1/sessions/{ID}", body={}, If_Match="*")[0], 400)

    def test_not_json(self) -> None:
        """What is no JSON, or does not say that it is."""
        served = self.serve()
        for raw in (b"", b"{", b"\xff", b"[" * 100_000):
            self.assertEqual(served.ask("POST", "/v1/sessions", raw)[0], 400)
        form = "application/x-www-form-urlencoded"
        for kind in (form, "text/plain", "multipart/form-data; boundary=x", ""):
            status, _, body = served.ask("POST", "/v1/sessions", b"{}", Content_Type=kind)
            self.assertEqual(
                (status, json.loads(body)), (415, {"error": "send application/json"}), kind
            )
        self.assertEqual(self.runner.requests, [])

    def test_too_much_data(self) -> None:
        """Data may be too large for the store though its JSON is not, or too deep."""
        served = self.serve()
        large = json.dumps({"data": {"a": "x" * (1 << 20)}}).encode()
        self.assertEqual(served.ask("POST", "/v1/sessions", large)[0], 413)
        deep = b'{"data":' + b'{"a":' * 70 + b"1" + b"}" * 71
        self.assertEqual(served.ask("POST", "/v1/sessions", deep)[0], 400)

    def test_too_long(self) -> None:
        """A body that is too long is refused before it has come, and cut off at last."""
        served = self.serve(limits=Limits(body=10))
        served.send(b"POST", b"/v1/sessions", b"", Content_Length=b"11")
        status, headers, body = served.answer()
        self.assertEqual((status, headers[b"connection"]), (413, b"close"))
        self.assertEqual(json.loads(body), {"error": "the body may have 10 bytes"})
        self.assertIn('route="refused",method="other",status="413"} 1', self.metrics.text(None))
        served.channel.dataReceived(b"x" * 11)
        self.assertTrue(served.transport.disconnecting)
        self.assertEqual(served.transport.value().count(b"HTTP/1.1"), 1)

    def test_chunked(self) -> None:
        """The same where its length is not declared."""
        served = self.serve(limits=Limits(body=10))
        served.send(b"POST", b"/v1/sessions", b"6\r\n012345\r\n", Transfer_Encoding=b"chunked")
        self.assertEqual(served.transport.value(), b"")
        served.channel.dataReceived(b"6\r\n012345\r\n")
        self.assertEqual(served.answer()[0], 413)
        self.patch(txmongokit.web.bounded, "_PATIENCE", 2)
        served.channel.dataReceived(b"9\r\n012345678\r\n")
        self.assertTrue(served.transport.disconnecting)

    def test_bodies(self) -> None:
        """So many requests with bodies at once, and no more, however slowly they come."""
        served = self.serve(MATCHED, limits=Limits(requests=2))
        slow = [served, self.connect()]
        for each in slow:
            each.send(b"POST", b"/v1/sessions", b"{", Content_Length=b"2", Content_Type=JSON)
        other = self.connect()
        other.send(b"POST", b"/v1/sessions", Content_Length=b"2", Content_Type=JSON)
        status, headers, _ = other.answer()
        self.assertEqual((status, headers[b"retry-after"]), (503, b"1"))
        self.assertIn('route="refused",method="other",status="503"} 1', self.metrics.text(None))
        slow[0].lose()
        slow[1].channel.dataReceived(b"}")
        self.assertEqual(slow[1].answer()[0], 201)
        self.runner.replies += [MATCHED, MATCHED]
        for _ in range(2):
            self.assertEqual(self.connect().ask("POST", "/v1/sessions", b"{}")[0], 201)

    def test_refused_by_http2(self) -> None:
        """Where the resource itself has to tell of a refusal, it tells all of it."""
        self.serve()
        request: Any = DummyRequest([b"health"])
        request.refused = Refusal(503, "too many", {"retry-after": "7"})
        self.api.render(request)
        self.assertEqual(request.responseCode, 503)
        self.assertEqual(request.responseHeaders.getRawHeaders("retry-after"), ["7"])

    def test_long_enough(self) -> None:
        """One that is as long as it may be is taken."""
        raw = b'{"data": {}}'
        served = self.serve(MATCHED, limits=Limits(body=len(raw)))
        self.assertEqual(served.ask("POST", "/v1/sessions", raw)[0], 201)


class TroubleTests(APITestCase):
    """
    When something does not work.
    """

    def test_database(self) -> None:
        """Errors of the database are 503; their messages go nowhere."""
        secret = OperationFailure("dup key: { secret }", 2)
        for error in (AutoReconnect("secret"), secret):
            with logged() as lines:
                status, headers, found = self.ask("GET", f"/v1/sessions/{ID}", error)
            self.assertEqual((status, headers[b"retry-after"]), (503, b"1"))
            self.assertNotIn("secret", str(found) + "".join(lines))
            self.assertIn(type(error).__name__, lines[0])

    def test_unreadable(self) -> None:
        """A session of another codec or key cannot be shown."""
        status, _, found = self.ask("GET", f"/v1/sessions/{ID}", stored(b"sealed", key="k"))
        self.assertEqual(status, 500)
        self.assertIn("codec or key", found["error"])

    def test_programming_error(self) -> None:
        """What nobody expects is logged and does not show."""
        status, _, found = self.ask("GET", f"/v1/sessions/{ID}", ZeroDivisionError("secret"))
        self.assertEqual((status, found), (500, {"error": "this has failed here: see the log"}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_not_for_json(self) -> None:
        """Objects of a codec cannot be shown: that is told, and not what they are."""
        served = self.serve(stored({"a": 1}), codec=Fractions())
        with logged() as lines:
            status, _, body = served.ask("GET", f"/v1/sessions/{ID}")
        reason = "the session has data that JSON cannot have"
        self.assertEqual((status, json.loads(body)), (500, {"error": reason}))
        self.assertNotIn("Fraction", "".join(lines))
        self.successResultOf(self.api.idle())

    def test_slow_count(self) -> None:
        """A database that is away leaves its number out of the metrics, and is not waited for."""
        served = self.serve(Deferred(), limits=Limits(seconds=4))
        served.send(b"GET", b"/metrics")
        self.clock.advance(1.9)
        self.assertEqual(served.transport.value(), b"")
        self.clock.advance(0.1)
        status, _, text = served.answer()
        self.assertEqual(status, 200)
        self.assertIn(b"mongosessions_conflicts_total 0", text)
        self.assertNotIn(b"mongosessions_sessions ", text)

    def test_slow(self) -> None:
        """A database that takes too long is given up."""
        served = self.serve(Deferred(), limits=Limits(seconds=3))
        served.send(b"GET", f"/v1/sessions/{ID}".encode())
        self.clock.advance(2.9)
        self.assertEqual(served.transport.value(), b"")
        self.clock.advance(0.1)
        self.assertEqual(served.answer()[0], 503)
        self.assertEqual(self.metrics.under_way, 0)

    def test_gone(self) -> None:
        """A client that goes away ends its request."""
        cancelled: list[object] = []
        served = self.serve(Deferred(cancelled.append))
        served.send(b"GET", f"/v1/sessions/{ID}".encode())
        idle = self.api.idle()
        self.assertNoResult(idle)
        served.lose()
        self.assertEqual((len(cancelled), self.metrics.under_way), (1, 0))
        self.successResultOf(idle)
        self.successResultOf(self.api.idle())
        self.assertIn('status="499"', self.metrics.text(None))

    def test_too_many(self) -> None:
        """So many requests at once, and no more."""
        served = self.serve(Deferred(), Deferred(), limits=Limits(requests=2))
        others = [served, self.connect()]
        for each in others:
            each.send(b"GET", f"/v1/sessions/{ID}".encode())
        status, headers, _ = self.connect().ask("GET", "/health")
        self.assertEqual((status, headers[b"retry-after"]), (503, b"1"))
        others[0].lose()
        self.runner.replies.append({"ok": 1.0})
        self.assertEqual(self.connect().ask("GET", "/health")[0], 200)

    def test_log(self) -> None:
        """The log has a request's kind, and neither its id nor its user."""
        served = self.serve(stored({}), cursor_reply([]))
        with logged() as lines:
            served.ask("GET", f"/v1/sessions/{ID}?{ID}")
            served.ask("GET", "/v1/users/ann/sessions")
            served.ask("GET", f"/{ID}", Referer=ID, User_Agent=ID)
        self.assertEqual(len(lines), 3)
        self.assertIn("GET session 200", lines[0])
        self.assertNotIn(ID, "".join(lines))
        self.assertNotIn("ann", "".join(lines))


class LoopbackTests(APITestCase):
    """
    Where no token is needed.
    """

    def test_pages(self) -> None:
        """Web pages do not get in, by a form or by a name that leads here."""
        for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            for path in (*ROUTES, "/health"):
                served = self.serve()
                served.host = headers.get("Host", "localhost").encode()
                given = {name: value for name, value in headers.items() if name != "Host"}
                status, _, body = served.ask("GET", path, None, **given)
                self.assertEqual((status, list(json.loads(body))), (403, ["error"]))
                self.assertEqual(self.runner.requests, [])


class TokenTests(APITestCase):
    """
    Where one is.
    """

    token = TOKEN

    def test_shown(self) -> None:
        """Who shows it comes in, from anywhere."""
        served = self.serve(stored({}))
        served.host = b"sessions.example"
        path = f"/v1/sessions/{ID}"
        status = served.ask("GET", path, Authorization=f"Bearer {TOKEN}", Origin="http://a")[0]
        self.assertEqual(status, 200)

    def test_not_shown(self) -> None:
        """Nobody else learns anything, not even which paths there are."""
        answers = set()
        for path in ROUTES:
            for method in ("GET", "POST", "BREW"):
                status, headers, body = self.serve().ask(method, path)
                answers.add((status, headers[b"www-authenticate"], body))
                self.assertEqual(self.runner.requests, [])
        ((status, challenge, _),) = answers
        self.assertEqual((status, challenge), (401, b"Bearer"))

    def test_wrong(self) -> None:
        """A wrong one is told apart from none, in no more than the challenge."""
        for shown in ("Bearer", "Bearer x", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
            status, headers, _ = self.serve().ask("GET", "/metrics", Authorization=shown)
            self.assertEqual(status, 401)
            self.assertEqual(headers[b"www-authenticate"], b'Bearer error="invalid_token"')
        for shown in (TOKEN, f"Basic {TOKEN}", ""):
            status, headers, _ = self.serve().ask("GET", "/metrics", Authorization=shown)
            self.assertEqual((status, headers[b"www-authenticate"]), (401, b"Bearer"))

    def test_body(self) -> None:
        """A body is refused before it comes, where no token is shown."""
        for path in (b"/v1/sessions", b"/health"):
            served = self.serve()
            served.send(b"POST", path, Content_Length=b"100", Expect=b"100-continue")
            status, headers, _ = served.answer()
            self.assertEqual((status, headers[b"www-authenticate"]), (401, b"Bearer"))
            self.assertEqual(headers[b"connection"], b"close")
            self.assertNotIn(b"100 Continue", served.transport.value())
            served.channel.dataReceived(b"x" * 100)
            self.assertTrue(served.transport.disconnecting)
            self.assertEqual(served.transport.value().count(b"HTTP/1.1"), 1)
            self.assertIn('route="refused"', self.metrics.text(None))

    def test_health(self) -> None:
        """Whether the service lives can be asked without."""
        self.assertEqual(self.serve({"ok": 1.0}).ask("GET", "/health")[0], 200)
        status = self.serve().ask("GET", "/health", Authorization="Bearer x")[0]
        self.assertEqual(status, 401)
