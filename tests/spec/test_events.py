"""
Recording and matching events.
"""

from __future__ import annotations

from typing import Any

from bson.objectid import ObjectId
from pymongo import monitoring
from twisted.trial.unittest import SynchronousTestCase

from tests.spec.events import Recorder, event_family, event_name, match_event, match_events
from tests.spec.matching import Matcher, Mismatch

_ADDRESS = ("localhost", 27017)


def _started(command: dict[str, Any]) -> monitoring.CommandStartedEvent:
    return monitoring.CommandStartedEvent(command, "db", 1, _ADDRESS, 1, server_connection_id=7)


class EventTests(SynchronousTestCase):
    """
    L{Recorder}, L{match_event} and L{match_events}.
    """

    def setUp(self) -> None:
        """A matcher without entities."""
        entities: dict[str, Any] = {}
        self.matcher = Matcher(entities.__getitem__, entities.__getitem__)

    def test_names(self) -> None:
        """PyMongo's classes have the format's names and families."""
        opened = monitoring.TopologyOpenedEvent(ObjectId())
        self.assertEqual(event_name(opened), "topologyOpeningEvent")
        self.assertEqual(event_name(_started({"find": "c"})), "commandStartedEvent")
        self.assertEqual(event_family("commandStartedEvent"), "command")
        self.assertEqual(event_family("poolReadyEvent"), "cmap")
        self.assertEqual(event_family("serverHeartbeatFailedEvent"), "sdam")

    def test_observed(self) -> None:
        """Only observed events count, and not those of ignored commands."""
        recorder = Recorder(["commandStartedEvent"], ["find"])
        recorder.started(_started({"find": "c"}))
        recorder.started(_started({"insert": "c"}))
        recorder.started(_started({"configureFailPoint": 1}))
        recorder.pool_ready(monitoring.PoolReadyEvent(_ADDRESS))
        self.assertEqual([each.command_name for each in recorder.of("command")], ["insert"])

    def test_sensitive(self) -> None:
        """Commands with credentials count only where that is asked for."""
        for sensitive, count in ((False, 1), (True, 3)):
            recorder = Recorder(["commandStartedEvent"], sensitive=sensitive)
            recorder.started(_started({"saslStart": 1}))
            recorder.started(_started({"hello": 1, "speculativeAuthenticate": {}}))
            recorder.started(_started({"hello": 1}))
            self.assertEqual(len(recorder.events), count)

    def test_checked_out(self) -> None:
        """Connections in use are counted whether observed or not."""
        recorder = Recorder()
        recorder.connection_checked_out(monitoring.ConnectionCheckedOutEvent(_ADDRESS, 1, 0.0))
        self.assertEqual(recorder.checked_out, 1)
        recorder.connection_checked_in(monitoring.ConnectionCheckedInEvent(_ADDRESS, 1))
        self.assertEqual(recorder.checked_out, 0)

    def test_stop(self) -> None:
        """Nothing is recorded after the end."""
        recorder = Recorder(["commandStartedEvent"])
        recorder.stop()
        recorder.started(_started({"find": "c"}))
        self.assertEqual(recorder.events, [])

    def test_match(self) -> None:
        """An event's fields are compared, its command as a root document."""
        event = _started({"find": "c", "filter": {}})
        match_event(
            self.matcher,
            {
                "commandStartedEvent": {
                    "command": {"find": "c"},
                    "databaseName": "db",
                    "hasServerConnectionId": True,
                }
            },
            event,
        )
        wrong: tuple[dict[str, Any], ...] = (
            {"commandFailedEvent": {}},
            {"commandStartedEvent": {"commandName": "insert"}},
            {"commandStartedEvent": {"hasServiceId": True}},
        )
        for wanted in wrong:
            self.assertRaises(Mismatch, match_event, self.matcher, wanted, event)

    def test_sequence(self) -> None:
        """Events come in their order; more of them only where that is allowed."""
        events = [_started({"find": "c"}), _started({"insert": "c"})]
        wanted = [{"commandStartedEvent": {"commandName": "find"}}]
        match_events(self.matcher, wanted, events, True)
        self.assertRaises(Mismatch, match_events, self.matcher, wanted, events, False)
        self.assertRaises(Mismatch, match_events, self.matcher, wanted * 3, events, True)
