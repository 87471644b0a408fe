"""
The Python code blocks of the documentation run as they stand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakeserver import FakeNetwork
from txmongokit.connection import ConnectionPool
from txmongokit.options import KEYWORDS, ClientOptions, read_client_options
from txmongokit.testing import replica_set
from txmongokit.uri import OPTION_NAMES

_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(?m)^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)")
_SECONDS = 120
# The documents with code, and how many blocks of it each has.
_BLOCKS = {
    "authentication": 4,
    "authentication-aws": 1,
    "authentication-kerberos": 1,
    "authentication-oidc": 3,
    "connecting": 5,
    "discovery": 2,
    "from-txmongo": 3,
    "from-pymongo": 2,
    "gridfs": 5,
    "load-balancers": 3,
    "newer-servers": 2,
    "pool": 1,
    "proxies": 2,
    "revocation": 2,
    "sessions": 4,
    "sessions-cherrypy": 2,
    "sessions-rest": 1,
    "settings": 5,
    "splitting": 4,
    "storage": 5,
    "time": 3,
    "tracing": 1,
    "transactions": 6,
    "tutorial": 2,
    "types": 4,
    "watching": 2,
}
# What the documents say of their blocks: main() is given a client.
_TAKES_CLIENT = "async def main(client"
_RUN_WITH_CLIENT = """
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from txmongokit import ConnectionPool

async def _run(uri):
    client = ConnectionPool(uri)
    try:
        for name in ("app", "bank"):
            await client.drop_database(name)
        await main(client)
    finally:
        await client.disconnect()

react(lambda reactor: Deferred.fromCoroutine(_run({uri!r})))
"""


def _code_blocks(path: Path) -> list[str]:
    """
    The Python code blocks of a document.
    """
    return [textwrap.dedent(block) for block in _BLOCK.findall(path.read_text())]


def _done(network: FakeNetwork, run: Callable[[ConnectionPool], Any]) -> Any:
    """
    The result of what is done with a client of a scripted server.
    """
    client = ConnectionPool("mongodb://a", reactor=network.clock, endpoint_factory=network.endpoint)
    done = Deferred.fromCoroutine(run(client))
    network.advance(1.0)
    network.end(client)
    found: list[Any] = []
    done.addBoth(found.append)
    return found.pop() if found else None


def _moved(block: str) -> Any:
    """
    What writes on several collections give.
    """
    network = FakeNetwork()
    server = network.add()
    server.hello = {"maxWireVersion": 25}
    reply = {
        "cursor": {
            "id": 0,
            "ns": "admin.$cmd.bulkWrite",
            "firstBatch": [
                {"ok": 1, "idx": 0, "n": 1},
                {"ok": 1, "idx": 1, "n": 1},
                {"ok": 1, "idx": 2, "n": 1, "nModified": 1},
            ],
        },
        "nErrors": 0,
        "nInserted": 1,
        "nMatched": 1,
        "nModified": 1,
        "nUpserted": 0,
        "nDeleted": 1,
        "ok": 1,
    }
    server.on_command = lambda body: reply if "bulkWrite" in body else {"ok": 1}
    names: dict[str, Any] = {}
    exec(block, names)
    return _done(network, lambda client: names["move"](client, {"_id": 7}))


def _searched(block: str) -> Any:
    """
    The search index that there is for a while.
    """
    network = FakeNetwork()
    indexes: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if "createSearchIndexes" in body:
            indexes.extend({"name": each["name"]} for each in body["indexes"])
            return {"ok": 1, "indexesCreated": [{"id": "1", **each} for each in indexes]}
        if "aggregate" in body:
            return {"ok": 1, "cursor": {"id": 0, "ns": "app.things", "firstBatch": indexes}}
        return {"ok": 1}

    network.add().on_command = answer
    names: dict[str, Any] = {}
    exec(block, names)
    return _done(network, lambda client: names["index"](client.app.things))


class CodeBlockTests(SynchronousTestCase):
    """
    C{docs/*.rst}, and README.rst as far as it needs no server.
    """

    def runs(self, name: str) -> None:
        """
        Run each code block of a document as a script of its own.
        """
        blocks = _code_blocks(_ROOT / "docs" / f"{name}.rst")
        self.assertEqual(len(blocks), _BLOCKS[name])
        ending = ""
        if any(_TAKES_CLIENT in block for block in blocks):
            deployment = replica_set()
            self.addCleanup(deployment.close)
            ending = _RUN_WITH_CLIENT.format(uri=deployment.uri)
        for number, block in enumerate(blocks):
            done = subprocess.run(
                [sys.executable, "-c", block + ending if _TAKES_CLIENT in block else block],
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
            told = f"{name}, block {number + 1}:\n{done.stdout}"
            self.assertEqual(done.returncode, 0, told)
            self.assertNotIn("Unhandled", done.stdout, told)

    def test_tutorial(self) -> None:
        """
        The tutorial's programs run against the servers that they start.
        """
        self.runs("tutorial")

    def test_connecting(self) -> None:
        """
        The connections of the how-to guide can be made.
        """
        self.runs("connecting")

    def test_load_balancers(self) -> None:
        """
        Clients of mongos and load balancers can be made, as far as that needs none.
        """
        self.runs("load-balancers")

    def test_authentication(self) -> None:
        """
        Users log in by password and by certificate; the other ways are taken,
        as far as that needs no server.
        """
        for name in ("", "-aws", "-kerberos", "-oidc"):
            self.runs(f"authentication{name}")

    def test_discovery(self) -> None:
        """
        Clients by names for DNS can be made.
        """
        self.runs("discovery")

    def test_revocation(self) -> None:
        """
        The options about revoked certificates are taken, and one that was
        revoked is refused.
        """
        self.runs("revocation")

    def test_settings(self) -> None:
        """
        Settings give what the guide asserts; L{tests.integration.test_pyramid}
        serves its Pyramid application.
        """
        self.runs("settings")

    def test_newer_servers(self) -> None:
        """
        What newer servers have is sent to one that is scripted.
        """
        self.runs("newer-servers")
        writes, search = _code_blocks(_ROOT / "docs" / "newer-servers.rst")
        self.assertEqual(_moved(writes), (1, 1))
        self.assertEqual(_searched(search), {"name": "everything"})

    def test_time(self) -> None:
        """
        Operations time out, and are cancelled, as the guide has it.
        """
        self.runs("time")

    def test_transactions(self) -> None:
        """
        Sessions, transactions and change streams do what the guide asserts.
        """
        self.runs("transactions")

    def test_gridfs(self) -> None:
        """
        Files go up and come down, over HTTP, too, as the guide has it.
        """
        self.runs("gridfs")

    def test_sessions(self) -> None:
        """
        Sessions are stored, encrypted, and shared by twisted.web's sites and Klein's.
        """
        self.runs("sessions")

    def test_sessions_cherrypy(self) -> None:
        """
        CherryPy's sessions count visits, under its own server and Twisted's.
        """
        self.runs("sessions-cherrypy")

    def test_sessions_rest(self) -> None:
        """
        A session is read, changed and ended over HTTP.
        """
        self.runs("sessions-rest")

    def test_pool(self) -> None:
        """
        Sharing can be turned off, and on.
        """
        self.runs("pool")

    def test_proxies(self) -> None:
        """
        A client takes a proxy; L{tests.integration.test_proxies} has the
        endpoint for HTTP proxies connect.
        """
        self.runs("proxies")

    def test_tracing(self) -> None:
        """
        A client traces.
        """
        self.runs("tracing")

    def test_watching(self) -> None:
        """
        Listeners and logs tell what the guide asserts.
        """
        self.runs("watching")

    def test_splitting(self) -> None:
        """
        Reads are bounded, requests see what was written, and writes are
        acknowledged as the guide asserts.
        """
        self.runs("splitting")

    def test_storage(self) -> None:
        """
        Documents of classes are kept and found as the guide asserts.
        """
        self.runs("storage")

    def test_types(self) -> None:
        """
        Documents become what codec options say.
        """
        self.runs("types")

    def test_from_pymongo(self) -> None:
        """
        What users of PyMongo write goes on working.
        """
        self.runs("from-pymongo")

    def test_from_txmongo(self) -> None:
        """
        What users of TxMongo write goes on working.
        """
        self.runs("from-txmongo")

    def test_no_other_document_has_untested_code(self) -> None:
        """
        Python code stands in no other document, and what README.rst shows
        compiles.
        """
        documents = {path.stem for path in (_ROOT / "docs").glob("*.rst") if _code_blocks(path)}
        self.assertEqual(documents, set(_BLOCKS))
        (block,) = _code_blocks(_ROOT / "README.rst")
        compile(block, "README.rst", "exec")


_ROW = re.compile(r"(?m)^   \* - (.*)\n     - (.*)\n     - (.*)\n")
_LITERAL = re.compile(r"``([^`]+)``")


def _option_rows() -> list[tuple[str, str, str]]:
    """
    Name, keyword and default of each row of the table of options.
    """
    text = (_ROOT / "docs" / "options.rst").read_text()
    rows = [tuple(cell.strip() for cell in row) for row in _ROW.findall(text)]
    return [(name, keyword, default) for name, keyword, default in rows if "``" in name + keyword]


class OptionTableTests(SynchronousTestCase):
    """
    C{docs/options.rst} beside the parser of options.
    """

    def test_names(self) -> None:
        """
        The table has every option that the parser knows, once, and no other.
        """
        names = [found.group(1) for row in _option_rows() if (found := _LITERAL.search(row[0]))]
        self.assertEqual(sorted(names), sorted(OPTION_NAMES))

    def test_keywords(self) -> None:
        """
        The table has every keyword argument that no connection string can
        give, and the others by names that the parser knows.
        """
        known = {name.replace("_", "").lower() for name in OPTION_NAMES}
        others = []
        for name, keyword, _ in _option_rows():
            (given,) = _LITERAL.findall(keyword)
            if "``" in name:
                self.assertIn(given.replace("_", "").lower(), known)
            else:
                others.append(given)
        self.assertEqual(sorted(others), sorted(KEYWORDS))

    def test_defaults(self) -> None:
        """
        An option that is given the default which the table has changes
        nothing.
        """
        tried = 0
        for name, _, default in _option_rows():
            value = _LITERAL.fullmatch(default)
            if "``" not in name or value is None:
                continue
            (option,) = _LITERAL.findall(name)
            self.assertEqual(self.read(f"{option}={quote_plus(value[1])}"), self.read(""), option)
            tried += 1
        self.assertGreater(tried, 30)

    def read(self, option: str) -> ClientOptions:
        """
        The options of a connection string with one option, but for sharing,
        which depends on whether C{maxPoolSize} was given.
        """
        host = "mongodb+srv://a.example.com" if option.startswith("srv") else "mongodb://a"
        also = "tls=true&" if option.startswith("tls") else ""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            options = read_client_options(f"{host}/?{also}{option}".rstrip("?&"))
        options = replace(options, connection_sharing=None)
        if option.startswith("srv"):
            self.assertEqual(options.srv, read_client_options(host).srv)
        if also:
            self.assertEqual(options.tls, read_client_options(f"{host}/?tls=true").tls)
        return replace(options, seeds=(), srv=None, tls=None)
