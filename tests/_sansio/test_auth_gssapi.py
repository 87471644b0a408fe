"""
Tests for L{txmongokit._sansio.auth_gssapi}.
"""

from __future__ import annotations

from typing import Any

import bson
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._sansio.auth import LoginMemory, authenticate
from txmongokit._sansio.conversation import Conversation, SecurityContextWanted, Step, Work
from txmongokit.credentials import Credentials
from txmongokit.errors import OperationFailure


class FakeContext:
    """
    Stands for Kerberos.

    @ivar rounds: how many challenges it answers.
    """

    def __init__(self, rounds: int = 1) -> None:
        self.rounds = rounds
        self.closed = False
        self.challenges: list[str] = []

    def step(self, challenge: str) -> tuple[str, bool]:
        """Answer."""
        self.challenges.append(challenge)
        return f"answer{len(self.challenges)}", len(self.challenges) > self.rounds

    def wrap(self, challenge: str, username: str) -> str:
        """Answer the last one."""
        self.challenges.append(challenge)
        return f"wrapped {username}"

    def close(self) -> None:
        """Note it."""
        self.closed = True


class ConversationTests(SynchronousTestCase):
    """
    The whole log-in, against a scripted server.
    """

    def begin(
        self, context: FakeContext, **properties: Any
    ) -> tuple[Conversation, SecurityContextWanted, Any]:
        """Begin; what was wanted for that, and the first command."""
        who = Credentials("u@REALM", None, "$external", "GSSAPI", properties)
        conversation = authenticate(
            who, mechanisms=None, nonce=lambda: b"", memory=LoginMemory(), host="a.example"
        )
        wanted = next(conversation)
        assert isinstance(wanted, SecurityContextWanted)
        return conversation, wanted, self.worked(conversation, conversation.send(context))

    def worked(self, conversation: Conversation, wanted: Any) -> Any:
        """Do work where some is wanted."""
        return conversation.send(wanted.call()) if isinstance(wanted, Work) else wanted

    def reply(self, payload: Any, number: int = 3) -> dict[str, Any]:
        """A reply of the server's."""
        return {"ok": 1, "conversationId": number, "done": False, "payload": payload}

    def assertGoesOn(self, step: Any, payload: str) -> None:
        """Every byte of a later command."""
        assert isinstance(step, Step)
        self.assertEqual(step.database, "$external")
        wanted = {"saslContinue": 1, "conversationId": 3, "payload": payload}
        self.assertEqual(bson.encode(step.body), bson.encode(wanted))

    def test_bytes(self) -> None:
        """Every byte, and what Kerberos is asked."""
        context = FakeContext(rounds=2)
        conversation, wanted, step = self.begin(context)
        self.assertEqual(wanted.host, "a.example")
        self.assertEqual(
            (step.database, bson.encode(step.body)),
            (
                "$external",
                bson.encode(
                    {
                        "saslStart": 1,
                        "mechanism": "GSSAPI",
                        "payload": "answer1",
                        "autoAuthorize": 1,
                    }
                ),
            ),
        )
        for number in (2, 3):
            step = self.worked(conversation, conversation.send(self.reply(f"c{number}")))
            self.assertGoesOn(step, f"answer{number}")
        step = self.worked(conversation, conversation.send(self.reply("last")))
        self.assertGoesOn(step, "wrapped u@REALM")
        self.assertFalse(context.closed)
        self.assertRaises(StopIteration, conversation.send, {"ok": 1, "done": True})
        self.assertEqual(context.challenges, ["", "c2", "c3", "last"])
        self.assertTrue(context.closed)

    def test_service_host(self) -> None:
        """The service may be known by another name."""
        _, wanted, _ = self.begin(FakeContext(), SERVICE_HOST="b.example")
        self.assertEqual(wanted.host, "b.example")

    def test_refused(self) -> None:
        """A refusal at any step is the server's, and Kerberos is left alone."""
        for steps in range(3):
            context = FakeContext()
            conversation, _, _ = self.begin(context)
            for _ in range(steps):
                self.worked(conversation, conversation.send(self.reply("c")))
            refusal = {"ok": 0, "code": 18, "errmsg": "go away"}
            error = self.assertRaises(OperationFailure, conversation.send, refusal)
            self.assertIn("go away", str(error))
            self.assertTrue(context.closed)

    def test_given_up(self) -> None:
        """Nothing is left behind when the connection is lost meanwhile."""
        context = FakeContext()
        self.begin(context)[0].close()
        self.assertTrue(context.closed)

    def test_nonsense(self) -> None:
        """Challenges that no server would send, and more of them than any would."""
        conversation, _, _ = self.begin(FakeContext())
        self.assertRaises(OperationFailure, conversation.send, self.reply(b"bytes"))
        context = FakeContext(rounds=99)
        conversation, _, _ = self.begin(context)
        for _ in range(10):
            self.worked(conversation, conversation.send(self.reply("c")))
        self.assertRaises(OperationFailure, conversation.send, self.reply("c"))
        self.assertTrue(context.closed)

    def test_too_early(self) -> None:
        """Kerberos cannot have finished before the server has said anything."""
        context = FakeContext(rounds=0)
        self.assertRaises(OperationFailure, self.begin, context)
        self.assertTrue(context.closed)
