"""
Tests for log-ins of whole clients in memory: by tokens and keys of the cloud,
and once more where a server says that a log-in has expired.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import bson
from bson.int64 import Int64
from pymongo.auth_oidc import (
    OIDCCallback,
    OIDCCallbackContext,
    OIDCCallbackResult,
    OIDCIdPInfo,
)
from pymongo.cursor import CursorType
from pymongo.monitoring import CommandListener
from pymongo.server_api import ServerApi
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.fakecloud import FakeAgent, FakeKerberos, FakeResponse, ThreadClock
from tests.fakeserver import FakeNetwork
from tests.spec.test_units import SPECIFICATIONS
from txmongokit.connection import ConnectionPool
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
)
from txmongokit.sessions import ClientSession

EXPIRED = {"ok": 0.0, "code": 391, "errmsg": "the token has expired"}
SASL = ("saslStart", "saslContinue")


class Tokens(OIDCCallback):
    """
    Gives tokens C{t1}, C{t2} and so on.

    @ivar given: how many.
    """

    def __init__(self) -> None:
        self.given = 0

    def fetch(self, context: OIDCCallbackContext) -> OIDCCallbackResult:
        """Give the next."""
        self.given += 1
        return OIDCCallbackResult(f"t{self.given}")


class Human(OIDCCallback):
    """
    Logs in by hand.

    @ivar results: what comes of that, instead of tokens.
    @ivar refreshes: whether there are tokens for refreshing.
    """

    refreshes = True

    def __init__(self) -> None:
        self.contexts: list[OIDCCallbackContext] = []
        self.results: list[Any] = []

    def fetch(self, context: OIDCCallbackContext) -> Any:
        """Give a token."""
        self.contexts.append(context)
        if self.results:
            return self.results.pop(0)
        number = len(self.contexts)
        refresh = f"r{number}" if self.refreshes else None
        return OIDCCallbackResult(f"t{number}", refresh_token=refresh)


class ClientTestCase(SynchronousTestCase):
    """
    A client that logs in, and its server.

    @ivar good: the token that the server takes; C{None} for any.
    """

    def setUp(self) -> None:
        """A server."""
        self.network = FakeNetwork()
        self.clock = self.network.clock = ThreadClock()
        self.server = self.network.add()
        self.server.on_command = self.answer
        self.tokens = Tokens()
        self.good: str | None = None
        self.log_ins: list[str] = []
        self.script: list[Any] = []

    def answer(self, body: dict[str, Any]) -> Any:
        """Answer as a server with OIDC does."""
        if next(iter(body)) not in SASL:
            return self.script.pop(0) if self.script else {"ok": 1.0, "n": 1}
        token = bson.decode(body["payload"])["jwt"]
        self.log_ins.append(token)
        if self.good not in (None, token):
            return {"ok": 0.0, "code": 18, "errmsg": "no"}
        return {"ok": 1.0, "conversationId": 1, "done": True, "payload": b""}

    def client(self, uri: str = "mongodb://a/?authMechanism=MONGODB-OIDC", **options: Any) -> Any:
        """A client, ended at the end."""
        if "MONGODB-OIDC" in uri:
            options.setdefault("authMechanismProperties", {"OIDC_CALLBACK": self.tokens})
        client = ConnectionPool(
            uri, reactor=self.clock, endpoint_factory=self.network.endpoint, **options
        )
        self.addCleanup(self.network.end, client)
        return client

    def do(self, operation: Deferred[Any]) -> Any:
        """The result of an operation."""
        self.network.advance(0.5)
        return self.successResultOf(operation)

    def fails(self, operation: Deferred[Any], *kinds: type[Exception]) -> Any:
        """The error of an operation."""
        self.network.advance(0.5)
        return self.failureResultOf(operation, *kinds).value


class LogInTests(ClientTestCase):
    """
    Logging in by what the cloud gives.
    """

    def test_token_is_shared(self) -> None:
        """All connections log in by one token, later ones along with C{hello}."""
        hellos: list[Any] = []

        def greet(body: dict[str, Any]) -> Any:
            hellos.append(body)
            said = {"speculativeAuthenticate": {"conversationId": 1, "done": True}}
            return {"isWritablePrimary": True, "maxWireVersion": 17, "ok": 1.0} | (
                said if "speculativeAuthenticate" in body else {}
            )

        client = self.client()
        self.server.on_hello = greet
        self.do(client.db.command("ping"))
        for waiting in [client.db.command("collStats") for _ in range(3)]:
            self.do(waiting)
        self.assertEqual((self.log_ins, self.tokens.given), (["t1"], 1))
        said = [
            each["speculativeAuthenticate"] for each in hellos if "speculativeAuthenticate" in each
        ]
        self.assertGreaterEqual(len(said), 2)
        wanted = {
            "saslStart": 1,
            "mechanism": "MONGODB-OIDC",
            "payload": bson.encode({"jwt": "t1"}),
            "db": "$external",
        }
        for each in said:
            self.assertEqual(bson.encode(each), bson.encode(wanted))

    def test_human_takes_time(self) -> None:
        """A human may take minutes, where a machine may not."""
        self.server.on_command = lambda body: (
            {
                "ok": 1.0,
                "conversationId": 1,
                "done": False,
                "payload": bson.encode({"issuer": "i"}),
            }
            if next(iter(body)) == "saslStart"
            else {"ok": 1.0, "done": True}
        )
        host = {"ALLOWED_HOSTS": ["a"]}
        self.clock.held = []
        human = self.client(
            authMechanismProperties={"OIDC_HUMAN_CALLBACK": self.tokens, **host}
        ).db.command("ping")
        self.network.advance(200.0, 5.0)
        self.assertNoResult(human)
        self.clock.release()
        self.do(human)
        self.clock.held = []
        self.server.on_command = self.answer
        machine = self.client().db.command("ping")
        self.network.advance(21.0, 1.0)
        self.failureResultOf(machine, NetworkTimeout)
        self.clock.release()

    def test_unknown_host(self) -> None:
        """A human's token does not go to an unknown host; nobody is asked for it."""
        client = self.client(authMechanismProperties={"OIDC_HUMAN_CALLBACK": self.tokens})
        error = self.fails(client.db.command("ping"), ConfigurationError)
        self.assertIn("ALLOWED_HOSTS", str(error))
        self.assertEqual((self.tokens.given, self.server.names()), (0, []))

    def test_by_agent(self) -> None:
        """The client's agent asks the cloud."""
        agent = FakeAgent(FakeResponse(b"google's"))
        properties = {"ENVIRONMENT": "gcp", "TOKEN_RESOURCE": "r"}
        self.do(self.client(agent=agent, authMechanismProperties=properties).db.command("ping"))
        self.assertEqual(self.log_ins, ["google's"])

    def test_keys(self) -> None:
        """MONGODB-AWS by keys of the connection string, with the stable API in each command."""
        nonces: list[bytes] = []

        def answer(body: dict[str, Any]) -> Any:
            if next(iter(body)) == "saslStart":
                nonces.append(bson.decode(body["payload"])["r"])
                payload = bson.encode({"s": nonces[0] + b"x" * 32, "h": "sts.amazonaws.com"})
                return {"ok": 1.0, "conversationId": 1, "done": False, "payload": payload}
            return {"ok": 1.0, "done": True}

        self.server.on_command = answer
        client = self.client(
            "mongodb://key:hunter2@a/?authMechanism=MONGODB-AWS", server_api=ServerApi("1")
        )
        self.do(client.db.command("ping"))
        self.assertEqual(self.server.names(), ["saslStart", "saslContinue", "ping"])
        for body in self.server.commands:
            self.assertEqual(body["apiVersion"], "1")
            self.assertNotIn("hunter2", repr(body))
        self.assertEqual(len(nonces[0]), 32)

    def test_no_kerberos(self) -> None:
        """Without the library the error of the first operation names it."""
        client = self.client("mongodb://u@a/?authMechanism=GSSAPI")
        error = self.fails(client.db.command("ping"), ConfigurationError)
        self.assertIn("package pykerberos", str(error))


class RunTimeTests(ClientTestCase):
    """
    Another user, by whatever mechanism, while the client is at work.
    """

    def setUp(self) -> None:
        """A client that nobody has logged in on."""
        super().setUp()
        self.pool = self.client("mongodb://a")
        self.do(self.pool.db.command("ping"))
        del self.server.commands[:]

    def logged_in(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        """Log in; what the server was told."""
        self.do(self.pool.authenticate(*args, **options))
        self.do(self.pool.db.command("ping"))
        # Once to see whether that goes, and once where it is used.
        half = (len(self.server.commands) - 1) // 2
        bodies = [dict(body) for body in self.server.commands]
        self.assertEqual(self.server.names()[:half], self.server.names()[half:-1])
        self.assertEqual(self.server.names()[-1], "ping")
        return bodies[:half]

    def test_token(self) -> None:
        """MONGODB-OIDC, with a callback, or what an environment gives."""
        properties = {"OIDC_CALLBACK": self.tokens}
        (started,) = self.logged_in("db", None, None, "MONGODB-OIDC", properties)
        wanted = {
            "saslStart": 1,
            "mechanism": "MONGODB-OIDC",
            "payload": bson.encode({"jwt": "t1"}),
            "$db": "$external",
        }
        self.assertEqual(started, wanted)
        self.assertEqual(self.tokens.given, 1)

    def test_keys(self) -> None:
        """MONGODB-AWS, with a session token."""

        def answer(body: dict[str, Any]) -> Any:
            if next(iter(body)) == "saslStart":
                nonce = bson.decode(body["payload"])["r"]
                payload = bson.encode({"s": nonce + b"x" * 32, "h": "sts.amazonaws.com"})
                return {"ok": 1.0, "conversationId": 1, "done": False, "payload": payload}
            return {"ok": 1.0, "done": True}

        self.server.on_command = answer
        _, goes_on = self.logged_in(
            "db", "key", "secret", "MONGODB-AWS", {"AWS_SESSION_TOKEN": "of the session"}
        )
        payload = bson.decode(goes_on["payload"])
        self.assertEqual(payload["t"], "of the session")
        self.assertIn("Credential=key/", payload["a"])

    def test_certificate(self) -> None:
        """MONGODB-X509, for whom the certificate names."""
        self.server.on_command = lambda body: {"ok": 1.0}
        (started,) = self.logged_in("db", None, None, "MONGODB-X509")
        wanted = {"authenticate": 1, "mechanism": "MONGODB-X509", "$db": "$external"}
        self.assertEqual(started, wanted)

    def test_kerberos(self) -> None:
        """GSSAPI, with a service of another name."""
        library: Any = FakeKerberos()
        self.patch(sys, "modules", {**sys.modules, "winkerberos": None, "kerberos": library})
        payloads: list[str] = []

        def answer(body: dict[str, Any]) -> Any:
            if next(iter(body)) in SASL:
                payloads.append(body["payload"])
                done = len(payloads) % 3 == 0
                library.steps = 0 if done else library.steps
                payload = "" if done else f"challenge{len(payloads)}"
                return {"ok": 1.0, "conversationId": 1, "done": done, "payload": payload}
            return {"ok": 1.0}

        self.server.on_command = answer
        commands = self.logged_in("db", "u@R", None, "GSSAPI", {"SERVICE_NAME": "other"})
        self.assertEqual(self.server.names()[:3], ["saslStart", "saslContinue", "saslContinue"])
        self.assertEqual(commands[0]["mechanism"], "GSSAPI")
        self.assertEqual({body["$db"] for body in commands}, {"$external"})
        self.assertEqual(payloads[:3], ["answer1", "answer2", "answer2"])
        self.assertEqual(library.calls[0], ("init", "other@a", {"gssflags": 2}))

    def test_challenge_response(self) -> None:
        """MONGODB-CR, of a database's own user."""
        self.server.on_command = lambda body: (
            {"ok": 1.0, "nonce": "2375531c32080ae8"} if "getnonce" in body else {"ok": 1.0}
        )
        first, second = self.logged_in("db", "user", "pencil", "MONGODB-CR")
        self.assertEqual(first, {"getnonce": 1, "$db": "db"})
        self.assertEqual(second["key"], "21742f26431831d5cfca035a08c5bdf6")

    def test_by_database(self) -> None:
        """A database passes everything on."""
        properties = {"OIDC_CALLBACK": self.tokens}
        self.do(self.pool.db.authenticate(None, None, "MONGODB-OIDC", properties))
        self.assertEqual(self.log_ins, ["t1"])

    def test_refused(self) -> None:
        """Properties that the mechanism does not know are refused; so is nobody at all."""
        for args in (
            ("db", "u", "p", "SCRAM-SHA-256", {"SERVICE_NAME": "x"}),
            ("db", None, None, "MONGODB-OIDC", {"ENVIRONMENT": "moon"}),
            ("db", None, None),
            ("db", None, "p"),
        ):
            self.fails(self.pool.authenticate(*args), ConfigurationError)
        self.assertEqual(self.server.commands, [])


_FILE = SPECIFICATIONS / "auth/tests/unified/mongodb-oidc-no-retry.json"


class Observer(CommandListener):
    """
    Notes events.

    @ivar seen: their names, as the specification has them, and the command.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def started(self, event: Any) -> None:
        """A command was sent."""
        self.seen.append(("commandStartedEvent", event.command_name))

    def succeeded(self, event: Any) -> None:
        """Its reply came."""
        self.seen.append(("commandSucceededEvent", event.command_name))

    def failed(self, event: Any) -> None:
        """It failed."""
        self.seen.append(("commandFailedEvent", event.command_name))


class SpecificationTests(ClientTestCase):
    """
    C{mongodb-oidc-no-retry.json}, which needs a server of 7.0 Enterprise:
    here it is scripted, with its fail points.
    """

    def setUp(self) -> None:
        """A server with fail points."""
        super().setUp()
        self.point: dict[str, Any] = {}
        usual = self.answer

        def answer(body: dict[str, Any]) -> Any:
            name = next(iter(body))
            if name in self.point.get("failCommands", ()):
                point, self.point = self.point, {}
                if point.get("closeConnection"):
                    return ConnectionError("closed")
                return {"ok": 0.0, "code": point["errorCode"], "errmsg": "a fail point"}
            if name == "find":
                cursor = {"id": 0, "ns": "test.collName", "firstBatch": []}
                return {"ok": 1.0, "cursor": cursor}
            return usual(body)

        def greet(body: dict[str, Any]) -> Any:
            reply: dict[str, Any] = {"isWritablePrimary": True, "maxWireVersion": 21, "ok": 1.0}
            if "speculativeAuthenticate" in body:
                reply["speculativeAuthenticate"] = {"conversationId": 1, "done": True}
            return reply

        self.server.on_command, self.server.on_hello = answer, greet

    def test_file(self) -> None:
        """All its cases."""
        if not _FILE.exists():
            raise SkipTest(f"there is no {_FILE}: set TXMONGOKIT_SPECS")
        for case in json.loads(_FILE.read_text())["tests"]:
            self.tokens = Tokens()
            self.run_case(case)

    def run_case(self, case: dict[str, Any]) -> None:
        """One case."""
        observer = Observer()
        client = self.client(retryReads=False, retryWrites=False, event_listeners=[observer])
        collection = client["test"]["collName"]
        for operation in case["operations"]:
            given, wanted = operation["arguments"], operation.get("expectError")
            if operation["name"] == "failPoint":
                self.point = given["failPoint"]["data"]
                continue
            if operation["name"] == "find":
                done = collection.find(given["filter"]).to_list()
            else:
                self.assertEqual(operation["name"], "insertOne")
                done = collection.insert_one(given["document"])
            self.network.advance(0.5)
            if wanted is None:
                self.successResultOf(done)
            elif wanted.get("isClientError"):
                self.failureResultOf(done, AutoReconnect)
            else:
                error = self.failureResultOf(done, OperationFailure).value
                self.assertEqual(error.code, wanted["errorCode"])
            # The server is looked at again after what was lost.
            self.network.advance(10.0, 1.0)
        for events in case.get("expectEvents", ()):
            names = [
                (kind, what.get("commandName") or next(iter(what["command"])))
                for event in events["events"]
                for kind, what in event.items()
            ]
            self.assertEqual(observer.seen, names, case["description"])


class HumanProseTests(SpecificationTests):
    """
    The prose tests of the human flow (C{mongodb-oidc.md}), on a scripted
    server with fail points.
    """

    def setUp(self) -> None:
        """A human, whose tokens the server takes."""
        super().setUp()
        self.human = Human()
        self.left = 0
        greet, usual = self.server.on_hello, self.server.on_command
        assert greet is not None
        assert usual is not None

        def answer(body: dict[str, Any]) -> Any:
            name = next(iter(body))
            if self.left and name in self.point.get("failCommands", ()):
                self.left -= 1
                if self.point.get("closeConnection"):
                    return ConnectionError("closed")
                return {"ok": 0.0, "code": self.point["errorCode"], "errmsg": "a fail point"}
            if name == "saslStart" and "jwt" not in bson.decode(body["payload"]):
                payload = bson.encode({"issuer": "i", "clientId": "c"})
                return {"ok": 1.0, "conversationId": 1, "done": False, "payload": payload}
            point, self.point = self.point, {}
            try:
                return usual(body)
            finally:
                self.point = point

        self.server.on_command = answer

    def fail_point(self, times: int, *commands: str, **what: Any) -> None:
        """Set one."""
        self.left = times
        self.point = {"failCommands": commands, **what}

    def human_client(self, **properties: Any) -> Any:
        """The default client."""
        known = {"OIDC_HUMAN_CALLBACK": self.human, "ALLOWED_HOSTS": ["a"], **properties}
        return self.client(authMechanismProperties=known, retryReads=False)

    def find(self, client: Any) -> Any:
        """Find something."""
        return self.do(client["test"]["c"].find({}).to_list())

    def test_file(self) -> None:
        """1.1, 2.1: the human is asked once, and told of the provider."""
        client = self.human_client()
        self.find(client)
        self.find(client)
        (context,) = self.human.contexts
        self.assertEqual(context.timeout_seconds, 300.0)
        self.assertEqual(context.idp_info, OIDCIdPInfo("i", "c"))
        self.assertIsNone(context.refresh_token)

    def test_hosts(self) -> None:
        """1.6: tokens go to known hosts only."""
        for hosts in ([], ["example.com"]):
            client = self.human_client(ALLOWED_HOSTS=hosts)
            self.fails(client["test"]["c"].find_one(), ConfigurationError)
        self.assertEqual(self.human.contexts, [])

    def test_missing_data(self) -> None:
        """2.2: what is no result is refused."""
        self.human.results = [{"access": "t"}]
        self.fails(
            self.human_client()["test"]["c"].find_one(), ConfigurationError, OperationFailure
        )

    def test_unexpected_error(self) -> None:
        """3.3 of the machine's: another error does not make the token forgotten."""
        client = self.human_client()
        self.fail_point(1, "saslStart", errorCode=20)
        self.fails(client["test"]["c"].find_one(), OperationFailure)
        self.network.advance(20.0, 1.0)
        self.find(client)
        self.assertEqual(len(self.human.contexts), 1)

    def test_speculation(self) -> None:
        """3.1 and 3.2: with a token there is no C{saslStart}, without one there is."""
        client = self.human_client()
        self.find(client)
        self.fail_point(1, "find", closeConnection=True)
        self.fails(client["test"]["c"].find_one(), AutoReconnect)
        self.network.advance(20.0, 1.0)
        self.fail_point(1, "saslStart", errorCode=18)
        self.find(client)
        self.assertEqual(len(self.human.contexts), 1)
        self.fails(self.human_client()["test"]["c"].find_one(), OperationFailure)

    def test_reauthentication(self) -> None:
        """2.3, 4.1: by the refresh token; the command is sent once more."""
        observer = Observer()
        known = {"OIDC_HUMAN_CALLBACK": self.human, "ALLOWED_HOSTS": ["a"]}
        client = self.client(
            authMechanismProperties=known, retryReads=False, event_listeners=[observer]
        )
        self.find(client)
        self.fail_point(1, "find", errorCode=391)
        del observer.seen[:]
        self.find(client)
        self.assertEqual([each.refresh_token for each in self.human.contexts], [None, "r1"])
        self.assertEqual(
            [kind for kind, name in observer.seen if name == "find"],
            [
                "commandStartedEvent",
                "commandFailedEvent",
                "commandStartedEvent",
                "commandSucceededEvent",
            ],
        )

    def test_no_refresh(self) -> None:
        """4.2: without a refresh token the human is asked anew."""
        self.human.refreshes = False
        client = self.human_client()
        self.find(client)
        self.fail_point(1, "find", errorCode=391)
        self.find(client)
        self.assertEqual([each.refresh_token for each in self.human.contexts], [None, None])

    def test_refresh_fails(self) -> None:
        """4.3 and 4.4: a refreshed token that is refused makes the human be asked, once."""
        client = self.human_client()
        self.find(client)
        self.fail_point(2, "find", "saslStart", errorCode=391)
        self.find(client)
        self.assertEqual(len(self.human.contexts), 3)
        client = self.human_client()
        del self.human.contexts[:]
        self.find(client)
        self.fail_point(3, "find", "saslStart", errorCode=391)
        self.fails(client["test"]["c"].find_one(), OperationFailure)
        self.assertEqual(len(self.human.contexts), 2)


class ExpiryTests(ClientTestCase):
    """
    C{ReauthenticationRequired}.
    """

    def setUp(self) -> None:
        """A client that has logged in."""
        super().setUp()
        self.pool = self.client()
        self.do(self.pool.db.command("ping"))
        del self.server.commands[:]

    def test_once_more(self) -> None:
        """Whatever the command is: a new token, no C{hello}, the command again."""
        greetings = len(self.server.hellos)
        self.script = [EXPIRED]
        waiting = self.pool.db.command("replSetStepDown")
        self.network.flush()
        self.successResultOf(waiting)
        self.assertEqual(self.server.names(), ["replSetStepDown", "saslStart", "replSetStepDown"])
        self.assertEqual((self.log_ins, len(self.server.hellos)), (["t1", "t2"], greetings))
        self.assertEqual(
            bson.encode(self.server.commands[1]),
            bson.encode(
                {
                    "saslStart": 1,
                    "mechanism": "MONGODB-OIDC",
                    "payload": bson.encode({"jwt": "t2"}),
                    "$db": "$external",
                }
            ),
        )

    def test_not_twice(self) -> None:
        """If that does not help, it is an error."""
        self.script = [EXPIRED, EXPIRED]
        error = self.fails(self.pool.db.things.insert_one({}), OperationFailure)
        self.assertEqual(error.code, 391)
        self.assertEqual(self.server.names(), ["insert", "saslStart", "insert"])
        self.do(self.pool.db.command("ping"))

    def test_later_again(self) -> None:
        """Each operation may need it."""
        for number in (2, 3):
            self.script = [EXPIRED]
            self.do(self.pool.db.command("ping"))
            self.assertEqual(self.log_ins[-1], f"t{number}")

    def test_refused(self) -> None:
        """A refused log-in is the operation's error, and the connection is not lost."""
        self.good = "none"
        self.script = [EXPIRED]
        error = self.fails(self.pool.db.command("ping"), OperationFailure)
        self.assertEqual(error.code, 18)
        self.assertEqual(self.server.names(), ["ping", "saslStart"])
        self.good = None
        self.do(self.pool.db.command("ping"))

    def test_token_of_another(self) -> None:
        """A token that another connection has fetched meanwhile is used."""
        self.script = [EXPIRED]
        self.pool._connector._authenticator.memory.tokens.access_token = "newer"
        self.do(self.pool.db.command("ping"))
        self.assertEqual((self.log_ins[-1], self.tokens.given), ("newer", 1))

    def test_together(self) -> None:
        """Those who share a connection have it logged in on once."""
        things = self.pool.db.things
        self.script = [EXPIRED] * 3
        waiting = [things.find_one({"_id": number}) for number in range(3)]
        found = {"ok": 1.0, "cursor": {"id": 0, "ns": "db.things", "firstBatch": []}}
        self.script += [found] * 3
        self.network.advance(0.5)
        for each in waiting:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.tokens.given, 2)
        self.assertEqual(self.server.names().count("saslStart"), len(self.server.connections) - 1)

    def test_lost(self) -> None:
        """A connection that is lost meanwhile is lost; a read is tried again."""
        self.script = [EXPIRED]
        usual, losses = self.server.on_command, [ConnectionError("reset")]

        def answer(body: dict[str, Any]) -> Any:
            if next(iter(body)) == "saslStart" and losses:
                return losses.pop()
            return usual(body)

        self.server.on_command = answer
        waiting = self.pool.db.command("ping")
        self.network.advance(2.0)
        self.failureResultOf(waiting, AutoReconnect)

    def test_too_late(self) -> None:
        """C{timeoutMS} counts, and what comes late is nobody's."""
        client = self.client(timeoutMS=1000)
        self.do(client.db.command("ping"))
        self.script = [EXPIRED]
        self.clock.held = []
        waiting = client.db.command("ping")
        self.network.advance(1.1)
        self.failureResultOf(waiting, ExecutionTimeout)
        self.clock.release()
        self.do(client.db.command("ping"))

    def test_cancel(self) -> None:
        """Giving up the operation leaves the connection of use."""
        self.script = [EXPIRED]
        self.clock.held = []
        waiting = self.pool.db.command("ping")
        self.network.flush()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.clock.release()
        self.do(self.pool.db.command("ping"))

    def test_stream(self) -> None:
        """A stream that is refused begins once more, on the same connection; but only once."""
        for refusals in (1, 2):
            del self.server.commands[:]
            first = {"id": Int64(7), "ns": "db.things", "firstBatch": [{"_id": 1}]}
            last = {"id": Int64(0), "ns": "db.things", "nextBatch": [{"_id": 2}]}
            self.script = [{"ok": 1.0, "cursor": first}, *[EXPIRED] * refusals]
            self.script.append({"ok": 1.0, "cursor": last})
            found = self.pool.db.things.find({}, cursor_type=CursorType.EXHAUST).to_list()
            self.network.advance(0.5)
            names = ["find", "getMore", "saslStart", "getMore"]
            if refusals == 1:
                self.assertEqual(self.successResultOf(found), [{"_id": 1}, {"_id": 2}])
                self.assertEqual(self.server.names(), names)
            else:
                error = self.failureResultOf(found, OperationFailure).value
                self.assertEqual((error.code, self.server.names()[:4]), (391, names))

    def in_transaction(self, pool: ConnectionPool) -> ClientSession:
        """A transaction that a member of a set knows nothing of yet."""
        self.network.elect("a")
        self.network.advance(11.0)
        session = pool.start_session()
        session.start_transaction()
        del self.server.commands[:]
        return session

    def inserts(self, pool: ConnectionPool, *numbers: int) -> list[Any]:
        """A command for each."""
        things = pool["db"]["things"]
        return [things.raw_write_command("insert", [bson.encode({"_id": n})]) for n in numbers]

    def test_row(self) -> None:
        """A transaction whose commands were sent ahead is to be begun once more as a whole."""
        session = self.in_transaction(self.pool)
        self.script = [{"ok": 1.0, "n": 1}, EXPIRED, EXPIRED]
        running = session.run_in_order(self.inserts(self.pool, 1, 2, 3))
        error = self.fails(running, OperationFailure)
        self.assertEqual(error.code, 391)
        self.assertTrue(error.has_error_label("TransientTransactionError"))
        self.assertEqual(self.server.names(), ["insert", "insert", "insert", "saslStart"])
        self.assertEqual(self.log_ins[-1], "t2")
        self.do(session.abort_transaction())
        session.start_transaction()
        self.do(session.run_in_order(self.inserts(self.pool, 1, 2, 3)))
        self.assertEqual(self.server.names()[4:], ["abortTransaction", *["insert"] * 3])

    def test_row_refused(self) -> None:
        """A refused log-in is the row's error, too, and the connection is not lost."""
        session = self.in_transaction(self.pool)
        self.good = "none"
        self.script = [EXPIRED]
        running = session.run_in_order(self.inserts(self.pool, 1))
        error = self.fails(running, OperationFailure)
        self.assertEqual(error.code, 18)
        self.assertFalse(error.has_error_label("TransientTransactionError"))
        self.good = None
        connections = len(self.server.connections)
        self.do(session.abort_transaction())
        self.assertEqual(len(self.server.connections), connections)

    def test_row_too_late(self) -> None:
        """The log-in has what is left of the command's time."""
        pool = self.client(timeoutMS=1000)
        session = self.in_transaction(pool)
        self.do(pool["db"].command("ping"))
        self.script = [EXPIRED]
        self.clock.held = []
        running = session.run_in_order(self.inserts(pool, 1))
        self.network.advance(1.1)
        self.failureResultOf(running, ExecutionTimeout)
        self.clock.release()
        self.do(pool["db"].command("ping"))

    def test_transaction(self) -> None:
        """A transaction that was turned away is begun once more."""
        session = self.in_transaction(self.pool)
        self.script = [EXPIRED]
        self.do(self.pool.db.things.insert_one({}, session=session))
        first, _, second = self.server.commands
        self.assertEqual((first["startTransaction"], second["startTransaction"]), (True, True))
        self.assertEqual(first["txnNumber"], second["txnNumber"])
        self.do(session.abort_transaction())

    def test_nobody(self) -> None:
        """Where nobody has logged in, there is nothing to be done once more."""
        client = self.client("mongodb://a")
        self.script = [EXPIRED]
        error = self.fails(client.db.command("ping"), ConfigurationError)
        self.assertIn("nobody has logged in", str(error))
