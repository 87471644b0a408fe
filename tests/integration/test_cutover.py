"""
The status page, the orders given there, and the cut-over, between two real
replica sets.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import Load, differences
from tests.integration.visitors import free_port
from tests.replicas import Pair, wait_for
from txmongokit.testing import replica_set

_OFF = ("--resume-file", "none")
# The server shortens its oplog at each checkpoint of its storage, usually once a minute.
_PROMPT = ("--syncdelay", "1")


class CutOverTests(SynchronousTestCase):
    """
    From following to the other direction.
    """

    def setUp(self) -> None:
        """Two replica sets."""
        self.pair = Pair()
        self.addCleanup(self.pair.close)
        self.port = free_port()

    def ask(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, str]:
        """One request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def order(self, verb: str, body: Any = None) -> tuple[int, Mapping[str, Any]]:
        """An order."""
        status, text = self.ask(f"/api/v1/{verb}", "POST", body)
        return status, json.loads(text)

    def progress(self) -> Mapping[str, Any]:
        """The state; empty while nobody answers."""
        try:
            found: Mapping[str, Any] = json.loads(self.ask("/api/v1/progress")[1])
            return found
        except OSError:
            return {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Follow, with a status page."""
        process = self.pair.start(*_OFF, "-f", "--status", str(self.port), *arguments)
        wait_for(lambda: self.progress().get("state") == "following", "the status page")
        return process

    def end(self, process: subprocess.Popen[str]) -> str:
        """What it printed, when it has ended well."""
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, output)
        return output

    def test_status_and_pause(self) -> None:
        """The page tells what happens, and a pause holds back what comes."""
        users, copy = self.pair.here["app"]["users"], self.pair.there["app"]["users"]
        users.insert_many([{"_id": number} for number in range(100)])
        process = self.start()
        wait_for(lambda: self.progress()["applied"] >= 100, "the first")
        wait_for(lambda: self.progress()["headroom_seconds"] is not None, "the headroom")
        wait_for(lambda: self.progress()["lag_seconds"] == 0, "no lag")
        found = self.progress()
        self.assertGreater(found["headroom_seconds"], 100)
        self.assertGreater(found["bytes"], 1000)
        self.assertIn("mongosync_lag_seconds", self.ask("/metrics")[1])
        self.assertIn("mongosync: following", self.ask("/")[1])
        self.assertEqual(self.order("pause"), (202, {"state": "paused"}))
        time.sleep(1.5)
        users.insert_one({"_id": "late"})
        time.sleep(1.5)
        self.assertIsNone(copy.find_one({"_id": "late"}))
        self.assertEqual(self.order("commit", {"writes_blocked": True})[0], 409)
        self.assertEqual(self.order("resume"), (202, {"state": "following"}))
        wait_for(lambda: copy.find_one({"_id": "late"}), "what had to wait")
        self.assertEqual(self.order("pause")[0], 202)
        process.terminate()
        self.end(process)

    def test_cut_over_and_back(self) -> None:
        """Commit ends it when both sides are equal; the other direction goes on from there."""
        here, there = self.pair.here, self.pair.there
        Load(1500, seed=9).write(here)
        process = self.start()
        self.assertEqual(self.order("commit")[0], 409)
        self.assertEqual(self.order("reverse")[0], 409)
        # While a forward run is active, there is no way back.
        status, output = self.subcommand("reverse")
        self.assertEqual(status, 1, output)
        self.assertIn("forward run is active", output)
        self.assertEqual(
            self.order("commit", {"writes_blocked": True}), (202, {"state": "committing"})
        )
        output = self.end(process)
        self.assertIn("the cut-over is done", output)
        self.assertIn(": equal", output)
        self.assertEqual(list(differences(here, there)), [])
        # The forward direction does not go on by accident.
        status, output = self.pair.run(*_OFF)
        self.assertEqual(status, 1, output)
        self.assertIn("--force-start", output)
        there["app"]["users"].insert_one({"_id": "written after the cut-over"})
        status, output = self.subcommand("reverse")
        self.assertEqual(status, 0, output)
        self.assertIn("stored", output)
        self.assertEqual(self.subcommand("reverse")[0], 0)
        back = ("--from", self.pair.destination.uri, "--to", self.pair.source.uri)
        status, output = self.pair.run(*_OFF, "--verify", *back)
        self.assertEqual(status, 0, output)
        self.assertIn("the destination's checkpoint", output)
        self.assertEqual(
            here["app"]["users"].find_one(), {"_id": "written after the cut-over"}, output
        )
        counted = [each["count"] for each in here["txmongokit"]["mongosync"].find()]
        self.assertEqual(counted, [2])

    def subcommand(self, name: str, *arguments: str) -> tuple[int, str]:
        """Run a subcommand."""
        process = self.pair.start("-l", "warn", *arguments, subcommand=(name,))
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def test_writes_go_on(self) -> None:
        """While the source is written to, a cut-over waits."""
        users = self.pair.here["app"]["users"]
        users.insert_one({"_id": 0})
        process = self.start()
        self.assertEqual(self.order("commit", {"writes_blocked": True})[0], 202)
        for number in range(1, 16):
            users.insert_one({"_id": number})
            time.sleep(0.5)
        self.assertEqual(self.progress()["state"], "committing")
        self.assertIn("still written to", self.end(process))
        self.assertEqual(self.pair.there["app"]["users"].count_documents({}), 16)

    def test_difference_at_the_cut_over(self) -> None:
        """A difference is reported, and the cut-over is not done."""
        self.pair.here["app"]["users"].insert_many([{"_id": 1}, {"_id": 2}])
        process = self.start("--headroom-warning", "1")
        wait_for(lambda: self.progress()["applied"] >= 2, "the documents")
        self.pair.there["app"]["users"].delete_one({"_id": 2})
        self.assertEqual(self.order("commit", {"writes_blocked": True})[0], 202)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn('app.users: the document with _id {"$numberInt": "2"} is missing', output)
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertNotIn("committed", checkpoint)

    def test_reverse_with_the_commit(self) -> None:
        """The other direction can be prepared by the cut-over itself, names and all."""
        self.pair.here["app"]["users"].insert_one({"_id": 1})
        process = self.start("--ns", "app", "--rename", "app=copy")
        self.assertEqual(self.order("commit", {"writes_blocked": True})[0], 202)
        self.assertEqual(self.order("reverse")[0], 202)
        output = self.end(process)
        command = re.search(r"twistd mongosync --from (\S+) --to (\S+) -f (.*)", output)
        assert command is not None, output
        self.assertEqual(command[3], "--ns copy --rename copy=app")
        self.pair.there["copy"]["users"].insert_one({"_id": 2})
        back = ("--from", self.pair.destination.uri, "--to", self.pair.source.uri)
        status, output = self.pair.run(*_OFF, *back, *command[3].split())
        self.assertEqual(status, 0, output)
        self.assertEqual(self.pair.here["app"]["users"].count_documents({}), 2)

    def test_one_pass_and_verify(self) -> None:
        """One pass with a verification: equal, and then different."""
        Load(1000, seed=3).write(self.pair.here)
        for twistd in (False, True):
            status, output = self.pair.run(*_OFF, "--verify", twistd=twistd)
            self.assertEqual(status, 0, output)
            self.assertIn(": equal", output)
        self.pair.there["app"]["finished"].drop()
        self.pair.there["shop"]["a"].insert_one({"_id": "planted"})
        for twistd in (False, True):
            status, output = self.pair.run(*_OFF, "--verify", twistd=twistd)
            self.assertEqual(status, 1, output)
            self.assertIn('a document with _id "planted"', output)

    def test_overrun(self) -> None:
        """Before the oplog is overwritten it warns; afterwards it stops and names both places."""
        small = replica_set(name="from", oplog_size_mb=1, arguments=_PROMPT)
        self.pair = Pair(source=small)
        self.addCleanup(self.pair.close)
        here = self.pair.here
        here["app"]["users"].insert_one({"_id": 0})
        process = self.start("--headroom-warning", "1000000")
        wait_for(lambda: self.progress()["applied"] >= 1, "the first")
        self.assertEqual(self.order("pause")[0], 202)
        time.sleep(1.5)
        position = self.progress()["position"]["time"]

        def overwritten() -> bool:
            here["app"]["users"].insert_many([{"text": "x" * 100_000} for _ in range(50)])
            oldest = here["local"]["oplog.rs"].find().sort("$natural", 1).limit(1).next()
            return bool(oldest["ts"].time > position)

        wait_for(overwritten, "the oplog is overwritten", 90)
        wait_for(lambda: self.progress()["headroom_seconds"] < 0, "the headroom is gone")
        self.assertEqual(self.order("resume")[0], 202)
        output, _ = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("oplog headroom: in about", output)
        self.assertRegex(output, rf"no longer holds \S+ \({position}, \d+\), and goes on at \S+ \(")
        checkpoint = self.pair.checkpoint()
        assert checkpoint is not None
        self.assertEqual(checkpoint["ts"].time, position)

    def test_token(self) -> None:
        """With a token, only who shows it is answered."""
        (self.pair.folder / "token").write_text("s3cret\n")
        place = f"tcp:{self.port}:interface=127.0.0.1"
        process = self.pair.start(*_OFF, "-f", "--status", place, "--status-token-file", "token")
        shown = {"Authorization": "Bearer s3cret"}

        def answered() -> bool:
            try:
                return self.ask("/metrics", **shown)[0] == 200
            except OSError:
                return False

        wait_for(answered, "the status page")
        self.assertEqual(self.ask("/metrics")[0], 401)
        process.terminate()
        self.end(process)

    def test_cannot_listen(self) -> None:
        """Where it cannot listen, or there is no token, it ends before anything is done."""
        no_key = f"ssl:0:interface=127.0.0.1:privateKey={__file__}:certKey={__file__}"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            for arguments in (
                ("--status", port),
                ("--status", "70000"),
                ("--status", no_key),
                ("--status", str(self.port), "--status-token-file", "nowhere"),
            ):
                status, output = self.pair.run(*_OFF, *arguments)
                self.assertEqual(status, 1, output)
                self.assertIn("--status", output)
                self.assertNotIn("Traceback", output)
        self.assertNotIn("txmongokit", self.pair.there.list_database_names())
