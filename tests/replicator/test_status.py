"""
Tests for L{txmongokit.replicator.status}: requests in memory.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Site

from txmongokit.replicator.appliers import LaneState
from txmongokit.replicator.cutover import Controls, State
from txmongokit.replicator.status import Snapshot, StatusSite


class FakeReplication:
    """Told to stand still and to go on."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pause(self) -> None:
        """Noted."""
        self.told.append("pause")

    def resume(self) -> None:
        """Noted."""
        self.told.append("resume")


class SiteTests(SynchronousTestCase):
    """
    What is answered.
    """

    token: str | None = None

    def setUp(self) -> None:
        """A replication that follows."""
        self.controls = Controls()
        self.replication = FakeReplication()
        self.controls.following(self.replication, lambda: self.replication.told.append("commit"))
        self.snapshot = Snapshot(
            State.FOLLOWING,
            position=1_700_000_000 << 32 | 5,
            applied=12,
            commands=2,
            size=3_000,
            rate=1234.56,
            lag=0.0,
            headroom=3600.0,
        )

    def ask(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """One request over a transport in memory."""
        site = Site(
            StatusSite(
                lambda: replace(self.snapshot, state=self.controls.state), self.controls, self.token
            ).root,
            reactor=Clock(),
        )
        site.log = lambda request: None  # type: ignore[method-assign]
        transport = StringTransport()
        protocol = site.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(transport)
        named = {"Host": "localhost:8080", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.0", *(f"{name}: {named[name]}" for name in named)]
        protocol.dataReceived("\r\n".join([*lines, "", body]).encode())
        head, _, text = transport.value().decode().partition("\r\n\r\n")
        first, *rest = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in rest)
        return int(first.split()[1]), fields, text

    def post(self, verb: str, body: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
        """An order."""
        status, _, text = self.ask(f"/api/v1/{verb}", "POST", body, **headers)
        return status, json.loads(text)

    def test_progress(self) -> None:
        """The state as JSON."""
        status, headers, text = self.ask("/api/v1/progress")
        self.assertEqual((status, headers["content-type"]), (200, "application/json"))
        found = json.loads(text)
        self.assertEqual(found["state"], "following")
        self.assertEqual((found["applied"], found["rate"], found["bytes"]), (12, 1234.6, 3000))
        self.assertEqual((found["lag_seconds"], found["headroom_seconds"]), (0, 3600))
        self.assertEqual(found["position"]["time"], 1_700_000_000)
        self.assertEqual(found["position"]["increment"], 5)
        self.assertIsNone(found["clone"])
        self.assertIsNone(found["lanes"])

    def test_lanes(self) -> None:
        """Several lanes are shown one by one, in all three forms."""
        lanes = (
            LaneState(1_700_000_000 << 32 | 7, 5, True),
            LaneState(1_700_000_003 << 32, 7, False),
        )
        self.snapshot = replace(self.snapshot, lanes=lanes)
        found = json.loads(self.ask("/api/v1/progress")[2])["lanes"]
        self.assertEqual([each["time"] for each in found], [1_700_000_000, 1_700_000_003])
        self.assertEqual((found[0]["applied"], found[0]["busy"]), (5, True))
        metrics = self.ask("/metrics")[2]
        self.assertIn('mongosync_lane_position_seconds{lane="1"} 1700000003', metrics)
        page = self.ask("/")[2]
        self.assertIn("<th>lane 1</th><td>2023-11-14T22:13:23Z", page)

    def test_metrics(self) -> None:
        """The state for Prometheus."""
        self.snapshot = replace(self.snapshot, clone={"documents": 5, "phase": "copy"})
        status, headers, text = self.ask("/metrics")
        self.assertEqual(status, 200)
        self.assertIn("text/plain", headers["content-type"])
        lines = text.splitlines()
        for line in (
            "mongosync_applied_operations_total 12",
            "# TYPE mongosync_applied_operations_total counter",
            "mongosync_oplog_headroom_seconds 3600.000",
            "mongosync_lag_seconds 0.000",
            'mongosync_state{state="following"} 1',
            'mongosync_state{state="paused"} 0',
            "mongosync_clone_documents 5",
        ):
            self.assertIn(line, lines)
        names = [line.split()[0] for line in lines if not line.startswith("#")]
        self.assertEqual(len(names), len(set(names)))

    def test_metrics_not_measured(self) -> None:
        """What is not measured is left out."""
        self.snapshot = replace(self.snapshot, lag=None, headroom=None)
        self.assertNotIn("mongosync_lag_seconds", self.ask("/metrics")[2])

    def test_page(self) -> None:
        """A page for people, in which nothing can become markup."""
        self.snapshot = replace(self.snapshot, message="<script>")
        status, headers, text = self.ask("/")
        self.assertEqual(status, 200)
        self.assertIn("text/html", headers["content-type"])
        self.assertIn("<h1>mongosync: following</h1>", text)
        self.assertIn("&lt;script&gt;", text)
        self.assertIn("2023-11-14T22:13:20Z", text)

    def test_elsewhere(self) -> None:
        """Other paths and other methods."""
        self.assertEqual(self.ask("/nothing")[0], 404)
        self.assertEqual(self.ask("/metrics", "POST")[0], 405)
        self.assertEqual(self.ask("/api/v1/pause")[0], 405)
        self.assertEqual(self.replication.told, [])

    def test_pause_and_resume(self) -> None:
        """Orders are carried out, and answered with the state."""
        self.assertEqual(self.post("pause"), (202, {"state": "paused"}))
        self.assertEqual(self.post("resume"), (202, {"state": "following"}))
        self.assertEqual(self.replication.told, ["pause", "resume"])

    def test_limit(self) -> None:
        """How fast it may go is changed at once, and only what is named."""
        found: list[tuple[float | None, float | None]] = []
        self.controls = Controls(lambda *limits: found.append(limits))
        for body in ('{"operations": 500}', '{"bytes": 1e6, "operations": 0}', '{"bytes": 0}'):
            self.assertEqual(self.post("limit", body)[0], 202)
        self.assertEqual(found, [(500.0, None), (inf, 1e6), (None, inf)])

    def test_limit_refused(self) -> None:
        """What is no number, or no limit, is refused: nothing is changed by a slip."""
        found: list[tuple[float | None, float | None]] = []
        self.controls = Controls(lambda *limits: found.append(limits))
        for body in (
            '{"operations": -1}',
            '{"bytes": "many"}',
            '{"bytes": true}',
            '{"bytes": null}',
            '{"operations": NaN}',
            '{"operations": 1' + 400 * "0" + "}",
            '{"ops": 5000}',
            '{"operations": 5000, "byte": 0}',
            "{}",
            "",
        ):
            status, answer = self.post("limit", body)
            self.assertEqual(status, 400, body)
            self.assertIn("numbers", answer["error"])
        self.assertEqual(found, [])

    def test_illegal(self) -> None:
        """An order that cannot be carried out is a conflict, with a sentence."""
        status, found = self.post("resume")
        self.assertEqual(status, 409)
        self.assertEqual(found["state"], "following")
        self.assertIn("only while it is paused", found["error"])
        self.post("pause")
        for verb in ("pause", "commit", "reverse"):
            self.assertEqual(self.post(verb, '{"writes_blocked": true}')[0], 409)

    def test_commit(self) -> None:
        """A cut-over wants the operator's word."""
        status, found = self.post("commit")
        self.assertEqual(status, 409)
        self.assertIn("writes_blocked", found["error"])
        self.assertEqual(self.replication.told, [])
        self.assertEqual(
            self.post("commit", '{"writes_blocked": true}'), (202, {"state": "committing"})
        )
        self.assertEqual(self.replication.told, ["commit"])
        self.assertEqual(self.post("reverse")[0], 202)
        self.assertTrue(self.controls.reversing)

    def test_bad_body(self) -> None:
        """A body that is no JSON object."""
        for body in ("{", "[]", "true"):
            self.assertEqual(self.post("commit", body)[0], 400)

    def test_web_pages_elsewhere(self) -> None:
        """Neither a form of another site nor a name that leads here comes in."""
        self.assertEqual(self.post("pause", Origin="http://evil.example")[0], 403)
        self.assertEqual(self.post("pause", Host="evil.example:8080")[0], 403)
        self.assertEqual(self.ask("/api/v1/progress", Host="evil.example")[0], 403)
        self.assertEqual(self.ask("/api/v1/progress", Host="[::1]:8080")[0], 200)
        self.assertEqual(self.ask("/api/v1/progress", Host="127.0.0.1:8080")[0], 200)
        self.assertEqual(self.replication.told, [])


class TokenTests(SiteTests):
    """
    Who has to show a token; everything else is as without one.
    """

    token = "s3cret"

    def ask(
        self, path: str, method: str = "GET", body: str = "", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Each request shows it, unless it says otherwise."""
        return super().ask(
            path, method, body, **{"Authorization": f"Bearer {self.token}", **headers}
        )

    def test_web_pages_elsewhere(self) -> None:
        """Only the token counts."""
        self.assertEqual(self.ask("/metrics", Host="db.example")[0], 200)
        for shown in ("", "Bearer", "Bearer wrong", "Basic s3cret", "s3cret"):
            status, headers, _ = self.ask("/metrics", Authorization=shown)
            self.assertEqual(status, 401)
            self.assertEqual(headers["www-authenticate"], "bearer")
            self.assertEqual(self.post("pause", Authorization=shown)[0], 401)
        self.assertEqual(self.replication.told, [])
