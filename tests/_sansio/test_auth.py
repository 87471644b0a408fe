"""
Tests for L{txmongokit._sansio.auth}.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import md5, pbkdf2_hmac, sha256
from typing import Any

import bson
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.auth import KeyCache, LoginMemory, authenticate, speculate
from txmongokit._sansio.conversation import Conversation, Derivation, Step
from txmongokit.errors import ConfigurationError, NotPrimaryError, OperationFailure
from txmongokit.options import Credentials

NONCE_256 = b64decode("rOprNGfwEbeRWgbNEkqO")
NONCE_1 = b64decode("fyko+d2lbbFgONRv9qkxdawL")
# RFC 7677, and the authentication specification's for SHA-1.
FIRST_256 = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
PROOF_256 = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
FINAL_256 = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
FIRST_1 = (
    b"r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000"
)
PROOF_1 = (
    b"c=biws,r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,"
    b"p=MC2T8BvbmWRckDw8oWl5IVghwCY="
)
FINAL_1 = b"v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0="


def credentials(mechanism: str = "SCRAM-SHA-256", **changes: Any) -> Credentials:
    """The specification's user."""
    values = {"username": "user", "password": "pencil", "source": "admin", **changes}
    return Credentials(mechanism=mechanism, **values)


def ok(payload: bytes = b"", *, done: bool = False) -> dict[str, Any]:
    """A reply to a step of SASL."""
    return {"ok": 1, "conversationId": 7, "done": done, "payload": payload}


def speculative(payload: bytes) -> dict[str, Any]:
    """What stands in a reply to C{hello}, as real servers write it: without C{ok}."""
    return {"conversationId": 7, "done": False, "payload": payload}


class ConversationTestCase(SynchronousTestCase):
    """
    Plays the server.
    """

    def begin(
        self, who: Credentials, nonce: bytes = NONCE_256, **options: Any
    ) -> tuple[Conversation, Step]:
        """Begin, without speculation; the first command."""
        options = {"mechanisms": None, "memory": LoginMemory(), **options}
        conversation = authenticate(who, nonce=lambda: nonce, **options)
        step = next(conversation)
        assert isinstance(step, Step)
        return conversation, step

    def answered(self, conversation: Conversation, reply: Mapping[str, Any]) -> Step:
        """The reply leads to another command."""
        step = conversation.send(reply)
        assert isinstance(step, Step)
        return step

    def ends(self, conversation: Conversation, reply: Mapping[str, Any]) -> None:
        """The reply is the last."""
        self.assertRaises(StopIteration, conversation.send, reply)

    def refuses(self, conversation: Conversation, reply: Mapping[str, Any]) -> str:
        """The reply makes logging in fail, by the code that says so; why."""
        error = self.assertRaises(OperationFailure, conversation.send, reply)
        assert isinstance(error, OperationFailure)
        self.assertEqual(error.code, reply.get("code", 18))
        return str(error)


class ScramTests(ConversationTestCase):
    """
    SCRAM.
    """

    def exchange(
        self, mechanism: str, nonce: bytes, first: bytes, proof: bytes, final: bytes
    ) -> None:
        """One published conversation, without an empty exchange."""
        conversation, start = self.begin(credentials(mechanism), nonce)
        self.assertEqual(start.database, "admin")
        self.assertEqual(
            start.body,
            {
                "saslStart": 1,
                "mechanism": mechanism,
                "payload": b"n,,n=user,r=" + b64encode(nonce),
                "autoAuthorize": 1,
                "options": {"skipEmptyExchange": True},
            },
        )
        step = conversation.send(ok(first))
        self.assertEqual(
            step, Step("admin", {"saslContinue": 1, "conversationId": 7, "payload": proof})
        )
        self.ends(conversation, ok(final, done=True))

    def test_sha_256(self) -> None:
        """RFC 7677's conversation."""
        self.exchange("SCRAM-SHA-256", NONCE_256, FIRST_256, PROOF_256, FINAL_256)

    def test_sha_1(self) -> None:
        """The authentication specification's conversation, with MongoDB's digest."""
        self.exchange("SCRAM-SHA-1", NONCE_1, FIRST_1, PROOF_1, FINAL_1)

    def test_empty_exchange(self) -> None:
        """A server that does not skip the empty exchange gets it."""
        conversation, _ = self.begin(credentials())
        conversation.send(ok(FIRST_256))
        step = self.answered(conversation, ok(FINAL_256))
        self.assertEqual(step.body, {"saslContinue": 1, "conversationId": 7, "payload": b""})
        self.ends(conversation, ok(done=True))

    def test_endless(self) -> None:
        """A server that never ends is given up."""
        conversation, _ = self.begin(credentials())
        conversation.send(ok(FIRST_256))
        conversation.send(ok(FINAL_256))
        self.assertIn("does not end", self.refuses(conversation, ok()))

    def test_done_too_early(self) -> None:
        """A server that says it is done without a proof is not believed."""
        conversation, _ = self.begin(credentials())
        self.refuses(conversation, ok(done=True))
        conversation, _ = self.begin(credentials())
        conversation.send(ok(FIRST_256, done=True))
        self.assertIn("could not prove", self.refuses(conversation, ok(done=True)))

    def test_wrong_signature(self) -> None:
        """A server that does not know the password is found out."""
        for final in (b"v=" + b64encode(b"x" * 32), b"v=", b"v=!", b"", b"x=1"):
            conversation, _ = self.begin(credentials())
            conversation.send(ok(FIRST_256))
            reason = self.refuses(conversation, ok(final, done=True))
            self.assertIn("could not prove", reason)

    def test_server_error(self) -> None:
        """A server's final error is passed on."""
        conversation, _ = self.begin(credentials())
        conversation.send(ok(FIRST_256))
        reason = self.refuses(conversation, ok(b"e=other-error", done=True))
        self.assertIn("other-error", reason)

    def test_nonce(self) -> None:
        """The server's nonce must begin with ours, and add something."""
        for nonce in (b"other" * 8, b64encode(NONCE_256), b"", b64encode(NONCE_256)[:-1]):
            conversation, _ = self.begin(credentials())
            reason = self.refuses(conversation, ok(b"r=" + nonce + b",s=c2FsdA==,i=4096"))
            self.assertIn("nonce", reason)

    def test_iterations(self) -> None:
        """Too few iterations would betray the password, too many take for ever."""
        for count in (b"4095", b"1", b"0", b"-5000", b"2000001", b"99999999999"):
            conversation, _ = self.begin(credentials())
            first = FIRST_256.replace(b"i=4096", b"i=" + count)
            self.assertIn("iterations", self.refuses(conversation, ok(first)))

    def test_unreadable(self) -> None:
        """A challenge that is none is refused, whatever its type."""
        for payload in (
            b"",
            b"m=x," + FIRST_256,
            b"r=1",
            b"r=1,s=!,i=4096",
            b"r=1,s=c2FsdA==,i=x",
            10**12,
            "x",
            None,
        ):
            conversation, _ = self.begin(credentials())
            reason = self.refuses(conversation, {**ok(), "payload": payload})
            self.assertIn("cannot be read", reason)

    def test_user_name(self) -> None:
        """Commas and equals signs are escaped."""
        _, start = self.begin(credentials(username="a,b=c"))
        self.assertTrue(start.body["payload"].startswith(b"n,,n=a=2Cb=3Dc,r="))

    def test_prepared_password(self) -> None:
        """SHA-256 prepares the password, SHA-1 does not."""
        proofs = {}
        for password in ("IX", "\u2168", "I\u00adX"):
            conversation, _ = self.begin(credentials(password=password))
            proofs[password] = self.answered(conversation, ok(FIRST_256)).body["payload"]
        self.assertEqual(len(set(proofs.values())), 1)
        conversation, _ = self.begin(credentials("SCRAM-SHA-1", password="IX"), NONCE_1)
        one = self.answered(conversation, ok(FIRST_1)).body["payload"]
        conversation, _ = self.begin(credentials("SCRAM-SHA-1", password="\u2168"), NONCE_1)
        self.assertNotEqual(one, self.answered(conversation, ok(FIRST_1)).body["payload"])

    def test_refused(self) -> None:
        """A refusal names user and database and keeps the server's words, not the password."""
        refusal = {"ok": 0, "code": 18, "errmsg": "Authentication failed."}
        conversation, _ = self.begin(credentials())
        conversation.send(ok(FIRST_256))
        error = self.assertRaises(OperationFailure, conversation.send, refusal)
        assert isinstance(error, OperationFailure)
        self.assertEqual(error.code, 18)
        for part in ("'user'", "'admin'", "Authentication failed."):
            self.assertIn(part, str(error))
        self.assertNotIn("pencil", str(error))

    def test_shutting_down(self) -> None:
        """A server that is going away is no wrong password."""
        conversation, _ = self.begin(credentials())
        going = {"ok": 0, "code": 91, "errmsg": "ShutdownInProgress"}
        self.assertRaises(NotPrimaryError, conversation.send, going)

    def test_refused_at_once(self) -> None:
        """So is one at the first step."""
        conversation, _ = self.begin(credentials())
        refusal = {"ok": 0, "code": 334, "errmsg": "Mechanism not available"}
        self.assertIn("Mechanism not available", self.refuses(conversation, refusal))


class NegotiationTests(ConversationTestCase):
    """
    The C{DEFAULT} mechanism, and speculation.
    """

    def test_default(self) -> None:
        """SHA-256 where the server has it for the user, otherwise SHA-1."""
        for offered, mechanism in (
            (["SCRAM-SHA-1", "SCRAM-SHA-256"], "SCRAM-SHA-256"),
            (["SCRAM-SHA-1"], "SCRAM-SHA-1"),
            ([], "SCRAM-SHA-1"),
            (None, "SCRAM-SHA-1"),
        ):
            _, start = self.begin(credentials("DEFAULT"), mechanisms=offered)
            self.assertEqual(start.body["mechanism"], mechanism)

    def test_speculation(self) -> None:
        """What was begun with C{hello} goes on, and saves a round trip."""
        keys = LoginMemory()
        speculation = speculate(credentials("DEFAULT"), lambda: NONCE_256, keys)
        assert speculation is not None
        command, begun = speculation
        self.assertEqual(command["db"], "admin")
        self.assertEqual(command["mechanism"], "SCRAM-SHA-256")
        conversation, step = self.begin(
            credentials("DEFAULT"),
            mechanisms=["SCRAM-SHA-256"],
            memory=keys,
            begun=begun,
            reply=speculative(FIRST_256),
        )
        self.assertEqual(step.body["payload"], PROOF_256)
        self.ends(conversation, ok(FINAL_256, done=True))

    def test_speculation_in_vain(self) -> None:
        """One that the server did not take, or of the wrong kind, starts anew."""
        who = credentials("DEFAULT")
        speculation = speculate(who, lambda: NONCE_256, LoginMemory())
        assert speculation is not None
        for mechanisms, reply in (
            (["SCRAM-SHA-1"], speculative(FIRST_256)),
            (["SCRAM-SHA-256"], None),
        ):
            _, start = self.begin(who, mechanisms=mechanisms, begun=speculation[1], reply=reply)
            self.assertEqual(start.body["saslStart"], 1)
            self.assertEqual(start.body["mechanism"], mechanisms[0])

    def test_password_for_sha_1_only(self) -> None:
        """A password that SHA-256 does not allow still serves SHA-1."""
        who = credentials("DEFAULT", password="p\u0007")
        self.assertIsNone(speculate(who, lambda: NONCE_256, LoginMemory()))
        _, start = self.begin(who, mechanisms=["SCRAM-SHA-1"])
        self.assertEqual(start.body["mechanism"], "SCRAM-SHA-1")
        conversation = authenticate(
            who, mechanisms=["SCRAM-SHA-256"], nonce=lambda: NONCE_256, memory=LoginMemory()
        )
        self.assertRaises(ConfigurationError, next, conversation)

    def test_unknown(self) -> None:
        """A mechanism that is not supported is refused by name."""
        self.assertIsNone(speculate(credentials("X-OTHER"), lambda: NONCE_256, LoginMemory()))
        error = self.assertRaises(ConfigurationError, self.begin, credentials("X-OTHER"))
        self.assertIn("X-OTHER", str(error))


class OtherMechanismTests(ConversationTestCase):
    """
    C{MONGODB-X509} and C{PLAIN}.
    """

    def test_certificate(self) -> None:
        """The certificate's user, or whoever the certificate says."""
        for name, body in ((None, {}), ("CN=u", {"user": "CN=u"})):
            who = Credentials(name, None, "$external", "MONGODB-X509")
            conversation, step = self.begin(who)
            wanted = {"authenticate": 1, "mechanism": "MONGODB-X509", **body}
            self.assertEqual(step, Step("$external", wanted))
            self.ends(conversation, {"ok": 1})

    def test_certificate_speculation(self) -> None:
        """Speculation was all there is to do."""
        who = Credentials("CN=u", None, "$external", "MONGODB-X509")
        speculation = speculate(who, lambda: NONCE_256, LoginMemory())
        assert speculation is not None
        self.assertEqual(speculation[0]["db"], "$external")
        conversation = authenticate(
            who,
            mechanisms=None,
            nonce=lambda: NONCE_256,
            memory=LoginMemory(),
            reply={"user": "CN=u"},
        )
        self.assertRaises(StopIteration, next, conversation)

    def test_plain(self) -> None:
        """User and password in one step."""
        conversation, step = self.begin(credentials("PLAIN", source="$external"))
        self.assertEqual(
            step,
            Step(
                "$external",
                {
                    "saslStart": 1,
                    "mechanism": "PLAIN",
                    "payload": b"\0user\0pencil",
                    "autoAuthorize": 1,
                },
            ),
        )
        self.ends(conversation, ok(done=True))

    def test_plain_is_never_speculative(self) -> None:
        """The password goes nowhere before it must."""
        self.assertIsNone(speculate(credentials("PLAIN"), lambda: NONCE_256, LoginMemory()))

    def test_refused(self) -> None:
        """Refusals do not show the password."""
        for mechanism in ("PLAIN", "MONGODB-X509"):
            conversation, _ = self.begin(credentials(mechanism))
            reason = self.refuses(conversation, {"ok": 0, "errmsg": "bad", "code": 18})
            self.assertIn("bad", reason)
            self.assertNotIn("pencil", reason)


class DerivationTests(ConversationTestCase):
    """
    Keys that are long in the making.
    """

    def test_short(self) -> None:
        """What servers ask for unless told otherwise is made at once."""
        conversation, _ = self.begin(credentials())
        first = FIRST_256.replace(b"i=4096", b"i=15000")
        self.assertIsInstance(conversation.send(ok(first)), Step)

    def test_long(self) -> None:
        """Whoever runs the conversation makes a long one, once."""
        keys = LoginMemory()
        first = FIRST_256.replace(b"i=4096", b"i=600000")
        conversation, _ = self.begin(credentials(), memory=keys)
        wanted = conversation.send(ok(first))
        assert isinstance(wanted, Derivation)
        self.assertEqual((wanted.digest, wanted.iterations), ("sha256", 600000))
        self.assertNotIn("pencil", repr(wanted))
        step = conversation.send(b"k" * 32)
        assert isinstance(step, Step)
        self.assertEqual(step.body["saslContinue"], 1)
        again, _ = self.begin(credentials(), memory=keys)
        self.assertEqual(again.send(ok(first)), step)

    def test_key(self) -> None:
        """It is RFC 5802's C{Hi}."""
        wanted = Derivation("sha1", b"a", b"b", 3)
        self.assertEqual(wanted.key(), pbkdf2_hmac("sha1", b"a", b"b", 3))


class ChallengeResponseTests(ConversationTestCase):
    """
    C{MONGODB-CR}, which no server has any more that is supported.
    """

    def test_published(self) -> None:
        """Every byte of the specification's example."""
        conversation, step = self.begin(credentials("MONGODB-CR"))
        self.assertEqual(
            (step.database, bson.encode(step.body)), ("admin", bson.encode({"getnonce": 1}))
        )
        step = self.answered(conversation, {"ok": 1, "nonce": "2375531c32080ae8"})
        wanted = {
            "authenticate": 1,
            "user": "user",
            "nonce": "2375531c32080ae8",
            "key": "21742f26431831d5cfca035a08c5bdf6",
        }
        self.assertEqual((step.database, bson.encode(step.body)), ("admin", bson.encode(wanted)))
        self.assertRaises(StopIteration, conversation.send, {"ok": 1})

    def test_dropped(self) -> None:
        """Servers that have dropped it are named as such, at either command."""
        gone = {"ok": 0, "code": 59, "errmsg": "no such command: 'getnonce'"}
        conversation, _ = self.begin(credentials("MONGODB-CR"))
        error = self.assertRaises(OperationFailure, conversation.send, gone)
        self.assertIn("leave authMechanism out", str(error))
        self.assertEqual(error.code, 59)
        for code in (2, 18, 40415):
            conversation, _ = self.begin(credentials("MONGODB-CR"))
            conversation.send({"ok": 1, "nonce": "n"})
            gone = {"ok": 0, "code": code, "errmsg": "unsupported mechanism"}
            error = self.assertRaises(OperationFailure, conversation.send, gone)
            self.assertIn("MongoDB 4.0 has dropped", str(error))

    def test_refused(self) -> None:
        """A wrong password is just that; a reply without a nonce is none."""
        conversation, _ = self.begin(credentials("MONGODB-CR"))
        conversation.send({"ok": 1, "nonce": "n"})
        refusal = {"ok": 0, "code": 18, "errmsg": "auth failed"}
        error = self.assertRaises(OperationFailure, conversation.send, refusal)
        self.assertEqual((error.code, "auth failed" in str(error)), (18, True))
        conversation, _ = self.begin(credentials("MONGODB-CR"))
        self.assertRaises(OperationFailure, conversation.send, {"ok": 1})

    def test_never_chosen(self) -> None:
        """Nobody gets it who has not asked for it."""
        self.assertIsNone(speculate(credentials("MONGODB-CR"), lambda: NONCE_1, LoginMemory()))
        _, step = self.begin(credentials("DEFAULT"))
        self.assertEqual(step.body["mechanism"], "SCRAM-SHA-1")


class KeyCacheTests(SynchronousTestCase):
    """
    L{KeyCache}.
    """

    def salted(self, cache: KeyCache, digest: str, secret: bytes, salt: bytes, count: int) -> bytes:
        """A key that is made at once."""
        making = cache.salted(Derivation(digest, secret, salt, count))
        stopped = self.assertRaises(StopIteration, next, making)
        assert isinstance(stopped, StopIteration)
        key: bytes = stopped.value
        return key

    def test_same_as_computed(self) -> None:
        """A remembered key is the right one for all that it was made of."""
        cache = KeyCache()
        for _ in range(2):
            for digest in ("sha1", "sha256"):
                for secret in (b"a", b"b"):
                    for salt in (b"c", b"d"):
                        for count in (1, 2):
                            self.assertEqual(
                                self.salted(cache, digest, secret, salt, count),
                                pbkdf2_hmac(digest, secret, salt, count),
                            )

    def test_bounded(self) -> None:
        """However many users, it does not grow."""
        cache = KeyCache(limit=3)
        for number in range(20):
            self.salted(cache, "sha1", b"%d" % number, b"salt", 1)
        self.assertLessEqual(len(cache._keys), 3)

    def test_keeps_no_password(self) -> None:
        """Nothing in it is a password."""
        cache = KeyCache()
        self.salted(cache, "sha256", b"hunter2", b"salt", 1)
        self.assertNotIn("hunter2", repr(vars(cache)))


class RandomServerTests(ConversationTestCase):
    """
    A server of our own, for what the published conversations do not cover.
    """

    def test_any_password(self) -> None:
        """The proof is what RFC 5802 says, for an odd password and a given salt."""
        password, salt = "p\u00e4\u00df,= ", b"0123456789abcdef"
        conversation, start = self.begin(credentials(password=password))
        bare = bytes(start.body["payload"])[3:]
        nonce = b64encode(NONCE_256) + b"more"
        first = b"r=" + nonce + b",s=" + b64encode(salt) + b",i=5000"
        payload = self.answered(conversation, ok(first)).body["payload"]
        salted = pbkdf2_hmac("sha256", password.encode(), salt, 5000)
        message = b",".join((bare, first, b"c=biws,r=" + nonce))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(sha256(client_key).digest(), message, "sha256")
        proof = b64decode(payload.partition(b",p=")[2])
        xored = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        self.assertEqual(xored, client_key)
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        final = b"v=" + b64encode(hmac.digest(server_key, message, "sha256"))
        self.ends(conversation, ok(final, done=True))

    def test_sha_1_digest(self) -> None:
        """SHA-1's secret is MongoDB's digest of user and password."""
        digest = md5(b"user:mongo:pencil", usedforsecurity=False).hexdigest().encode()
        salt = b64decode("rQ9ZY3MntBeuP3E1TDVC4w==")
        salted = pbkdf2_hmac("sha1", digest, salt, 10000)
        cache = KeyCache()
        conversation, _ = self.begin(credentials("SCRAM-SHA-1"), NONCE_1, memory=LoginMemory(cache))
        conversation.send(ok(FIRST_1))
        self.assertEqual(list(cache._keys.values()), [salted])
