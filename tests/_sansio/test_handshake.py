"""
Tests for L{txmongokit._sansio.handshake}.
"""

from __future__ import annotations

import platform
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import bson
from pymongo.server_api import ServerApi
from pymongo.server_type import SERVER_TYPE
from twisted.trial.unittest import SynchronousTestCase

from tests._sansio.test_auth import FINAL_256, FIRST_256, PROOF_256, ok, speculative
from txmongokit._sansio.auth import KeyCache
from txmongokit._sansio.handshake import HandshakeResult, client_metadata, handshake
from txmongokit.errors import ConfigurationError, OperationFailure, ProtocolError
from txmongokit.options import Credentials

ADDRESS = ("h", 27017)
USER = Credentials("user", "pencil", "users", "DEFAULT")
PRIMARY: Mapping[str, Any] = {
    "ok": 1,
    "isWritablePrimary": True,
    "setName": "rs",
    "hosts": ["h:27017"],
    "minWireVersion": 0,
    "maxWireVersion": 17,
    "maxBsonObjectSize": 1000,
    "maxMessageSizeBytes": 2000,
    "maxWriteBatchSize": 30,
    "logicalSessionTimeoutMinutes": 30,
    "connectionId": 99,
}


class HandshakeTests(SynchronousTestCase):
    """
    L{handshake}.
    """

    def play(
        self, *replies: Mapping[str, Any], **options: Any
    ) -> tuple[list[tuple[str, dict[str, Any]]], HandshakeResult]:
        """Answer with the replies; what was sent, and the result."""
        given: dict[str, Any] = {
            "metadata": {"driver": {"name": "x"}},
            "credentials": None,
            "compressors": (),
            "server_api": None,
            "nonce": lambda: b64decode("rOprNGfwEbeRWgbNEkqO"),
            "key_cache": KeyCache(),
        }
        conversation = handshake(ADDRESS, **{**given, **options})
        sent = [next(conversation)]
        for reply in replies[:-1]:
            sent.append(conversation.send(reply))  # noqa: PERF401
        try:
            extra = conversation.send(replies[-1])
        except StopIteration as ended:
            return [(step.database, step.body) for step in sent], ended.value
        raise self.failureException(f"one more command: {extra}")

    def test_hello(self) -> None:
        """One command that says who we are."""
        sent, result = self.play(PRIMARY)
        hello = {"hello": 1, "helloOk": True, "client": {"driver": {"name": "x"}}}
        self.assertEqual(sent, [("admin", hello)])
        self.assertEqual(result.hello, PRIMARY)

    def test_information(self) -> None:
        """What the server told."""
        info = self.play(PRIMARY)[1].info
        self.assertEqual(info.address, ADDRESS)
        self.assertEqual(info.server_type, SERVER_TYPE.RSPrimary)
        self.assertEqual(info.max_wire_version, 17)
        self.assertEqual(info.max_bson_size, 1000)
        self.assertEqual(info.max_message_size, 2000)
        self.assertEqual(info.max_write_batch_size, 30)
        self.assertEqual(info.logical_session_timeout_minutes, 30)
        self.assertEqual(info.connection_id, 99)

    def test_legacy_hello(self) -> None:
        """A server that has no C{hello} is asked in the old way, with all the rest."""
        unknown = {"ok": 0, "code": 59, "errmsg": "no such command: 'hello'"}
        sent, result = self.play(unknown, PRIMARY, compressors=("zlib",))
        self.assertEqual(next(iter(sent[1][1])), "isMaster")
        self.assertNotIn("hello", sent[1][1])
        self.assertEqual(sent[1][1]["compression"], ["zlib"])
        self.assertEqual(result.info.max_wire_version, 17)

    def test_refused(self) -> None:
        """Another failure of C{hello} is passed on, with the server's name."""
        refusal = {"ok": 0, "code": 323, "errmsg": "API version is required"}
        error = self.assertRaises(OperationFailure, self.play, refusal)
        assert isinstance(error, OperationFailure)
        self.assertEqual(error.code, 323)
        self.assertIn("h:27017", str(error))

    def test_unreadable(self) -> None:
        """A reply whose fields are of the wrong type is an error that names the server."""
        for name, value in (
            ("maxWireVersion", "x"),
            ("minWireVersion", 0.5),
            ("saslSupportedMechs", 3),
            ("speculativeAuthenticate", "x"),
            ("compression", 3),
        ):
            error = self.assertRaises(
                ProtocolError,
                self.play,
                {**PRIMARY, name: value},
                credentials=USER,
                compressors=("zlib",),
            )
            self.assertIn(f"h:27017: {name}", str(error))

    def test_too_old(self) -> None:
        """A server before 4.4 is refused before anybody logs in."""
        error = self.assertRaises(
            ConfigurationError, self.play, {**PRIMARY, "maxWireVersion": 8}, credentials=USER
        )
        self.assertIn("4.4", str(error))

    def test_compressors(self) -> None:
        """Those that both know, in our order."""
        reply = {**PRIMARY, "compression": ["snappy", "zlib", "zstd"]}
        sent, result = self.play(reply, compressors=("zlib", "zstd", "other"))
        self.assertEqual(sent[0][1]["compression"], ["zlib", "zstd", "other"])
        self.assertEqual(result.compressors, ("zlib", "zstd"))
        self.assertEqual(self.play(PRIMARY, compressors=("zlib",))[1].compressors, ())

    def test_log_in(self) -> None:
        """The mechanism is negotiated, and its first step taken, with C{hello}."""
        reply = {
            **PRIMARY,
            "saslSupportedMechs": ["SCRAM-SHA-256"],
            "speculativeAuthenticate": speculative(FIRST_256),
        }
        sent, result = self.play(reply, ok(FINAL_256, done=True), credentials=USER)
        hello = sent[0][1]
        self.assertEqual(hello["saslSupportedMechs"], "users.user")
        self.assertEqual(hello["speculativeAuthenticate"]["db"], "users")
        self.assertEqual(len(sent), 2)
        self.assertEqual(sent[1][0], "users")
        self.assertEqual(sent[1][1]["payload"], PROOF_256)
        self.assertEqual(result.hello, reply)

    def test_log_in_without_speculation(self) -> None:
        """A server that knows no speculation is logged in to all the same."""
        reply = {**PRIMARY, "saslSupportedMechs": ["SCRAM-SHA-256"]}
        sent, _ = self.play(reply, ok(FIRST_256), ok(FINAL_256, done=True), credentials=USER)
        self.assertEqual(sent[1][1]["saslStart"], 1)

    def test_given_mechanism(self) -> None:
        """A mechanism that was named is not negotiated."""
        who = Credentials("user", "pencil", "users", "SCRAM-SHA-256")
        sent, _ = self.play(
            {**PRIMARY, "speculativeAuthenticate": speculative(FIRST_256)},
            ok(FINAL_256, done=True),
            credentials=who,
        )
        self.assertNotIn("saslSupportedMechs", sent[0][1])

    def test_log_in_fails(self) -> None:
        """The refusal comes out."""
        refusal = {"ok": 0, "code": 18, "errmsg": "Authentication failed."}
        error = self.assertRaises(OperationFailure, self.play, PRIMARY, refusal, credentials=USER)
        self.assertIn("Authentication failed.", str(error))
        self.assertNotIn("pencil", str(error))

    def test_arbiter(self) -> None:
        """Nobody can log in to an arbiter."""
        arbiter = {**PRIMARY, "isWritablePrimary": False, "arbiterOnly": True}
        sent, result = self.play(arbiter, credentials=USER)
        self.assertEqual(len(sent), 1)
        self.assertEqual(result.info.server_type, SERVER_TYPE.RSArbiter)

    def test_stable_api(self) -> None:
        """Every command declares the API, those that log in too."""
        reply = {**PRIMARY, "saslSupportedMechs": ["SCRAM-SHA-256"]}
        sent, _ = self.play(
            reply,
            ok(FIRST_256),
            ok(FINAL_256),
            ok(done=True),
            credentials=USER,
            server_api=ServerApi("1", strict=True, deprecation_errors=False),
        )
        self.assertEqual(len(sent), 4)
        for _, body in sent:
            self.assertEqual(body["apiVersion"], "1")
            self.assertIs(body["apiStrict"], True)
            self.assertIs(body["apiDeprecationErrors"], False)
        sent, _ = self.play(PRIMARY, server_api=ServerApi("1"))
        self.assertEqual(sent[0][1]["apiVersion"], "1")
        self.assertNotIn("apiStrict", sent[0][1])

    def test_stable_api_and_speculation(self) -> None:
        """A log-in that ended with C{hello} has no more to declare."""
        who = Credentials("CN=u", None, "$external", "MONGODB-X509")
        sent, _ = self.play(
            {**PRIMARY, "speculativeAuthenticate": {"dbname": "$external", "user": "CN=u"}},
            credentials=who,
            server_api=ServerApi("1"),
        )
        self.assertEqual(len(sent), 1)


class MetadataTests(SynchronousTestCase):
    """
    L{client_metadata}.
    """

    def test_content(self) -> None:
        """Driver, operating system and platform."""
        metadata = client_metadata()
        self.assertEqual(metadata["driver"]["name"], "txmongokit")
        self.assertTrue(metadata["driver"]["version"])
        self.assertTrue(metadata["os"]["type"])
        self.assertIn(platform.python_version(), metadata["platform"])
        self.assertIn("Twisted", metadata["platform"])
        self.assertNotIn("application", metadata)
        self.assertEqual(client_metadata("shop")["application"], {"name": "shop"})

    def test_application_name(self) -> None:
        """At most 128 bytes, not characters."""
        client_metadata("x" * 128)
        self.assertRaises(ConfigurationError, client_metadata, "x" * 129)
        self.assertRaises(ConfigurationError, client_metadata, "\u00e4" * 65)

    def test_size(self) -> None:
        """At most 512 bytes; what is least needed goes first."""
        self.patch(platform, "release", lambda: "r" * 400)
        metadata = client_metadata("a" * 128)
        self.assertLessEqual(len(bson.encode(metadata)), 512)
        self.assertEqual(list(metadata["os"]), ["type"])
        self.assertIn("Twisted", metadata["platform"])
        self.patch(platform, "python_version", lambda: "\u00e4" * 400)
        metadata = client_metadata("a" * 128)
        self.assertLessEqual(len(bson.encode(metadata)), 512)
        self.assertGreater(len(bson.encode(metadata)), 505)
        self.assertEqual(metadata["application"], {"name": "a" * 128})
