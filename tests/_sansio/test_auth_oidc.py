"""
Tests for L{txmongokit._sansio.auth_oidc}.
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import bson
from twisted.trial.unittest import SynchronousTestCase

from tests._sansio.test_auth_aws import NONCE, NOW
from txmongokit._sansio.auth import LoginMemory, authenticate, speculate
from txmongokit._sansio.auth_oidc import environment_token
from txmongokit._sansio.conversation import (
    Conversation,
    HTTPRequest,
    HTTPResponse,
    Pause,
    ReadFile,
    Step,
    Surroundings,
    SurroundingsWanted,
    TokenWanted,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import ConfigurationError, OperationFailure

# The specification's examples.
JWT = b64decode("FwAAAAJqd3QACQAAAGFiY2QxMjM0AAA=")
PRINCIPAL = b64decode("EgAAAAJuAAYAAABteWlkcAAA")
IDP_INFO = b64decode(
    "WQAAAAJpc3N1ZXIADwAAAGh0dHBzOi8vaXNzdWVyAAJjbGllbnRJZAAFAAAAYWJjZAAEcmVxdWVzdFNjb3BlcwAX"
    "AAAAAjAAAgAAAGEAAjEAAgAAAGIAAAA="
)
DONE = {"ok": 1, "conversationId": 1, "done": True, "payload": b""}
REFUSED = {"ok": 0, "code": 18, "errmsg": "go away"}


def machine(**properties: Any) -> Credentials:
    """A machine that logs in."""
    return Credentials(None, None, "$external", "MONGODB-OIDC", properties or {"OIDC_CALLBACK": 1})


def human(username: str | None = "myidp", **properties: Any) -> Credentials:
    """A human who logs in."""
    properties = {"OIDC_HUMAN_CALLBACK": 1, **properties}
    return Credentials(username, None, "$external", "MONGODB-OIDC", properties)


class OIDCTestCase(SynchronousTestCase):
    """
    Plays the server.
    """

    def setUp(self) -> None:
        """Nothing is remembered."""
        self.memory = LoginMemory()
        self.tokens = self.memory.tokens

    def remember(self, who: Credentials, token: str, refresh_token: str | None = None) -> None:
        """Have a token remembered."""
        self.tokens.belong(who)
        self.tokens.access_token, self.tokens.refresh_token = token, refresh_token
        if refresh_token is not None:
            self.tokens.idp_info = {"issuer": "i"}

    def begin(self, who: Credentials, host: str = "localhost", **options: Any) -> Conversation:
        """The conversation."""
        return authenticate(
            who, mechanisms=None, nonce=lambda: NONCE, memory=self.memory, host=host, **options
        )

    def fetched(self, token: str, refresh_token: str | None = None) -> str:
        """Do as whoever is asked for a token does."""
        self.tokens.access_token, self.tokens.refresh_token = token, refresh_token
        return token

    def assertStarts(self, step: Any, payload: bytes) -> None:
        """Every byte of a first command."""
        self.assertEqual(step.database, "$external")
        wanted = {"saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": payload}
        self.assertEqual(bson.encode(step.body), bson.encode(wanted))

    def assertEnds(self, conversation: Conversation, token: str, reply: Any = DONE) -> None:
        """The last reply; what had logged in."""
        stop = self.assertRaises(StopIteration, conversation.send, reply)
        self.assertEqual(stop.value, token)


class MachineTests(OIDCTestCase):
    """
    Without anybody who sits there.
    """

    def test_bytes(self) -> None:
        """The specification's one-step conversation."""
        who = machine()
        conversation = self.begin(who)
        self.assertEqual(next(conversation), TokenWanted(who, self.tokens))
        self.assertStarts(conversation.send(self.fetched("abcd1234")), JWT)
        self.assertEnds(conversation, "abcd1234")
        self.assertEqual(self.tokens.access_token, "abcd1234")

    def test_remembered(self) -> None:
        """A token that is remembered is tried first."""
        self.remember(machine(), "abcd1234")
        conversation = self.begin(machine())
        self.assertStarts(next(conversation), JWT)
        self.assertEnds(conversation, "abcd1234")

    def test_refused_once(self) -> None:
        """A remembered token that is refused is replaced, once, after a while."""
        self.remember(machine(), "old")
        conversation = self.begin(machine())
        next(conversation)
        self.assertEqual(conversation.send(REFUSED), Pause(0.1))
        self.assertIsNone(self.tokens.access_token)
        self.assertIsInstance(conversation.send(None), TokenWanted)
        self.assertStarts(conversation.send(self.fetched("abcd1234")), JWT)
        error = self.assertRaises(OperationFailure, conversation.send, REFUSED)
        self.assertEqual(error.code, 18)
        self.assertNotIn("abcd1234", str(error))
        self.assertIsNone(self.tokens.access_token)

    def test_other_error(self) -> None:
        """What is no refusal of the token is the caller's to see."""
        self.remember(machine(), "old")
        conversation = self.begin(machine())
        next(conversation)
        error = self.assertRaises(
            OperationFailure, conversation.send, {"ok": 0, "code": 20, "errmsg": "broken"}
        )
        self.assertEqual(error.code, 20)

    def test_newer_token_stays(self) -> None:
        """What another connection has fetched meanwhile is not forgotten."""
        self.remember(machine(), "old")
        conversation = self.begin(machine())
        next(conversation)
        self.tokens.access_token = "new"
        conversation.send(REFUSED)
        self.assertEqual(self.tokens.access_token, "new")

    def test_somebody_else(self) -> None:
        """No user is logged in by another one's token."""
        self.remember(machine(), "old")
        self.assertIsNone(speculate(machine(ENVIRONMENT="k8s"), lambda: NONCE, self.memory))
        self.assertIsInstance(next(self.begin(machine(ENVIRONMENT="k8s"))), TokenWanted)
        self.assertNotIn("old", repr(self.tokens))

    def test_unfinished(self) -> None:
        """A server that goes on is none."""
        self.remember(machine(), "old")
        conversation = self.begin(machine())
        next(conversation)
        self.assertRaises(OperationFailure, conversation.send, {**DONE, "done": False})


class SpeculationTests(OIDCTestCase):
    """
    Logging in along with C{hello}.
    """

    def test_nothing_remembered(self) -> None:
        """Nothing is said before there is a token."""
        self.assertIsNone(speculate(machine(), lambda: NONCE, self.memory))

    def test_success(self) -> None:
        """Every byte; a success is the end."""
        self.remember(machine(), "abcd1234")
        speculation = speculate(machine(), lambda: NONCE, self.memory)
        assert speculation is not None
        body, begun = speculation
        wanted = {"saslStart": 1, "mechanism": "MONGODB-OIDC", "payload": JWT, "db": "$external"}
        self.assertEqual(bson.encode(body), bson.encode(wanted))
        conversation = self.begin(machine(), begun=begun, reply={"done": True})
        stop = self.assertRaises(StopIteration, next, conversation)
        self.assertEqual(stop.value, "abcd1234")

    def test_failure(self) -> None:
        """No answer means nothing: the token is tried as usual."""
        self.remember(machine(), "abcd1234")
        for reply in (None, {"done": False}):
            conversation = self.begin(machine(), begun="abcd1234", reply=reply)
            self.assertStarts(next(conversation), JWT)

    def test_elsewhere(self) -> None:
        """A human's token is not said to everybody."""
        self.remember(human(), "abcd1234")
        self.assertIsNone(speculate(human(), lambda: NONCE, self.memory, "evil.example"))
        self.assertIsNotNone(speculate(human(), lambda: NONCE, self.memory, "localhost"))


class HumanTests(OIDCTestCase):
    """
    With somebody who sits there.
    """

    def test_bytes(self) -> None:
        """The specification's two-step conversation."""
        who = human()
        conversation = self.begin(who)
        self.assertStarts(next(conversation), PRINCIPAL)
        wanted = conversation.send({**DONE, "done": False, "payload": IDP_INFO})
        info = {"issuer": "https://issuer", "clientId": "abcd", "requestScopes": ["a", "b"]}
        self.assertEqual(wanted, TokenWanted(who, self.tokens, info))
        step = conversation.send(self.fetched("abcd1234", "refresh"))
        assert isinstance(step, Step)
        self.assertEqual(
            bson.encode(step.body),
            bson.encode({"saslContinue": 1, "conversationId": 1, "payload": JWT}),
        )
        self.assertEnds(conversation, "abcd1234")
        self.assertEqual((self.tokens.idp_info, self.tokens.refresh_token), (info, "refresh"))

    def test_nobody_named(self) -> None:
        """Without a user name none is sent."""
        self.assertStarts(next(self.begin(human(None))), bson.encode({}))

    def test_refresh(self) -> None:
        """Once the token is refused, the refresh token serves for another one."""
        who = human()
        self.remember(who, "old", "refresh")
        conversation = self.begin(who)
        next(conversation)
        self.assertEqual(conversation.send(REFUSED), Pause(0.1))
        wanted = conversation.send(None)
        self.assertEqual(wanted, TokenWanted(who, self.tokens, {"issuer": "i"}, refresh=True))
        self.assertStarts(conversation.send(self.fetched("abcd1234", "more")), JWT)
        self.assertEnds(conversation, "abcd1234")

    def test_refresh_is_refused(self) -> None:
        """Where that does not help, by the server or by the callback, it begins anew."""
        for answer in (REFUSED, OperationFailure("expired")):
            self.remember(human(), "old", "refresh")
            self.tokens.access_token = None
            conversation = self.begin(human())
            self.assertIsInstance(next(conversation), TokenWanted)
            if isinstance(answer, Exception):
                step: Any = conversation.throw(answer)
            else:
                conversation.send(self.fetched("new", "more"))
                step = conversation.send(answer)
            self.assertStarts(step, PRINCIPAL)
            self.assertIsNone(self.tokens.refresh_token)

    def test_allowed_hosts(self) -> None:
        """A human's token goes to known hosts only, and nobody is asked for one."""
        for host in ("a.mongodb.net", "x.A.MongoDB.net", "127.0.0.1", "::1", "localhost"):
            self.assertIsInstance(next(self.begin(human(), host)), Step)
        for host in ("mongodb.net", "evilmongodb.net", "localhost.evil", "/tmp/mongodb.sock"):
            error = self.assertRaises(ConfigurationError, next, self.begin(human(), host))
            self.assertIn("ALLOWED_HOSTS", str(error))
        chosen = human(ALLOWED_HOSTS=["*.example"])
        self.assertIsInstance(next(self.begin(chosen, "a.b.example")), Step)
        self.assertRaises(ConfigurationError, next, self.begin(chosen, "localhost"))
        nowhere = human(ALLOWED_HOSTS=[])
        self.assertRaises(ConfigurationError, next, self.begin(nowhere, "localhost"))
        self.assertIsInstance(next(self.begin(machine(), "anywhere")), TokenWanted)

    def test_no_provider(self) -> None:
        """A server that names no provider has none."""
        for payload in (b"", b"nonsense", bson.encode({"issuer": 1})):
            conversation = self.begin(human())
            next(conversation)
            reply = {**DONE, "done": False, "payload": payload}
            self.assertRaises(OperationFailure, conversation.send, reply)
        conversation = self.begin(human())
        next(conversation)
        self.assertRaises(OperationFailure, conversation.send, REFUSED)


class EnvironmentTests(SynchronousTestCase):
    """
    L{environment_token}.
    """

    def fetch(self, who: Credentials, *answers: Any) -> tuple[str, list[Any]]:
        """The token, and what was wanted for it."""
        fetching = environment_token(who)
        asked = [next(fetching), *map(fetching.send, answers[:-1])]
        stop = self.assertRaises(StopIteration, fetching.send, answers[-1])
        return stop.value, asked

    def test_files(self) -> None:
        """The files of C{test} and C{k8s}, without the line's end."""
        default = "/var/run/secrets/kubernetes.io/serviceaccount/token"
        azure, aws = "AZURE_FEDERATED_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"
        for name, environ, file in (
            ("test", {"OIDC_TOKEN_FILE": "/t"}, ReadFile("/t", "OIDC_TOKEN_FILE")),
            ("k8s", {}, ReadFile(default, "ENVIRONMENT:k8s")),
            ("k8s", {aws: "/aws"}, ReadFile("/aws", aws)),
            ("k8s", {aws: "/aws", azure: "/azure"}, ReadFile("/azure", azure)),
        ):
            surroundings = Surroundings(environ, NOW)
            found = self.fetch(machine(ENVIRONMENT=name), surroundings, b"abcd1234\n")
            self.assertEqual(found, ("abcd1234", [SurroundingsWanted(), file]))
        fetching = environment_token(machine(ENVIRONMENT="test"))
        next(fetching)
        error = self.assertRaises(ConfigurationError, fetching.send, Surroundings({}, NOW))
        self.assertIn("OIDC_TOKEN_FILE", str(error))

    def test_azure(self) -> None:
        """Azure's metadata service."""
        properties = {"ENVIRONMENT": "azure", "TOKEN_RESOURCE": "api://a b"}
        url = (
            "http://169.254.169.254/metadata/identity/oauth2/token"
            "?api-version=2018-02-01&resource=api%3A%2F%2Fa%20b"
        )
        headers = {"Metadata": "true", "Accept": "application/json"}
        answer = HTTPResponse(200, json.dumps({"access_token": "t", "expires_in": "9"}).encode())
        for username, more in ((None, ""), ("client/1", "&client_id=client%2F1")):
            who = Credentials(username, None, "$external", "MONGODB-OIDC", properties)
            found = self.fetch(who, answer)
            self.assertEqual(found, ("t", [HTTPRequest("GET", url + more, headers)]))

    def test_gcp(self) -> None:
        """Google's metadata service."""
        who = machine(ENVIRONMENT="gcp", TOKEN_RESOURCE="a&b")
        url = (
            "http://metadata/computeMetadata/v1/instance/service-accounts/default/identity"
            "?audience=a%26b"
        )
        wanted = HTTPRequest("GET", url, {"Metadata-Flavor": "Google"})
        self.assertEqual(self.fetch(who, HTTPResponse(200, b"t\n")), ("t", [wanted]))

    def test_no_token(self) -> None:
        """Answers without a token are errors that show nothing of them."""
        for kind, response in (
            ("gcp", HTTPResponse(404, b"hunter2")),
            ("gcp", HTTPResponse(200, b"")),
            ("azure", HTTPResponse(200, b"hunter2")),
            ("azure", HTTPResponse(200, b'["hunter2"]')),
            ("azure", HTTPResponse(200, b'{"token": "hunter2"}')),
            ("azure", HTTPResponse(200, b'{"access_token": 7}')),
        ):
            who = machine(ENVIRONMENT=kind, TOKEN_RESOURCE="r")
            fetching = environment_token(who)
            next(fetching)
            error = self.assertRaises(OperationFailure, fetching.send, response)
            self.assertNotIn("hunter2", str(error))
