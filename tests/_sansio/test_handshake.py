"""
Tests for L{txmongokit._sansio.handshake}.
"""

from __future__ import annotations

import platform
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import bson
import pymongo
from bson.objectid import ObjectId
from pymongo.driver_info import DriverInfo
from pymongo.server_api import ServerApi
from pymongo.server_type import SERVER_TYPE
from twisted.trial.unittest import SynchronousTestCase

from tests._sansio.test_auth import FINAL_256, FIRST_256, PROOF_256, ok, speculative
from txmongokit._sansio.auth import LoginMemory
from txmongokit._sansio.conversation import Derivation, Step
from txmongokit._sansio.handshake import HandshakeResult, client_metadata, handshake
from txmongokit.errors import (
    ConfigurationError,
    NotPrimaryError,
    OperationFailure,
    ProtocolError,
)
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
            "memory": LoginMemory(),
        }
        conversation = handshake(ADDRESS, **{**given, **options})
        steps = [next(conversation)]
        for reply in replies[:-1]:
            steps.append(conversation.send(reply))  # noqa: PERF401
        sent = [step for step in steps if isinstance(step, Step)]
        self.assertEqual(len(sent), len(steps))
        try:
            extra = conversation.send(replies[-1])
        except StopIteration as ended:
            return [(step.database, step.body) for step in sent], ended.value
        raise self.failureException(f"one more command: {extra}")

    def test_hello(self) -> None:
        """One command that says who we are."""
        sent, result = self.play(PRIMARY)
        hello = {
            "hello": 1,
            "helloOk": True,
            "backpressure": True,
            "client": {"driver": {"name": "x"}},
        }
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

    def test_load_balanced(self) -> None:
        """Where a load balancer chooses, hello says so and must name a service; there are always
        sessions."""
        service = ObjectId()
        mongos = {"ok": 1, "msg": "isdbgrid", "serviceId": service, "maxWireVersion": 17}
        sent, result = self.play(mongos, load_balanced=True)
        self.assertIs(sent[0][1]["loadBalanced"], True)
        self.assertEqual(result.info.service_id, service)
        self.assertEqual(result.info.server_type, SERVER_TYPE.LoadBalancer)
        self.assertEqual(result.info.logical_session_timeout_minutes, 30)
        with self.assertRaisesRegex(ConfigurationError, "does not support this mode"):
            self.play(PRIMARY, load_balanced=True)
        with self.assertRaisesRegex(ProtocolError, "serviceId"):
            self.play({**mongos, "serviceId": 7}, load_balanced=True)
        self.assertIsNone(self.play(PRIMARY)[1].info.service_id)

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

    def test_shutting_down(self) -> None:
        """A server that is going away says so by the error that stands for it."""
        going = {"ok": 0, "code": 91, "errmsg": "ShutdownInProgress"}
        error = self.assertRaises(NotPrimaryError, self.play, going)
        self.assertIn("h:27017", str(error))

    def test_long_derivation(self) -> None:
        """A key that is long in the making is asked for as it is."""
        conversation = handshake(
            ADDRESS,
            metadata={},
            credentials=USER,
            compressors=(),
            server_api=ServerApi("1"),
            nonce=lambda: b64decode("rOprNGfwEbeRWgbNEkqO"),
            memory=LoginMemory(),
        )
        next(conversation)
        first = speculative(FIRST_256.replace(b"i=4096", b"i=600000"))
        wanted = conversation.send(
            {
                **PRIMARY,
                "saslSupportedMechs": ["SCRAM-SHA-256"],
                "speculativeAuthenticate": first,
            }
        )
        assert isinstance(wanted, Derivation)
        step = conversation.send(b"k" * 32)
        assert isinstance(step, Step)
        self.assertEqual(step.body["apiVersion"], "1")

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
        """A server before 3.0 is refused before anybody logs in."""
        error = self.assertRaises(
            ConfigurationError, self.play, {**PRIMARY, "maxWireVersion": 2}, credentials=USER
        )
        self.assertIn("3.0", str(error))
        # A monitor is there to tell what it is.
        result = self.play({**PRIMARY, "maxWireVersion": 2}, monitoring=True)[1]
        self.assertEqual(result.info.max_wire_version, 2)

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
        self.assertEqual(metadata["driver"]["name"], "txmongokit|PyMongo")
        self.assertEqual(metadata["driver"]["version"].split("|")[1], pymongo.version)
        self.assertTrue(metadata["driver"]["version"].split("|")[0])
        self.assertNotIn("env", metadata)
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

    def test_wrapped(self) -> None:
        """Libraries around this one stand behind it, each version beside its name."""
        drivers = [DriverInfo("framework", "2.0", "Framework Platform"), DriverInfo("odm")]
        metadata = client_metadata(drivers=drivers)
        self.assertEqual(metadata["driver"]["name"], "txmongokit|PyMongo|framework|odm")
        versions = metadata["driver"]["version"].split("|")
        self.assertEqual(versions[2:], ["2.0", ""])
        self.assertTrue(metadata["platform"].endswith("|Twisted|Framework Platform"))

    def test_endless_names(self) -> None:
        """Names that fit nowhere are left out, ours never."""
        drivers = [DriverInfo("n" * 100, "v" * 100), DriverInfo("o" * 600)]
        metadata = client_metadata("a" * 128, drivers=drivers)
        self.assertLessEqual(len(bson.encode(metadata)), 512)
        self.assertTrue(metadata["driver"]["name"].startswith("txmongokit|PyMongo"))
        self.assertNotIn("o" * 600, metadata["driver"]["name"])

    def test_cloud_functions(self) -> None:
        """The handshake specification's prose tests."""
        aws = {"AWS_EXECUTION_ENV": "AWS_Lambda_java8", "AWS_REGION": "us-east-2"}
        azure = {"FUNCTIONS_WORKER_RUNTIME": "node"}
        vercel = {"VERCEL": "1", "VERCEL_REGION": "cdg1"}
        gcp = {
            "K_SERVICE": "servicename",
            "FUNCTION_MEMORY_MB": "1024",
            "FUNCTION_TIMEOUT_SEC": "60",
            "FUNCTION_REGION": "us-central1",
        }
        lambda_size = {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024"}
        amazon = {"name": "aws.lambda", "region": "us-east-2"}
        google = {
            "name": "gcp.func",
            "memory_mb": 1024,
            "timeout_sec": 60,
            "region": "us-central1",
        }
        for environ, env in (
            ({**aws, **lambda_size}, {**amazon, "memory_mb": 1024}),
            ({"AWS_LAMBDA_RUNTIME_API": "x"}, {"name": "aws.lambda"}),
            (azure, {"name": "azure.func"}),
            (gcp, google),
            ({"FUNCTION_NAME": "f"}, {"name": "gcp.func"}),
            (vercel, {"name": "vercel", "region": "cdg1"}),
            ({**aws, **vercel}, {"name": "vercel", "region": "cdg1"}),
            # Two at once are none, and what is of the wrong type is left out.
            ({**aws, **azure}, None),
            ({**vercel, **gcp}, None),
            ({**aws, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "big"}, amazon),
            ({**aws, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(2**31)}, amazon),
            ({"AWS_EXECUTION_ENV": "EC2"}, None),
            ({"VERCEL": ""}, None),
            # A container, alone and with a function.
            ({"KUBERNETES_SERVICE_HOST": "1"}, {"container": {"orchestrator": "kubernetes"}}),
            (
                {**aws, "KUBERNETES_SERVICE_HOST": "1"},
                {**amazon, "container": {"orchestrator": "kubernetes"}},
            ),
        ):
            self.assertEqual(client_metadata(environ=environ).get("env"), env, environ)
        self.assertEqual(
            client_metadata(in_docker=True)["env"], {"container": {"runtime": "docker"}}
        )

    def test_order_of_omission(self) -> None:
        """First most of C{env} goes, then most of C{os}, then C{env}, then some of C{platform}."""
        environ = {"AWS_LAMBDA_RUNTIME_API": "x", "AWS_REGION": "r" * 300}
        metadata = client_metadata(environ=environ)
        self.assertEqual(metadata["env"], {"name": "aws.lambda"})
        self.assertIn("version", metadata["os"])
        self.patch(platform, "release", lambda: "r" * 400)
        metadata = client_metadata(environ=environ)
        self.assertEqual(list(metadata["os"]), ["type"])
        self.assertEqual(metadata["env"], {"name": "aws.lambda"})
        self.patch(platform, "python_version", lambda: "p" * 400)
        metadata = client_metadata(environ=environ, in_docker=True)
        self.assertNotIn("env", metadata)
        self.assertEqual(len(bson.encode(metadata)), 512)
        # Where there is a container alone, there is no name to keep.
        metadata = client_metadata("a" * 128, environ={"KUBERNETES_SERVICE_HOST": "1"})
        self.assertNotIn("env", metadata)
