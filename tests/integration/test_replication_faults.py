"""
The replicator when servers hang, have no room, or take writes back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

from bson import Int64
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import checkpoint_gaps, differences, finish
from tests.replicas import Pair, wait_for
from txmongokit.testing import Deployment, Member, replica_set

_OFF = ("--resume-file", "none")
# A client that notices soon that a server is silent.
_WATCHFUL = "heartbeatFrequencyMS=500&connectTimeoutMS=1500"


def watchful(deployment: Deployment) -> str:
    """The deployment's URI for such a client."""
    return f"{deployment.uri}&{_WATCHFUL}"


def freeze(member: Member) -> None:
    """Make a server silent, as a network that is cut does."""
    assert member.pid is not None
    os.kill(member.pid, signal.SIGSTOP)


def thaw(member: Member) -> None:
    """Let it go on."""
    if member.pid is not None:
        os.kill(member.pid, signal.SIGCONT)


class FaultTests(SynchronousTestCase):
    """
    It goes on by itself, or says why it cannot.
    """

    def pair(self, source: int = 1, destination: int = 1) -> Pair:
        """Two sets of so many members."""
        pair = Pair(replica_set(source, name="from"), replica_set(destination, name="to"))
        self.addCleanup(pair.close)
        for deployment in (pair.source, pair.destination):
            for member in deployment.members:
                self.addCleanup(thaw, member)
        return pair

    def follow(self, pair: Pair, *arguments: str) -> subprocess.Popen[str]:
        """A replicator that follows, and has replicated something."""
        pair.here["app"]["users"].insert_one({"_id": "first"})
        ends = ("--from", watchful(pair.source), "--to", watchful(pair.destination))
        process = pair.start(*ends, *_OFF, "-f", *arguments)
        copy = pair.there["app"]["users"]
        wait_for(lambda: copy.find_one({"_id": "first"}), "the first document")
        return process

    def assert_arrives(self, pair: Pair, process: subprocess.Popen[str]) -> None:
        """Everything gets there, once."""
        end = finish(pair.here)

        def reached() -> bool:
            if process.poll() is not None:
                return True
            try:
                checkpoint = pair.checkpoint()
            except PyMongoError:
                return False
            return checkpoint is not None and checkpoint["ts"] >= end

        wait_for(reached, "the end of the load", 60)
        process.terminate()
        output, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(list(differences(pair.here, pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(pair.there)), [])

    def test_silent_for_a_while(self) -> None:
        """Servers that hang for some seconds are waited for."""
        pair = self.pair()
        process = self.follow(pair)
        users = pair.here["app"]["users"]
        for frozen in (pair.destination, pair.source):
            users.insert_many([{"n": number} for number in range(2000)])
            freeze(frozen.members[0])
            time.sleep(4)
            thaw(frozen.members[0])
            users.insert_many([{"n": number} for number in range(100)])
        self.assert_arrives(pair, process)

    def lose(self, deployment: Deployment, command: str) -> None:
        """Close the connections of the replicator's next two such commands."""
        with deployment.client() as client:
            client["admin"].command(
                "configureFailPoint",
                "failCommand",
                mode={"times": 2},
                data={
                    "failCommands": [command],
                    "closeConnection": True,
                    "appName": "mongosync",
                },
            )

    def test_lost_while_starting(self) -> None:
        """Connections that are lost at any point of the start are no reason to end."""
        pair = self.pair()
        pair.here["app"]["users"].insert_one({"_id": 0})
        self.assertEqual(pair.run(*_OFF)[0], 0)
        for number, (here, there) in enumerate(
            [
                ("buildInfo", "buildInfo"),
                ("getCmdLineOpts", "find"),
                ("find", "killSessions"),
                ("getMore", "findAndModify"),
                ("find", "explain"),
            ],
            1,
        ):
            pair.here["app"]["users"].insert_one({"_id": number})
            self.lose(pair.source, here)
            self.lose(pair.destination, there)
            status, output = pair.run(*_OFF)
            self.assertEqual(status, 0, f"{here}, {there}: {output}")
            self.assertEqual(list(differences(pair.here, pair.there)), [])

    def test_lost_while_cloning(self) -> None:
        """Nor are those that are lost at any point of a clone."""
        pair = self.pair()
        pair.here["app"]["users"].insert_many([{"_id": number} for number in range(100)])
        pair.here["app"]["users"].create_index("n")
        pair.here["app"].create_collection("log", capped=True, size=4096).insert_one({"_id": 1})
        for here, there in (
            ("listDatabases", "listCollections"),
            ("listCollections", "delete"),
            ("listIndexes", "insert"),
            ("aggregate", "create"),
            ("find", "update"),
            ("getMore", "createIndexes"),
        ):
            for name in ("app", "txmongokit"):
                pair.there.drop_database(name)
            self.lose(pair.source, here)
            self.lose(pair.destination, there)
            status, output = pair.run(*_OFF, "--clone")
            # Only a second start can put a capped collection's documents in order.
            if "its order is not known" in output:
                status, output = pair.run(*_OFF, "--clone")
            self.assertEqual(status, 0, f"{here}, {there}: {output}")
            self.assertEqual(list(differences(pair.here, pair.there)), [])

    def test_end_of_patience(self) -> None:
        """A server that stays away for longer than it is to be waited for ends it."""
        pair = self.pair()
        to = f"{watchful(pair.destination)}&serverSelectionTimeoutMS=500"
        process = self.follow(pair, "--patience", "1.5", "--to", to)
        pair.destination.members[0].kill()
        pair.here["app"]["users"].insert_one({"_id": "second"})
        output, _ = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 1, output)
        self.assertIn("trying again", output)
        self.assertNotIn("Traceback", output)
        pair.destination.members[0].restart()
        status, output = pair.run(*_OFF)
        self.assertEqual(status, 0, output)
        self.assertEqual(pair.there["app"]["users"].count_documents({}), 2)

    def test_silent_primaries(self) -> None:
        """A primary that goes silent for good is left for the next one, on either side."""
        pair = self.pair(3, 3)
        process = self.follow(pair)
        for deployment in (pair.destination, pair.source):
            silent = deployment.primary()
            freeze(silent)
            others = [member for member in deployment.members if member is not silent]

            def elected(others: list[Member] = others) -> bool:
                return any(_is_primary(member) for member in others)

            wait_for(elected, "another primary", 30)
            with pair.source.client(w="majority", **_SOON) as client:
                wait_for(lambda client=client: _insert(client), "a write", 30)  # type: ignore[misc]
            thaw(silent)
        self.assert_arrives(pair, process)

    def test_full_destination(self) -> None:
        """A destination without room is waited for until it has some."""
        pair = self.pair()
        process = self.follow(pair)
        refuse = {
            "configureFailPoint": "failCommand",
            "mode": {"times": 8},
            "data": {
                "failCommands": ["insert", "update", "delete"],
                "errorCode": 14031,
                "appName": "mongosync",
            },
        }
        pair.there["admin"].command(refuse)
        pair.here["app"]["users"].insert_many([{"n": number} for number in range(50)])
        self.assert_arrives(pair, process)

    def test_throttled_destination(self) -> None:
        """A slow destination slows it down, and memory stays what it was."""
        pair = self.pair()
        process = self.follow(pair)
        before = _memory(process.pid)
        slow = {
            "configureFailPoint": "failCommand",
            "mode": "alwaysOn",
            "data": {
                "failCommands": ["insert", "update", "delete", "commitTransaction"],
                "blockConnection": True,
                "blockTimeMS": 200,
                "appName": "mongosync",
            },
        }
        pair.there["admin"].command(slow)
        for _ in range(60):
            pair.here["app"]["users"].insert_many([{"text": "x" * 2000} for _ in range(1000)])
        time.sleep(3)
        self.assertLess(_memory(process.pid) - before, 90)
        self.assertLess(pair.there["app"]["users"].estimated_document_count(), 60_000)
        pair.there["admin"].command({"configureFailPoint": "failCommand", "mode": "off"})
        self.assert_arrives(pair, process)

    def test_taken_back(self) -> None:
        """What the source's old primary has to take back never arrives."""
        pair = self.pair(3, 1)
        process = self.follow(pair)
        primary = pair.source.primary()
        others = [member for member in pair.source.members if member is not primary]
        for member in others:
            _stop_fetching(member, "alwaysOn")
        with primary.client() as client:
            users = client["app"].get_collection("users", write_concern=WriteConcern(1))
            users.insert_many([{"_id": f"lost {number}"} for number in range(20)])
        time.sleep(0.5)
        self.assertIsNone(pair.there["app"]["users"].find_one({"_id": "lost 0"}))
        primary.kill()
        for member in others:
            _stop_fetching(member, "off")
        wait_for(lambda: any(_is_primary(member) for member in others), "another primary", 30)
        with pair.source.client(w="majority", **_SOON) as client:
            wait_for(lambda: _insert(client), "a write", 30)
        primary.restart()
        self.assert_arrives(pair, process)
        self.assertIsNone(pair.there["app"]["users"].find_one({"_id": "lost 0"}))
        self.assertIsNone(pair.here["app"]["users"].find_one({"_id": "lost 0"}))

    def test_rolled_back(self) -> None:
        """A checkpoint that the source has not, or of another term, is told as a rollback."""
        pair = self.pair()
        pair.here["app"]["users"].insert_one({"_id": 1})
        self.assertEqual(pair.run(*_OFF)[0], 0)
        checkpoint = pair.checkpoint()
        assert checkpoint is not None
        pair.here["app"]["users"].insert_one({"_id": 2})
        checkpoints = pair.there["txmongokit"]["mongosync"]
        for change in ({"t": Int64(checkpoint["t"] + 7)}, _another_increment(checkpoint)):
            checkpoints.update_one({}, {"$set": change})
            status, output = pair.run(*_OFF)
            self.assertEqual(status, 1, output)
            self.assertIn("rolled back", output)
            self.assertIsNone(pair.there["app"]["users"].find_one({"_id": 2}))
            checkpoints.update_one({}, {"$set": {name: checkpoint[name] for name in ("t", "ts")}})


_SOON: dict[str, Any] = {"serverSelectionTimeoutMS": 2000, "socketTimeoutMS": 3000}


def _another_increment(checkpoint: dict[str, Any]) -> dict[str, Any]:
    at = checkpoint["ts"]
    return {"ts": type(at)(at.time, at.inc + 100)}


def _stop_fetching(member: Member, mode: str) -> None:
    """Let a secondary see nothing of what its primary writes."""
    with member.client() as client:
        client["admin"].command({"configureFailPoint": "stopReplProducer", "mode": mode})


def _is_primary(member: Member) -> bool:
    try:
        with member.client(serverSelectionTimeoutMS=1000) as client:
            return bool(client.admin.command("isMaster").get("ismaster"))
    except PyMongoError:
        return False


def _insert(client: Any) -> bool:
    try:
        client["app"]["users"].insert_one({"after": 1})
    except PyMongoError:
        return False
    return True


def _memory(pid: int) -> float:
    """Resident memory in MB."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
