"""
Tests for L{txmongokit._sansio.sdam}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bson.objectid import ObjectId
from pymongo.server_type import SERVER_TYPE
from pymongo.topology_description import TOPOLOGY_TYPE
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._pymongo import add_error_label
from txmongokit._sansio.sdam import (
    ErrorEffect,
    RoundTripTime,
    error_effect,
    initial_description,
    is_stale,
    load_balancer,
    server_description,
    unknown_server,
    updated_description,
)
from txmongokit.errors import (
    AutoReconnect,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    WaitQueueTimeoutError,
    WriteConcernError,
)
from txmongokit.options import parse_options

A = ("a", 27017)
EVERYTHING = ErrorEffect(mark_unknown=True, clear_pool=True, request_check=True)
DOUBTFUL = replace(EVERYTHING, cancel_check=True)
NOTHING = ErrorEffect()


PRIMARY: Mapping[str, Any] = {
    "ok": 1,
    "isWritablePrimary": True,
    "setName": "rs",
    "hosts": ["a:27017"],
    "minWireVersion": 0,
    "maxWireVersion": 17,
}


class ErrorEffectTests(SynchronousTestCase):
    """
    L{error_effect}.
    """

    server = server_description(A, PRIMARY, 0.01)

    def effect(self, error: Exception, *, handshaken: bool = True) -> ErrorEffect:
        """What one error does."""
        return error_effect(error, server_description=self.server, handshaken=handshaken)

    def test_network(self) -> None:
        """A lost connection says that the server may be gone."""
        self.assertEqual(self.effect(AutoReconnect("gone")), DOUBTFUL)
        self.assertEqual(self.effect(AutoReconnect("gone"), handshaken=False), DOUBTFUL)

    def test_timeout(self) -> None:
        """A slow operation says nothing, a connection that cannot be made does."""
        self.assertEqual(self.effect(NetworkTimeout("late")), NOTHING)
        self.assertEqual(self.effect(NetworkTimeout("late"), handshaken=False), DOUBTFUL)

    def test_overload(self) -> None:
        """A server with too much to do for newcomers is asked, and its connections are kept."""
        error = AutoReconnect("closed")
        add_error_label(error, "SystemOverloadedError")
        self.assertEqual(self.effect(error, handshaken=False), ErrorEffect(request_check=True))
        self.assertEqual(self.effect(error), DOUBTFUL)

    def test_no_room(self) -> None:
        """A queue that is too long says nothing of the server."""
        self.assertEqual(self.effect(WaitQueueTimeoutError("full"), handshaken=False), NOTHING)

    def test_write_concern(self) -> None:
        """A state change counts, too, where only the write concern tells of it."""
        details = {"writeConcernError": {"code": 91}}
        error = WriteConcernError("shutting down", 91, details)
        self.assertEqual(self.effect(error), EVERYTHING)

    def test_log_in(self) -> None:
        """A refused log-in makes the server unknown until it is seen again."""
        error = OperationFailure("no", 18)
        self.assertEqual(self.effect(error, handshaken=False), EVERYTHING)

    def test_command(self) -> None:
        """A command's own failure says nothing of the server."""
        self.assertEqual(self.effect(OperationFailure("no", 11000)), NOTHING)

    def test_state_change(self) -> None:
        """A server that is no primary is looked at again; its connections stay good."""
        for code in (10107, 13435, 10058, 11602, 13436, 189):
            effect = self.effect(NotPrimaryError("no", {"code": code}))
            self.assertEqual(effect, ErrorEffect(mark_unknown=True, request_check=True), code)

    def test_shutdown(self) -> None:
        """Those of a server that shuts down do not."""
        for code in (11600, 91):
            self.assertEqual(self.effect(NotPrimaryError("no", {"code": code})), EVERYTHING)

    def test_stale_state_change(self) -> None:
        """An error that is no newer than what is known is ignored."""
        process = ObjectId()
        known = {"processId": process, "counter": 5}
        self.server = server_description(A, {**PRIMARY, "topologyVersion": known}, 0.01)
        for counter, ignored in ((4, True), (5, True), (6, False)):
            version = {"processId": process, "counter": counter}
            effect = self.effect(NotPrimaryError("no", {"code": 189, "topologyVersion": version}))
            self.assertEqual(effect == NOTHING, ignored, counter)
        version = {"processId": ObjectId(), "counter": 1}
        effect = self.effect(NotPrimaryError("no", {"code": 189, "topologyVersion": version}))
        self.assertTrue(effect.mark_unknown)


class StaleTests(SynchronousTestCase):
    """
    L{is_stale}.
    """

    def test_hello(self) -> None:
        """A C{hello} that is older than what is known; the same again is not."""
        process = ObjectId()
        one, two = (
            server_description(
                A, {**PRIMARY, "topologyVersion": {"processId": process, "counter": counter}}, 0.01
            )
            for counter in (1, 2)
        )
        self.assertTrue(is_stale(two, one))
        self.assertFalse(is_stale(one, two))
        self.assertFalse(is_stale(one, one))

    def test_unreadable_version(self) -> None:
        """What cannot be compared is no version, and no reason to stop looking."""
        process = ObjectId()
        good = {"processId": process, "counter": 5}
        for bad in ({}, {"processId": process}, {"processId": process, "counter": "x"}, 3):
            known, seen = (
                server_description(A, {**PRIMARY, "topologyVersion": version}, 0.01)
                for version in (good, bad)
            )
            self.assertFalse(is_stale(known, seen))
            self.assertFalse(is_stale(seen, known))
            self.assertFalse(is_stale(seen, seen))
            error = NotPrimaryError("no", {"code": 189, "topologyVersion": bad})
            effect = error_effect(error, server_description=known, handshaken=True)
            self.assertTrue(effect.mark_unknown)

    def test_without_version(self) -> None:
        """Where either has no version, what comes later is newer."""
        plain = server_description(A, PRIMARY, 0.01)
        version = {"processId": ObjectId(), "counter": 1}
        known = server_description(A, {**PRIMARY, "topologyVersion": version}, 0.01)
        lost = unknown_server(A, AutoReconnect("gone"))
        for current in (plain, known, lost):
            for seen in (plain, lost):
                self.assertFalse(is_stale(current, seen))


class DescriptionTests(SynchronousTestCase):
    """
    Beginnings, and single servers.
    """

    def test_beginning(self) -> None:
        """What is asked for decides what to expect."""
        for uri, kind in (
            ("a,b", TOPOLOGY_TYPE.Unknown),
            ("a", TOPOLOGY_TYPE.Unknown),
            ("a/?replicaSet=rs", TOPOLOGY_TYPE.ReplicaSetNoPrimary),
            ("a/?directConnection=true", TOPOLOGY_TYPE.Single),
            ("a/?directConnection=true&replicaSet=rs", TOPOLOGY_TYPE.Single),
            ("a/?loadBalanced=true", TOPOLOGY_TYPE.LoadBalanced),
        ):
            options = parse_options(uri)
            description = initial_description(options)
            self.assertEqual(description.topology_type, kind, uri)
            self.assertEqual(set(description.server_descriptions()), set(options.seeds))
            self.assertEqual(description.replica_set_name, options.replica_set)
            self.assertIn("TopologyDescription", repr(description))

    def test_unknown(self) -> None:
        """An unknown server keeps why, and the error's topology version."""
        version = {"processId": ObjectId(), "counter": 1}
        error = NotPrimaryError("no", {"code": 91, "topologyVersion": version})
        server = unknown_server(A, error)
        self.assertEqual(server.server_type, SERVER_TYPE.Unknown)
        self.assertIs(server.error, error)
        self.assertEqual(server.topology_version, version)

    def test_load_balancer(self) -> None:
        """A load balancer is there and stays what it is; any preference may use it."""
        before = initial_description(parse_options("a/?loadBalanced=true"))
        after = updated_description(before, load_balancer(A))
        self.assertEqual(after.topology_type, TOPOLOGY_TYPE.LoadBalanced)
        self.assertEqual(after.server_descriptions()[A].server_type, SERVER_TYPE.LoadBalancer)
        self.assertTrue(after.has_known_servers)
        self.assertIsNone(after.logical_session_timeout_minutes)
        after.check_compatible()

    def test_round_trip(self) -> None:
        """The round trip time is the monitor's."""
        self.assertEqual(server_description(A, PRIMARY, 0.25).round_trip_time, 0.25)


class RoundTripTimeTests(SynchronousTestCase):
    """
    L{RoundTripTime}.
    """

    def test_minimum(self) -> None:
        """The minimum is that of the last ten samples, and 0 before there are two."""
        times = RoundTripTime()
        times.add(1.0)
        self.assertEqual(times.minimum, 0.0)
        times.add(2.0)
        self.assertEqual(times.minimum, 1.0)
        for _ in range(9):
            times.add(3.0)
        self.assertEqual(times.minimum, 2.0)
        times.reset()
        times.add(4.0)
        self.assertEqual(times.minimum, 0.0)

    def test_reset(self) -> None:
        """After a reset the next sample counts alone."""
        times = RoundTripTime()
        self.assertEqual(times.average, 0.0)
        times.add(5.0)
        times.reset()
        self.assertEqual(times.average, 0.0)
        times.add(2.0)
        self.assertEqual(times.average, 2.0)
