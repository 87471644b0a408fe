"""
Tests for L{txmongokit._net.monitor}, in memory.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo import monitoring
from pymongo.server_api import ServerApi
from pymongo.server_description import ServerDescription
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork, refusal
from txmongokit._net.connector import Connector
from txmongokit._net.monitor import Monitor
from txmongokit._net.observation import Observer
from txmongokit.errors import AutoReconnect, NetworkTimeout, OperationFailure
from txmongokit.options import parse_options


class Listener(monitoring.ServerHeartbeatListener):
    """
    Keeps heartbeats: the first letter of what happened, C{+} where awaited.
    """

    def __init__(self) -> None:
        self.events: list[Any] = []

    def started(self, event: Any) -> None:
        """Keep an event."""
        self.events.append(event)

    succeeded = failed = started

    @property
    def story(self) -> str:
        """What happened, in short."""
        letters = {"Started": "s", "Succeeded": "o", "Failed": "f"}
        return " ".join(
            letters[type(event).__name__[15:-5]] + ("+" if event.awaited else "")
            for event in self.events
        )


class MonitorTestCase(SynchronousTestCase):
    """
    Has a server and a monitor for it.

    @cvar streams: whether the server can stream.
    """

    streams = False

    def setUp(self) -> None:
        """A server and its monitor, which has been at it for a second."""
        self.network = FakeNetwork()
        self.server = self.network.add()
        if self.streams:
            self.server.can_stream()
        self.questions: list[dict[str, Any]] = []
        self.reports: list[ServerDescription] = []
        self.listener = Listener()
        self.monitor = self.new_monitor()
        self.monitor.start()
        self.network.advance(1.0)

    def new_monitor(self, **changes: Any) -> Monitor:
        """A monitor that was not started."""
        connector = Connector(
            self.network.clock,
            parse_options("mongodb://a", connectTimeoutMS=2000),
            endpoint_factory=self.network.endpoint,
        )
        options: dict[str, Any] = {
            "heartbeat": 10.0,
            "min_heartbeat": 0.5,
            "timeout": 2.0,
            "observer": Observer([self.listener], ObjectId()),
            "environ": {},
            **changes,
        }
        monitor = Monitor(self.network.clock, ("a", 27017), connector, self.report, **options)
        self.addCleanup(self.network.flush)
        self.addCleanup(monitor.stop)
        return monitor

    def another(self, **changes: Any) -> Monitor:
        """A monitor in place of the first, which has been at it for a second."""
        self.monitor.stop()
        self.network.flush()
        for kept in (self.server.hellos, self.reports, self.listener.events):
            kept.clear()
        self.server.attempts = 0
        self.monitor = self.new_monitor(**changes)
        self.monitor.start()
        self.network.advance(1.0)
        return self.monitor

    def report(self, description: ServerDescription) -> None:
        """Note a report."""
        self.reports.append(description)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """An C{on_hello} that notes what it is asked."""
        self.questions.append(body)
        self.server.on_hello = None
        reply: dict[str, Any] = self.server.answer(self.server.connections[0], body)
        self.server.on_hello = self.ask
        return reply

    def known(self) -> list[bool]:
        """Of each report, whether the server is known."""
        return [report.is_server_type_known for report in self.reports]

    def assert_clean(self) -> None:
        """No connection and no delayed call is left."""
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.assertEqual(self.network.clock.getDelayedCalls(), [])


class PollingTests(MonitorTestCase):
    """A server that cannot stream."""

    def test_heartbeat(self) -> None:
        """The handshake is the first look, then comes one each heartbeat, on one connection."""
        self.monitor.start()
        self.network.advance(21.0)
        self.assertEqual([round(when, 1) for when in self.server.hellos], [0, 10, 20])
        self.assertEqual(self.known(), [True] * 3)
        self.assertEqual(self.server.attempts, 1)
        self.assertEqual(self.listener.story, "s o s o s o")

    def test_request_check(self) -> None:
        """A check that somebody asks for comes at once, but not more often than allowed."""
        self.network.advance(2.0)
        del self.server.hellos[:]
        self.monitor.request_check()
        self.network.flush()
        self.monitor.request_check()
        self.network.advance(0.375)
        self.assertEqual(len(self.server.hellos), 1)
        self.network.advance(0.25)
        self.assertEqual(len(self.server.hellos), 2)

    def test_retry(self) -> None:
        """A known server whose connection breaks is unknown, and asked once more at once."""
        self.server.on_hello = self.lost_once
        self.network.advance(9.5)
        self.assertEqual(self.known(), [True, False, True])
        self.assertEqual(self.server.attempts, 2)
        self.assertEqual(self.listener.story, "s o s f s o")

    def lost_once(self, body: dict[str, Any]) -> Exception:
        """An C{on_hello} that answers by losing the connection, once."""
        self.server.on_hello = None
        return ConnectionLost()

    def test_closed_at_rest(self) -> None:
        """A connection that was closed while nobody used it is replaced, no more."""
        self.server.lose_all()
        self.network.advance(9.5)
        self.assertEqual(self.known(), [True, True])
        self.assertEqual(self.server.attempts, 2)

    def test_unknown(self) -> None:
        """A server that refuses is unknown, with the reason, and is asked on."""
        self.server.refuses = refusal()
        self.server.lose_all()
        self.network.advance(10.0)
        self.assertEqual(self.known(), [True, False, False])
        self.assertIn("refused", str(self.reports[-1].error))
        attempts = self.server.attempts
        self.network.advance(10.0)
        self.assertEqual(self.server.attempts, attempts + 1)

    def test_silence(self) -> None:
        """A server that does not answer is unknown by a timeout, and its connection closed."""
        self.server.on_hello = lambda body: None
        self.network.advance(11.5)
        self.assertIsInstance(self.reports[1].error, NetworkTimeout)
        self.assertIn("hello", str(self.reports[1].error))
        # Its second chance takes as long.
        self.network.advance(2.0)
        self.assertIsInstance(self.reports[2].error, NetworkTimeout)
        self.assertEqual(self.server.attempts, 2)
        self.assertEqual(self.server.connections, [])

    def test_no_limit(self) -> None:
        """Without a time limit a check may take for ever."""
        self.another(timeout=None)
        self.server.on_hello = lambda body: None
        self.network.advance(100.0)
        self.assertEqual(self.known(), [True])

    def test_refusal(self) -> None:
        """A command that is refused makes the server unknown, without a second try."""
        self.server.on_hello = lambda body: {"ok": 0.0, "code": 8, "errmsg": "no"}
        self.network.advance(12.0)
        self.assertIsInstance(self.reports[-1].error, OperationFailure)
        self.assertEqual(self.known(), [True, False])
        self.assertEqual(self.server.connections, [])

    def test_nonsense(self) -> None:
        """A reply that makes no sense does not end the watch."""
        self.server.on_hello = lambda body: {"ok": 1.0, "setName": "rs", "hosts": [7]}
        self.network.advance(10.0)
        self.assertFalse(self.reports[-1].is_server_type_known)
        self.server.on_hello = None
        self.network.advance(10.0)
        self.assertTrue(self.reports[-1].is_server_type_known)

    def test_report_fails(self) -> None:
        """An error in whoever listens is logged and does not end the watch."""

        def fail(description: ServerDescription) -> None:
            raise ZeroDivisionError

        self.monitor._report = fail
        self.network.advance(30.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 3)

    def test_listener_fails(self) -> None:
        """An error in an event listener does not end the watch either."""
        self.listener.events = None  # type: ignore[assignment]  # so that it fails
        self.network.advance(10.0)
        self.assertEqual(self.known(), [True, True])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 2)

    def test_cancel_while_resting(self) -> None:
        """With nothing under way, its connection is closed: the next look uses another."""
        self.monitor.cancel_check()
        self.network.flush()
        self.assertEqual(self.server.connections, [])
        self.monitor.request_check()
        self.network.advance(1.0)
        self.assertEqual((self.server.attempts, self.known()), (2, [True, True]))

    def test_cancel_check(self) -> None:
        """A check that is given up is not reported, and the next comes after a rest."""
        self.server.on_hello = lambda body: None
        self.network.advance(9.5)
        self.assertEqual(self.listener.story, "s o s")
        self.monitor.cancel_check()
        self.server.on_hello = None
        self.monitor.request_check()
        self.network.advance(0.375)
        self.assertEqual(self.server.attempts, 1)
        self.network.advance(0.25)
        self.assertEqual((self.server.attempts, self.known()), (2, [True, True]))
        self.assertEqual(self.listener.story, "s o s f s o")

    def test_cancel_from_report(self) -> None:
        """A check may be given up by what comes of its report: that is no endless loop."""
        self.monitor._report = lambda description: self.monitor.cancel_check()
        self.network.advance(30.0)
        self.assertEqual([round(when) for when in self.server.hellos], [0, 10, 20, 30])

    def test_stop(self) -> None:
        """Stopping leaves no connection and no delayed call, whatever was going on."""
        self.monitor.stop()
        self.assert_clean()
        self.server.on_hello = lambda body: None
        checking = self.new_monitor()
        checking.start()
        self.network.flush()
        checking.stop()
        self.assert_clean()
        self.server.refuses = Deferred()
        connecting = self.new_monitor()
        connecting.start()
        connecting.stop()
        self.assert_clean()
        self.assertEqual(self.listener.story, "s o s f s f")

    def test_stop_while_it_waits(self) -> None:
        """A monitor that must wait for the minimum heartbeat can be stopped, too."""
        self.monitor.request_check()
        self.network.flush()
        self.monitor.request_check()
        self.network.flush()
        self.monitor.stop()
        self.assert_clean()

    def test_stop_from_report(self) -> None:
        """A monitor may be stopped by what it reports, and is not started again."""
        self.monitor._report = lambda description: self.monitor.stop()
        self.monitor.request_check()
        self.network.advance(1.0)
        self.assert_clean()
        self.monitor.start()
        self.assert_clean()

    def test_stop_from_event(self) -> None:
        """A monitor may be stopped by whoever is told of a heartbeat, even as it starts."""
        for event in ("started", "succeeded", "failed"):
            self.another()
            if event == "failed":
                self.server.on_hello = lambda body: {"ok": 0.0, "code": 8, "errmsg": "no"}
            setattr(self.listener, event, lambda event: self.monitor.stop())
            self.monitor.request_check()
            self.network.advance(1.0)
            self.assert_clean()
            delattr(self.listener, event)

    def test_round_trips(self) -> None:
        """Each round trip counts, the handshake's with them; the minimum is 0 before two."""
        self.assertEqual(self.monitor.round_trip_minimum, 0.0)
        self.server.on_hello = self.later
        self.network.advance(12.0)
        self.assertEqual(self.reports[-1].round_trip_time, 0.2 * 0.25)
        self.network.advance(24.0)
        self.assertEqual(self.monitor.round_trip_minimum, 0.0)
        self.another()
        self.network.advance(12.0)
        self.assertEqual(self.monitor.round_trip_minimum, 0.25)
        self.assertEqual(self.reports[-1].round_trip_time, 0.25)

    def test_round_trips_are_forgotten(self) -> None:
        """What was measured of a server that became unknown counts no more."""
        self.server.on_hello = self.later
        self.another()
        self.network.advance(11.0)
        self.assertEqual(self.monitor.round_trip_minimum, 0.25)
        self.monitor.cancel_check()
        self.assertEqual(self.monitor.round_trip_minimum, 0.0)

    def later(self, body: dict[str, Any]) -> None:
        """An C{on_hello} that answers after a quarter of a second."""
        connection = self.server.connections[-1]
        answer = self.server.answer
        number = connection.protocol.exchange.last_id

        def reply() -> None:
            self.server.on_hello = None
            connection.reply(number, answer(connection, body))
            self.server.on_hello = self.later

        self.network.clock.callLater(0.25, reply)

    def test_legacy_name(self) -> None:
        """A server that does not know the new name of hello is asked by the old one."""

        def old(body: dict[str, Any]) -> dict[str, Any]:
            self.questions.append(body)
            if "hello" in body:
                return {"ok": 0.0, "code": 59, "errmsg": "no such command"}
            return {"ok": 1.0, "ismaster": True, "maxWireVersion": 17}

        self.server.on_hello = old
        self.another()
        self.network.advance(10.0)
        names = [next(iter(body)) for body in self.questions]
        self.assertEqual(names, ["hello", "isMaster", "isMaster"])
        self.assertEqual(self.known(), [True, True])

    def test_question(self) -> None:
        """Nothing but what a look needs is asked, with the stable API where one is declared."""
        self.server.on_hello = self.ask
        self.network.advance(10.0)
        self.assertEqual(self.questions[-1], {"hello": 1, "helloOk": True, "$db": "admin"})
        self.another(server_api=ServerApi("1", strict=True))
        self.network.advance(10.0)
        self.assertEqual(
            self.questions[-1],
            {"hello": 1, "helloOk": True, "apiVersion": "1", "apiStrict": True, "$db": "admin"},
        )


class StreamingTests(MonitorTestCase):
    """A server that tells of changes by itself."""

    streams = True

    def test_change(self) -> None:
        """A change is reported as soon as it happens."""
        for tag in "ab":
            self.server.change(setName="rs", secondary=True, tags={"x": tag}, hosts=["a:27017"])
            self.network.flush()
            self.assertEqual(self.reports[-1].tags, {"x": tag})
        self.assertEqual(len(self.reports), 3)
        self.assertEqual(self.listener.story, "s o s+ o+ s+ o+ s+")

    def test_no_change(self) -> None:
        """Without a change there is a reply each heartbeat; nothing needs to be asked for it."""
        self.server.on_hello = self.ask
        self.network.advance(30.0)
        self.assertEqual(self.known(), [True] * 4)
        self.assertEqual(self.listener.story, "s o s+ o+ s+ o+ s+ o+ s+")
        # Those for which nothing was asked, and those of the stopwatch.
        self.assertEqual(len(self.questions), 3 + 3)

    def test_question(self) -> None:
        """What is known of the server and the longest wait are in the question."""
        seen = []
        keeps_back = self.server.keeps_back

        def noted(body: dict[str, Any]) -> bool:
            seen.append(body)
            return keeps_back(body)

        self.server.keeps_back = noted  # type: ignore[method-assign]  # to look on
        self.another(server_api=ServerApi("1"))
        (question,) = [body for body in seen if "maxAwaitTimeMS" in body]
        self.assertEqual(
            question,
            {
                "hello": 1,
                "helloOk": True,
                "topologyVersion": {"processId": self.server.process, "counter": 0},
                "maxAwaitTimeMS": 10_000,
                "apiVersion": "1",
                "$db": "admin",
            },
        )
        self.assertIsInstance(question["maxAwaitTimeMS"], Int64)

    def test_last_reply(self) -> None:
        """After the last reply to one question comes the next question, on the same connection."""
        for _ in range(3):
            for connection in list(self.server.connections):
                connection.tell(last=True)
            self.network.flush()
        self.assertEqual(self.known(), [True] * 4)
        self.assertEqual(self.listener.story, "s o s+ o+ s+ o+ s+ o+ s+")
        self.assertEqual(self.server.attempts, 2)

    def test_streaming_ends(self) -> None:
        """A server whose replies have no version any more is polled."""
        del self.server.hello["topologyVersion"]
        for connection in list(self.server.connections):
            connection.tell(last=True)
        self.network.advance(21.0)
        self.assertEqual(self.listener.story, "s o s+ o+ s+ o+ s o s o")

    def test_many_replies_at_once(self) -> None:
        """Replies that come together are reported one by one, in their order."""
        for tag in "abc":
            self.server.change(setName="rs", secondary=True, tags={"x": tag}, hosts=["a:27017"])
        self.network.flush()
        self.assertEqual([report.tags.get("x") for report in self.reports], [None, *"abc"])

    def test_silence(self) -> None:
        """A server may keep still for as long as it was asked to, and the time limit more."""
        self.another()
        for connection in self.server.connections:
            connection._stop_watching()
        self.network.advance(10.5)
        self.assertEqual(self.known(), [True])
        self.network.advance(1.0)
        self.assertIsInstance(self.reports[1].error, NetworkTimeout)

    def test_lost(self) -> None:
        """A lost connection makes the server unknown, and it is asked at once by another."""
        self.server.lose_all()
        self.network.flush()
        self.assertEqual(self.known(), [True, False, True])
        self.assertEqual(self.listener.story, "s o s+ f+ s o s+")

    def test_down(self) -> None:
        """A server that is down is looked for each heartbeat, or as soon as somebody asks."""
        self.server.refuses = refusal()
        self.server.lose_all()
        self.network.flush()
        self.assertEqual(self.known(), [True, False, False])
        self.network.advance(9.0)
        self.assertEqual(len(self.reports), 3)
        self.network.advance(1.5)
        self.assertEqual(len(self.reports), 4)
        self.monitor.request_check()
        self.network.advance(0.5)
        self.assertEqual(len(self.reports), 5)
        self.server.refuses = None
        self.monitor.request_check()
        self.network.advance(0.5)
        self.assertEqual(self.known()[-1:], [True])

    def test_request_is_not_lost(self) -> None:
        """A request that comes while the server streams cuts the rest after a failure short."""
        self.monitor.request_check()
        self.network.advance(1.0)
        self.assertEqual(len(self.reports), 1)
        self.server.refuses = refusal()
        self.server.lose_all()
        self.network.flush()
        self.server.refuses = None
        self.network.advance(0.625)
        self.assertEqual(self.known(), [True, False, False, True])

    def test_cancel_check(self) -> None:
        """
        When another connection has broken, the stream is given up with its
        connection; a request makes the next look come soon.
        """
        self.monitor.cancel_check()
        self.monitor.request_check()
        self.network.flush()
        self.assertEqual(self.listener.story, "s o s+ f+")
        self.assertEqual(len(self.server.connections), 1)
        self.network.advance(0.375)
        self.assertEqual(self.known(), [True])
        self.network.advance(0.25)
        self.assertEqual(self.known(), [True, True])
        self.assertEqual(self.listener.story, "s o s+ f+ s o s+")

    def test_error(self) -> None:
        """An error in place of a reply makes the server unknown; it is asked after a rest."""
        self.server.on_hello = lambda body: {"ok": 0.0, "code": 91, "errmsg": "shutting down"}
        for connection in list(self.server.connections):
            connection.tell(last=True)
        self.network.flush()
        self.assertEqual(self.known(), [True, False])
        self.server.on_hello = None
        self.network.advance(9.0)
        self.assertEqual(self.known(), [True, False])
        self.network.advance(1.5)
        self.assertEqual(self.known(), [True, False, True])

    def test_nonsense(self) -> None:
        """A reply that is none does not end the watch."""
        self.server.change(setName="rs", hosts=[7])
        self.network.flush()
        self.assertEqual(self.known(), [True, False])
        self.assertEqual(len(self.server.connections), 1)
        del self.server.hello["setName"], self.server.hello["hosts"]
        self.network.advance(10.0)
        self.assertEqual(self.known(), [True, False, True])

    def test_stopwatch(self) -> None:
        """Round trips are measured on a connection of their own, without events."""
        self.assertEqual(self.server.attempts, 2)
        story = self.listener.story
        self.server.on_hello = self.ask
        self.network.advance(8.5)
        self.assertEqual(self.questions, [])
        self.network.advance(0.5)
        self.assertIn({"hello": 1, "helloOk": True, "$db": "admin"}, self.questions)
        self.assertTrue(self.listener.story.startswith(story))

    def test_stopwatch_fails(self) -> None:
        """That round trips cannot be measured is nobody's business; it is tried again."""
        stopwatch = self.server.connections[1]
        stopwatch.lose()
        self.server.refuses = refusal()
        self.network.advance(10.0)
        self.assertEqual(self.known(), [True, True])
        self.server.refuses = None
        attempts = self.server.attempts
        self.network.advance(10.0)
        self.assertEqual(self.server.attempts, attempts + 1)
        self.assertEqual(len(self.server.connections), 2)

    def test_stop(self) -> None:
        """Stopping leaves neither connection and no delayed call."""
        self.assertEqual(len(self.server.connections), 2)
        self.monitor.stop()
        self.assert_clean()
        self.assertEqual(self.listener.story, "s o s+ f+")

    def test_stop_from_report(self) -> None:
        """A monitor may be stopped by what a stream reports, though more has come already."""
        self.monitor._report = lambda description: self.monitor.stop()
        for tag in "abc":
            self.server.change(tags={"x": tag})
        self.assert_clean()
        self.assertEqual(self.listener.story, "s o s+ o+")

    def test_stop_while_measuring(self) -> None:
        """A round trip under way is no reason to stay."""
        self.server.on_hello = lambda body: None
        self.network.advance(9.0)
        self.monitor.stop()
        self.assert_clean()

    def test_poll(self) -> None:
        """A server that can stream is polled where that is wanted, on one connection."""
        for changes in (
            {"mode": "poll"},
            {"environ": {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.9"}},
        ):
            self.another(**changes)
            self.network.advance(20.0)
            self.assertEqual(self.listener.story, "s o s o s o")
            self.assertEqual(self.server.attempts, 1)

    def test_stream(self) -> None:
        """Streaming that is asked for is done wherever we run."""
        self.another(mode="stream", environ={"K_SERVICE": "x"})
        self.assertEqual(self.listener.story, "s o s+")

    def test_errors_of_its_own(self) -> None:
        """Whoever waits on a stopped monitor's connection is told so."""
        self.another(mode="poll")
        protocol = self.server.connections[0].protocol
        waiting = protocol.request(bson.encode({"ping": 1, "$db": "admin"}))
        self.monitor.stop()
        self.assertIn("monitored", str(self.failureResultOf(waiting, AutoReconnect).value))
