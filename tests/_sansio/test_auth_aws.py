"""
Tests for L{txmongokit._sansio.auth_aws}.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import bson
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.auth import LoginMemory, authenticate
from txmongokit._sansio.auth_aws import (
    AWSKeyCache,
    AWSKeys,
    authorization,
    find_keys,
    region_of,
)
from txmongokit._sansio.conversation import (
    HTTPRequest,
    HTTPResponse,
    ReadFile,
    Surroundings,
    SurroundingsWanted,
    Work,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError, OperationFailure

# The example of AWS's own documentation of Signature Version 4.
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2019, 11, 7, 0, 26, 7, tzinfo=UTC)
NONCE = bytes(range(32))
SERVER_NONCE = bytes(range(64))
BEGINNING = (
    "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20191107/us-east-1/sts/aws4_request, "
    "SignedHeaders=content-length;content-type;host;x-amz-date;"
)
# What pymongo_auth_aws 1.3.0 with botocore 1.44.5 makes of these keys, nonce and time.
PROOF = {
    "a": f"{BEGINNING}x-mongodb-gs2-cb-flag;x-mongodb-server-nonce, "
    "Signature=8f7d03168086ba4f07d2ae731d339e0494074ed075258e75c48519b7406a039d",
    "d": "20191107T002607Z",
}
TOKEN_PROOF = {
    "a": f"{BEGINNING}x-amz-security-token;x-mongodb-gs2-cb-flag;x-mongodb-server-nonce, "
    "Signature=9fd146f5820c41ebea5fe1339efb9c97a86301755a2f7250ca410b9a82bd5c1d",
    "d": "20191107T002607Z",
    "t": "session+token/==",
}


def user(key_id: str | None = "AKIDEXAMPLE", **properties: str) -> Credentials:
    """Who logs in."""
    secret = None if key_id is None else SECRET
    return Credentials(key_id, secret, "$external", "MONGODB-AWS", properties)


class SignatureTests(SynchronousTestCase):
    """
    L{authorization} and L{region_of}.
    """

    def test_published(self) -> None:
        """The example in AWS's documentation, which the specification quotes."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
            "Host": "iam.amazonaws.com",
            "X-Amz-Date": "20150830T123600Z",
        }
        found = authorization(
            AWSKeys("AKIDEXAMPLE", SECRET),
            "GET",
            headers,
            b"",
            "us-east-1",
            "iam",
            "Action=ListUsers&Version=2010-05-08",
        )
        self.assertEqual(
            found,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
            "SignedHeaders=content-type;host;x-amz-date, "
            "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        )

    def test_test_suite(self) -> None:
        """C{get-vanilla} and C{post-vanilla} of AWS's test suite."""
        headers = {"Host": "example.amazonaws.com", "X-Amz-Date": "20150830T123600Z"}
        for method, signature in (
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ):
            keys = AWSKeys("AKIDEXAMPLE", SECRET)
            found = authorization(keys, method, headers, b"", "us-east-1", "service")
            self.assertTrue(found.endswith(f"Signature={signature}"), found)

    def test_regions(self) -> None:
        """The specification's table."""
        for host, region in (
            ("sts.amazonaws.com", "us-east-1"),
            ("sts.us-west-2.amazonaws.com", "us-west-2"),
            ("sts.us-west-2.amazonaws.com.ch", "us-west-2"),
            ("example.com", "com"),
            ("localhost", "us-east-1"),
        ):
            self.assertEqual(region_of(host), region)
        for host in ("sts..com", ".amazonaws.com", "sts.amazonaws.", "", "a" * 256):
            self.assertRaises(OperationFailure, region_of, host)


class ConversationTests(SynchronousTestCase):
    """
    The whole log-in, against a scripted server.
    """

    def setUp(self) -> None:
        """Nothing is remembered."""
        self.memory = LoginMemory()

    def begin(self, who: Credentials) -> tuple[Generator[Any, Any, Any], Any]:
        """Begin; what is wanted first."""
        conversation = authenticate(
            who, mechanisms=None, nonce=lambda: NONCE, memory=self.memory, host="a"
        )
        return conversation, next(conversation)

    def challenge(self, nonce: Any = SERVER_NONCE, host: Any = "sts.amazonaws.com") -> Any:
        """The server's reply to the first command."""
        payload = bson.encode({"s": nonce, "h": host})
        return {"ok": 1, "conversationId": 4, "done": False, "payload": payload}

    def test_bytes(self) -> None:
        """Every byte that is sent, with a session's token and without."""
        for who, proof in (
            (user(), PROOF),
            (user(AWS_SESSION_TOKEN="session+token/=="), TOKEN_PROOF),
        ):
            conversation, step = self.begin(who)
            self.assertEqual(step.database, "$external")
            self.assertEqual(
                bson.encode(step.body),
                bson.encode(
                    {
                        "saslStart": 1,
                        "mechanism": "MONGODB-AWS",
                        "payload": b"\x34\0\0\0\x05r\0\x20\0\0\0\0"
                        + NONCE
                        + b"\x10p\0\x6e\0\0\0\0",
                    }
                ),
            )
            self.assertIsInstance(conversation.send(self.challenge()), SurroundingsWanted)
            step = conversation.send(Surroundings({}, NOW))
            self.assertEqual(
                bson.encode(step.body),
                bson.encode(
                    {"saslContinue": 1, "conversationId": 4, "payload": bson.encode(proof)}
                ),
            )
            self.assertNotIn(SECRET.encode(), bson.encode(step.body))
            self.assertRaises(StopIteration, conversation.send, {"ok": 1, "done": True})

    def test_impostors(self) -> None:
        """Challenges that no server would send."""
        for challenge in (
            self.challenge(b"x" * 64),
            self.challenge(SERVER_NONCE[:63]),
            self.challenge(SERVER_NONCE + b"x"),
            self.challenge("text"),
            self.challenge(host=7),
            {"ok": 1, "payload": b"nonsense"},
            {"ok": 1},
        ):
            conversation, _ = self.begin(user())
            self.assertRaises(OperationFailure, conversation.send, challenge)
        for host in ("sts..com", "", "a" * 256):
            conversation, _ = self.begin(user())
            conversation.send(self.challenge(host=host))
            surroundings = Surroundings({}, NOW)
            self.assertRaises(OperationFailure, conversation.send, surroundings)

    def test_refused(self) -> None:
        """A refusal at either step is the server's, and what was fetched is forgotten."""
        refusal = {"ok": 0, "code": 18, "errmsg": "go away"}
        keys = AWSKeys("id", "secret", "token", NOW + timedelta(hours=1))
        for replies in ([refusal], [self.challenge(), Surroundings({}, NOW), refusal]):
            self.memory.aws.remember(keys)
            conversation, wanted = self.begin(user(None))
            self.assertIsInstance(wanted, SurroundingsWanted)
            conversation.send(Surroundings({}, NOW))
            for reply in replies[:-1]:
                conversation.send(reply)
            error = self.assertRaises(OperationFailure, conversation.send, replies[-1])
            self.assertEqual((error.code, "go away" in str(error)), (18, True))
            self.assertNotIn("secret", str(error))
            self.assertIsNone(self.memory.aws.valid(NOW))

    def test_given_up(self) -> None:
        """What was fetched is forgotten, too, when the connection is lost meanwhile."""
        self.memory.aws.remember(AWSKeys("id", "secret", "token", NOW + timedelta(hours=1)))
        conversation, _ = self.begin(user(None))
        conversation.send(Surroundings({}, NOW))
        conversation.close()
        self.assertIsNone(self.memory.aws.valid(NOW))

    def test_never_done(self) -> None:
        """A server that goes on after its last word is none."""
        conversation, _ = self.begin(user())
        conversation.send(self.challenge())
        conversation.send(Surroundings({}, NOW))
        self.assertRaises(OperationFailure, conversation.send, {"ok": 1, "done": False})


class KeysTests(SynchronousTestCase):
    """
    L{find_keys}: the specification's order.
    """

    def setUp(self) -> None:
        """Nothing is remembered."""
        self.cache = AWSKeyCache()
        self.asked: list[Any] = []

    def find(self, environ: dict[str, str], *answers: Any, sdk: Any = None) -> AWSKeys:
        """Find keys; whatever is wanted is noted and answered in order."""
        search = find_keys(user(None), self.cache, lambda: NONCE)
        left = list(answers)
        self.asked = []
        try:
            wanted = next(search)
            while True:
                if isinstance(wanted, SurroundingsWanted):
                    wanted = search.send(Surroundings(environ, NOW, sdk))
                else:
                    self.asked.append(wanted)
                    wanted = search.send(left.pop(0))
        except StopIteration as stop:
            self.assertEqual(left, [])
            found: AWSKeys = stop.value
            return found

    def document(self, token_name: str = "Token", **changes: Any) -> dict[str, Any]:
        """Keys as AWS gives them."""
        return {
            "AccessKeyId": "id",
            "SecretAccessKey": "hunter2",
            token_name: "session",
            "Expiration": "2019-11-07T06:00:00Z",
            **changes,
        }

    def response(self, document: Any, status: int = 200) -> HTTPResponse:
        """It, as an answer."""
        return HTTPResponse(status, json.dumps(document).encode())

    FOUND = AWSKeys("id", "hunter2", "session", datetime(2019, 11, 7, 6, tzinfo=UTC))

    def test_connection_string(self) -> None:
        """Keys of the connection string come first, and nothing else is looked at."""
        search = find_keys(user(AWS_SESSION_TOKEN="t"), self.cache, lambda: NONCE)
        stop = self.assertRaises(StopIteration, next, search)
        self.assertEqual(stop.value, AWSKeys("AKIDEXAMPLE", SECRET, "t"))

    def test_environment(self) -> None:
        """Then those of the environment, which are never remembered."""
        environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        self.assertEqual(self.find(environ), AWSKeys("a", "b"))
        environ["AWS_SESSION_TOKEN"] = "c"
        self.assertEqual(self.find(environ), AWSKeys("a", "b", "c"))
        self.assertIsNone(self.cache.valid(NOW))
        for name in environ:
            error = self.assertRaises(ConfigurationError, self.find, {name: "hunter2"})
            self.assertIn("AWS_SECRET_ACCESS_KEY", str(error))
            self.assertNotIn("hunter2", str(error))

    def test_sdk(self) -> None:
        """Then botocore's, where it is installed."""

        def sdk() -> None:
            """Stands for botocore."""

        frozen = SimpleNamespace(access_key="a", secret_key="b", token="c")
        self.assertEqual(self.find({}, frozen, sdk=sdk), AWSKeys("a", "b", "c"))
        self.assertEqual(self.asked, [Work(sdk)])
        error = self.assertRaises(ConfigurationError, self.find, {}, None, sdk=sdk)
        self.assertIn("botocore", str(error))

    def test_web_identity(self) -> None:
        """A role for a web identity, by a request that names no token in its address."""
        environ = {
            "AWS_WEB_IDENTITY_TOKEN_FILE": "/token",
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/r",
            "AWS_ROLE_SESSION_NAME": "app1",
        }
        inner = {"Credentials": self.document("SessionToken", Expiration=1573106400.0)}
        nested = {"AssumeRoleWithWebIdentityResponse": {"AssumeRoleWithWebIdentityResult": inner}}
        for document in (inner, nested):
            self.cache.forget()
            self.assertEqual(self.find(environ, b"jwt\n", self.response(document)), self.FOUND)
        file, request = self.asked
        self.assertEqual(file, ReadFile("/token", "AWS_WEB_IDENTITY_TOKEN_FILE"))
        self.assertEqual((request.method, request.url), ("POST", "https://sts.amazonaws.com/"))
        self.assertEqual(request.headers["Accept"], "application/json")
        self.assertEqual(
            request.body,
            b"Action=AssumeRoleWithWebIdentity&RoleSessionName=app1"
            b"&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&WebIdentityToken=jwt&Version=2011-06-15",
        )
        self.cache.forget()
        del environ["AWS_ROLE_SESSION_NAME"]
        self.find(environ, b"jwt", self.response(inner))
        (name,) = parse_qs(self.asked[1].body.decode())["RoleSessionName"]
        self.assertEqual(name, "txmongokit-0001020304050607")

    def test_ecs(self) -> None:
        """The agent of an ECS container."""
        for path in ("/v2/credentials/x", "v2/credentials/x"):
            self.cache.forget()
            environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": path}
            self.assertEqual(self.find(environ, self.response(self.document())), self.FOUND)
            url = "http://169.254.170.2/v2/credentials/x"
            self.assertEqual(self.asked, [HTTPRequest("GET", url, {"Accept": "application/json"})])
            self.assertEqual(self.asked[0].seconds, 10)

    def test_eks(self) -> None:
        """The agent of an EKS pod, with a token; which goes to no other place in the clear."""
        url = "http://169.254.170.23/v1/credentials"
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/pod",
        }
        self.assertEqual(self.find(environ, b"pod\n", self.response(self.document())), self.FOUND)
        headers = {"Accept": "application/json", "Authorization": "pod"}
        self.assertEqual(self.asked[1], HTTPRequest("GET", url, headers))
        for allowed in ("https://agent.example/x", "http://127.0.0.1:8/", "http://[fd00:ec2::23]/"):
            self.cache.forget()
            environ = {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": allowed,
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod",
            }
            self.assertEqual(self.find(environ, self.response(self.document())), self.FOUND)
        self.cache.forget()
        for url in ("http://evil.example/", "http://10.0.0.1/", "ftp://127.0.0.1/", "x"):
            environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = url
            self.assertRaises(ConfigurationError, self.find, environ)

    def test_instance(self) -> None:
        """An EC2 instance: a token, the role's name, its keys."""
        found = self.find(
            {},
            HTTPResponse(200, b"imds"),
            HTTPResponse(200, b"my\n"),
            self.response(self.document(Code="Success")),
        )
        self.assertEqual(found, self.FOUND)
        base = "http://169.254.169.254/latest/"
        roles = f"{base}meta-data/iam/security-credentials/"
        headers = {"X-aws-ec2-metadata-token": "imds"}
        self.assertEqual(
            self.asked,
            [
                HTTPRequest(
                    "PUT", f"{base}api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "30"}
                ),
                HTTPRequest("GET", roles, headers),
                HTTPRequest("GET", f"{roles}my", headers),
            ],
        )

    def test_remembered(self) -> None:
        """Fetched keys are used again, until five minutes before they expire."""
        environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}
        self.find(environ, self.response(self.document()))
        later = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        self.assertEqual(self.find(later), self.FOUND)
        soon = (NOW + timedelta(minutes=5)).isoformat()
        for expires in (soon, "nonsense", None):
            self.cache.forget()
            self.find(environ, self.response(self.document(Expiration=expires)))
            self.assertIsNone(self.cache.valid(NOW))
        naive = self.response(self.document(Expiration="2019-11-07T06:00:00"))
        self.assertEqual(self.find(environ, naive), self.FOUND)

    def test_no_keys(self) -> None:
        """Answers without keys in them are errors that show nothing of them."""
        environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}
        for response in (
            self.response(self.document(), 404),
            HTTPResponse(200, b"hunter2"),
            self.response(["hunter2"]),
            self.response(self.document(AccessKeyId="")),
            self.response(self.document(Token=None)),
        ):
            error = self.assertRaises(OperationFailure, self.find, environ, response)
            self.assertIn("169.254.170.2", str(error))
            self.assertNotIn("hunter2", str(error))
        for answers in (
            [HTTPResponse(403, b"")],
            [HTTPResponse(200, b"\xff")],
            [HTTPResponse(200, b"t"), HTTPResponse(200, b"")],
        ):
            self.assertRaises(OperationFailure, self.find, {}, *answers)
        identity = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": "r"}
        self.assertRaises(OperationFailure, self.find, identity, b"", self.response({"x": 1}))

    def test_secrets_are_not_shown(self) -> None:
        """Neither keys nor what carries them has its secrets in its C{repr}."""
        request = HTTPRequest("POST", "https://a/", {"x": "hunter2"}, b"hunter2")
        for each in (
            AWSKeys("id", "hunter2", "hunter2"),
            request,
            Surroundings({"a": "hunter2"}, NOW),
        ):
            self.assertNotIn("hunter2", repr(each))
