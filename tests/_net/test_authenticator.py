"""
Tests for L{txmongokit._net.authenticator}, and for where it gets what: by
HTTP, from users' callbacks, from Kerberos.
"""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Generator
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from pymongo.auth_oidc import (
    OIDCCallback,
    OIDCCallbackContext,
    OIDCCallbackResult,
    OIDCIdPInfo,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.error import ConnectionRefusedError as NobodyListens
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import PotentialDataLoss

from tests.fakecloud import FakeAgent, FakeKerberos, FakeResponse, ThreadClock
from txmongokit._net import kerberos as kerberos_module
from txmongokit._net.authenticator import Authenticator, botocore_keys
from txmongokit._net.kerberos import load_kerberos
from txmongokit._sansio.conversation import (
    Derivation,
    HTTPRequest,
    HTTPResponse,
    Pause,
    ReadFile,
    SecurityContextWanted,
    Step,
    Surroundings,
    SurroundingsWanted,
    TokenWanted,
    Wanted,
    Work,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import AutoReconnect, ConfigurationError, OperationFailure

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class AuthenticatorTestCase(SynchronousTestCase):
    """
    An authenticator whose threads and HTTP are in memory.
    """

    def setUp(self) -> None:
        """Make it."""
        self.clock = ThreadClock()
        self.agent = FakeAgent()
        self.kerberos = FakeKerberos()
        self.authenticator = Authenticator(
            self.clock,
            self.agent,
            20.0,
            environ={"A": "b"},
            now=lambda: NOW,
            sdk=lambda: None,
            kerberos=lambda: self.kerberos,
        )
        self.tokens = self.authenticator.memory.tokens

    def answer(self, wanted: Wanted) -> Deferred[Any]:
        """What comes of something that is wanted."""

        def conversation() -> Generator[Wanted, Any, Any]:
            return (yield wanted)

        return Deferred.fromCoroutine(self.authenticator.converse(conversation()))


class ConversationTests(AuthenticatorTestCase):
    """
    Having conversations.
    """

    def test_everything(self) -> None:
        """Whatever is wanted is given."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"token")
        derivation = Derivation("sha1", b"secret", b"salt", 2)
        for wanted, given in (
            (derivation, derivation.key()),
            (Work(lambda: 7), 7),
            (ReadFile(path, "X"), b"token"),
            (SurroundingsWanted(), Surroundings({"A": "b"}, NOW, None)),
        ):
            self.assertEqual(self.successResultOf(self.answer(wanted)), given)

    def test_pause(self) -> None:
        """A pause takes its time."""
        waiting = self.answer(Pause(0.1))
        self.clock.advance(0.05)
        self.assertNoResult(waiting)
        self.clock.advance(0.06)
        self.successResultOf(waiting)

    def test_missing_file(self) -> None:
        """A file that cannot be read is named, with what named it."""
        for path in (self.mktemp(), "a\0b"):
            error = self.failureResultOf(self.answer(ReadFile(path, "X_FILE")), ConfigurationError)
            self.assertIn("X_FILE", str(error.value))

    def test_commands(self) -> None:
        """Commands go to whoever asks the server; failing there ends everything."""
        ended: list[bool] = []

        def conversation() -> Generator[Wanted, Any, Any]:
            try:
                reply = yield Step("admin", {"x": 1})
                return reply["y"]
            finally:
                ended.append(True)

        async def ask(step: Step) -> Any:
            return {"y": step.body["x"] + 1}

        async def lose(step: Step) -> Any:
            raise AutoReconnect("gone")

        converse = self.authenticator.converse
        done = Deferred.fromCoroutine(converse(conversation(), ask))
        self.assertEqual(self.successResultOf(done), 2)
        self.failureResultOf(Deferred.fromCoroutine(converse(conversation(), lose)), AutoReconnect)
        self.assertEqual(ended, [True, True])

    def test_told_of_failure(self) -> None:
        """A conversation may do without what it cannot have."""

        def conversation() -> Generator[Wanted, Any, Any]:
            try:
                yield ReadFile("/nowhere/at/all", "X")
            except ConfigurationError:
                return (yield Work(lambda: "otherwise"))

        done = Deferred.fromCoroutine(self.authenticator.converse(conversation()))
        self.assertEqual(self.successResultOf(done), "otherwise")

    def test_cancel(self) -> None:
        """Giving up ends the conversation."""
        ended: list[bool] = []

        def conversation() -> Generator[Wanted, Any, Any]:
            try:
                yield Pause(9)
            finally:
                ended.append(True)

        waiting = Deferred.fromCoroutine(self.authenticator.converse(conversation()))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((ended, self.clock.getDelayedCalls()), ([True], []))

    def test_botocore(self) -> None:
        """C{botocore} is used where it is installed, and looked for once."""
        self.assertIsNone(botocore_keys())
        made: list[Any] = []

        class Session:
            """Stands for botocore's."""

            credentials: Any = SimpleNamespace(get_frozen_credentials=lambda: "frozen")

            def get_credentials(self) -> Any:
                """Those there are."""
                made.append(self)
                return self.credentials

        package = types.ModuleType("botocore")
        package.__spec__ = SimpleNamespace(name="botocore")  # type: ignore[assignment]  # is enough
        session = types.ModuleType("botocore.session")
        session.get_session = Session  # type: ignore[attr-defined]  # which is what it is for
        self.patch(
            sys, "modules", {**sys.modules, "botocore": package, "botocore.session": session}
        )
        keys = botocore_keys()
        assert keys is not None
        self.assertEqual((keys(), keys(), len(made)), ("frozen", "frozen", 1))
        authenticator = Authenticator(self.clock, self.agent)
        self.authenticator = authenticator
        (one, two) = (self.successResultOf(self.answer(SurroundingsWanted())) for _ in range(2))
        self.assertIs(one.sdk, two.sdk)
        Session.credentials = None
        empty = botocore_keys()
        assert empty is not None
        self.assertIsNone(empty())

        def broken() -> Any:
            raise RuntimeError("no role")

        Session.credentials = SimpleNamespace(get_frozen_credentials=broken)
        failing = botocore_keys()
        assert failing is not None
        self.assertRaises(ConfigurationError, failing)


class HTTPTests(AuthenticatorTestCase):
    """
    L{txmongokit._net.httprequests}.
    """

    def ask(self, answer: Any, request: HTTPRequest | None = None) -> Deferred[HTTPResponse]:
        """Ask, and be answered so."""
        self.agent.answers.append(answer)
        return self.answer(request or HTTPRequest("GET", "http://h/p?secret=hunter2"))

    def test_bytes(self) -> None:
        """Requests are sent as they are, with a body only where there is one."""
        with_body = HTTPRequest("POST", "https://h/", {"Accept": "x"}, b"a=b")
        done = self.ask(FakeResponse(b"yes", 201), with_body)
        self.assertEqual(self.successResultOf(done), HTTPResponse(201, b"yes"))
        self.successResultOf(self.ask(FakeResponse(b""), HTTPRequest("PUT", "http://h/t")))
        self.assertEqual(
            self.agent.requests,
            [
                (b"POST", b"https://h/", {b"Accept": [b"x"]}, b"a=b"),
                (b"PUT", b"http://h/t", {}, b""),
            ],
        )

    def test_without_length(self) -> None:
        """An answer may end with its connection."""
        done = self.ask(FakeResponse(b"yes", ends=PotentialDataLoss()))
        self.assertEqual(self.successResultOf(done).body, b"yes")

    def test_failures(self) -> None:
        """What comes of no answer is one error, which shows no secret."""
        for answer in (
            NobodyListens(),
            FakeResponse(b"half", ends=ConnectionLost()),
            FakeResponse(b"x" * 70_000),
        ):
            error = self.failureResultOf(self.ask(answer), OperationFailure).value
            self.assertIn("http://h/p", str(error))
            self.assertNotIn("hunter2", str(error))

    def test_too_late(self) -> None:
        """Nobody is waited for longer than ten seconds."""
        cancelled: list[Any] = []
        waiting = self.ask(Deferred(cancelled.append))
        self.clock.advance(9.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.2)
        error = self.failureResultOf(waiting, OperationFailure).value
        self.assertIn("within 10 s", str(error))
        self.assertEqual(len(cancelled), 1)

    def test_cancel(self) -> None:
        """Giving up gives the request up."""
        cancelled: list[Any] = []
        waiting = self.ask(Deferred(cancelled.append))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual((len(cancelled), self.clock.getDelayedCalls()), (1, []))


class Callback(OIDCCallback):
    """
    A user's callback.

    @ivar result: what it returns, or raises.
    """

    def __init__(self, result: Any) -> None:
        self.result = result
        self.contexts: list[OIDCCallbackContext] = []

    def fetch(self, context: OIDCCallbackContext) -> Any:
        """Give it."""
        self.contexts.append(context)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class TokenTests(AuthenticatorTestCase):
    """
    L{txmongokit._net.oidc}.
    """

    def wanted(self, username: str | None = None, **properties: Any) -> TokenWanted:
        """A token for somebody, who has nothing remembered."""
        who = Credentials(username, None, "$external", "MONGODB-OIDC", properties)
        self.tokens.belong(who)
        return TokenWanted(who, self.tokens)

    def test_machine(self) -> None:
        """A machine's callback is told how much time there is, and the token is remembered."""
        callback = Callback(OIDCCallbackResult("t", 60.0))
        done = self.answer(self.wanted("me", OIDC_CALLBACK=callback))
        self.assertEqual(self.successResultOf(done), "t")
        context = OIDCCallbackContext(timeout_seconds=20.0, username="me", version=1)
        self.assertEqual(callback.contexts, [context])
        self.assertEqual(self.tokens.access_token, "t")

    def test_remembered(self) -> None:
        """Who has waited for another one's token need not ask."""
        callback = Callback(OIDCCallbackResult("t"))
        wanted = self.wanted(OIDC_CALLBACK=callback)
        self.tokens.access_token = "known"
        self.assertEqual(self.successResultOf(self.answer(wanted)), "known")
        self.assertEqual(callback.contexts, [])

    def test_human(self) -> None:
        """A human is told of the provider, given time and the refresh token."""
        callback = Callback(OIDCCallbackResult("t", refresh_token="r2"))
        plain = self.wanted(OIDC_HUMAN_CALLBACK=callback)
        info = {"issuer": "i", "clientId": "c", "more": "of the future"}
        self.tokens.refresh_token = "r1"
        for refresh, given in ((True, "r1"), (False, None)):
            self.tokens.access_token = None
            wanted = TokenWanted(plain.credentials, self.tokens, info, refresh)
            self.assertEqual(self.successResultOf(self.answer(wanted)), "t")
            context = callback.contexts.pop()
            self.assertEqual(
                context, OIDCCallbackContext(300.0, "", 1, given, OIDCIdPInfo("i", "c", None))
            )
            self.assertEqual(self.tokens.refresh_token, "r2")

    def test_one_at_a_time(self) -> None:
        """All who want a token at once have one callback called, in a thread."""
        callback = Callback(OIDCCallbackResult("t"))
        wanted = self.wanted(OIDC_CALLBACK=callback)
        self.clock.held = []
        waiting = [self.answer(wanted) for _ in range(3)]
        self.assertEqual(callback.contexts, [])
        self.clock.release()
        self.assertEqual([self.successResultOf(each) for each in waiting], ["t"] * 3)
        self.assertEqual(len(callback.contexts), 1)

    def test_cancel(self) -> None:
        """Who gives up keeps nobody else from the token, which is remembered."""
        wanted = self.wanted(OIDC_CALLBACK=Callback(OIDCCallbackResult("t")))
        self.clock.held = []
        first, second = self.answer(wanted), self.answer(wanted)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.clock.release()
        self.assertEqual(self.successResultOf(second), "t")
        self.assertEqual(self.tokens.access_token, "t")

    def test_somebody_else_meanwhile(self) -> None:
        """A token that comes late is not remembered for another user."""
        wanted = self.wanted(OIDC_CALLBACK=Callback(OIDCCallbackResult("t")))
        self.clock.held = []
        waiting = self.answer(wanted)
        self.tokens.belong(Credentials("x", None, "$external", "MONGODB-OIDC"))
        self.clock.release()
        self.assertEqual(self.successResultOf(waiting), "t")
        self.assertIsNone(self.tokens.access_token)

    def test_coroutine(self) -> None:
        """A callback may be a coroutine, which goes on in the reactor."""
        slow: Deferred[OIDCCallbackResult] = Deferred()

        class Slow(OIDCCallback):
            """Waits."""

            async def fetch(self, context: OIDCCallbackContext) -> Any:  # type: ignore[override]  # which is allowed here
                """Wait."""
                return await slow

        waiting = self.answer(self.wanted(OIDC_CALLBACK=Slow()))
        self.assertNoResult(waiting)
        slow.callback(OIDCCallbackResult("t"))
        self.assertEqual(self.successResultOf(waiting), "t")

    def test_failures(self) -> None:
        """Whatever goes wrong in a callback is an error of the log-in, for all who wait."""
        for result, text in (
            (ValueError("no network"), "ValueError: no network"),
            ("t", "not a str"),
            (OIDCCallbackResult(None), "OIDCCallbackResult"),  # type: ignore[arg-type]  # wrong on purpose
            (OIDCCallbackResult("hunter2", -1.0), "expired"),
        ):
            wanted = self.wanted(OIDC_CALLBACK=Callback(result))
            self.clock.held = []
            waiting = [self.answer(wanted) for _ in range(2)]
            self.clock.release()
            for each in waiting:
                error = self.failureResultOf(each, OperationFailure).value
                self.assertIn(text, str(error))
                self.assertNotIn("hunter2", str(error))
            self.assertIsNone(self.tokens.access_token)

    def test_environment(self) -> None:
        """The cloud's own tokens come over HTTP."""
        self.agent.answers.append(FakeResponse(b"t"))
        done = self.answer(self.wanted(ENVIRONMENT="gcp", TOKEN_RESOURCE="r"))
        self.assertEqual((self.successResultOf(done), self.tokens.access_token), ("t", "t"))
        self.assertEqual(self.agent.requests[0][2], {b"Metadata-Flavor": [b"Google"]})


class KerberosTests(AuthenticatorTestCase):
    """
    L{txmongokit._net.kerberos}.
    """

    def context(self, password: str | None = None, **properties: Any) -> Deferred[Any]:
        """A context for a server."""
        who = Credentials("u@REALM", password, "$external", "GSSAPI", properties)
        return self.answer(SecurityContextWanted(who, "Alias.example"))

    def test_not_installed(self) -> None:
        """Where no library is installed, the error names it."""
        self.patch(sys, "modules", {**sys.modules, "kerberos": None, "winkerberos": None})
        error = self.assertRaises(ConfigurationError, load_kerberos)
        self.assertIn("package pykerberos", str(error))

    def test_installed(self) -> None:
        """Windows' library is preferred."""
        one, other = types.ModuleType("winkerberos"), types.ModuleType("kerberos")
        self.patch(sys, "modules", {**sys.modules, "winkerberos": None, "kerberos": other})
        self.assertIs(load_kerberos(), other)
        self.patch(sys, "modules", {**sys.modules, "winkerberos": one})
        self.assertIs(load_kerberos(), one)

    def test_whole(self) -> None:
        """All that Kerberos is asked."""
        context = self.successResultOf(self.context(SERVICE_NAME="db", SERVICE_REALM="OTHER"))
        self.assertEqual(context.step(""), ("answer1", False))
        self.assertEqual(context.step("c1"), ("answer2", True))
        self.assertEqual(context.wrap("last", "u@REALM"), "answer2")
        context.close()
        context.close()
        self.assertEqual(
            self.kerberos.calls,
            [
                ("init", "db@Alias.example@OTHER", {"gssflags": 2}),
                ("step", ""),
                ("response",),
                ("step", "c1"),
                ("response",),
                ("unwrap", "last"),
                ("response",),
                ("wrap", "answer2", "u@REALM"),
                ("response",),
                ("clean",),
            ],
        )

    def test_password(self) -> None:
        """With a password there are tickets for it, in each library's way."""
        self.successResultOf(self.context("p w"))
        self.kerberos.__name__ = "winkerberos"
        self.successResultOf(self.context("p+w"))
        given = [call[2] for call in self.kerberos.calls]
        self.assertEqual(
            given,
            [
                {"gssflags": 2, "user": "u", "domain": "REALM", "password": "p w"},
                {"gssflags": 2, "principal": "u%40REALM:p%2Bw"},
            ],
        )

    def test_canonical_names(self) -> None:
        """A host's name is made canonical where that is asked for, and DNS helps."""
        address = ("10.0.0.1", 0)

        def lookup(fails: bool, *args: Any, **kwargs: Any) -> Any:
            if fails:
                raise OSError("no such name")
            return [(2, 1, 6, "Real.Example", address)]

        def reverse(fails: bool, *args: Any) -> Any:
            if fails:
                raise OSError("no such name")
            return ("Back.Example", "0")

        for how, no_name, no_reverse, wanted in (
            ("none", False, False, "Alias.example"),
            ("false", False, False, "Alias.example"),
            ("forward", False, False, "real.example"),
            ("forwardAndReverse", False, False, "back.example"),
            ("true", False, False, "back.example"),
            ("true", False, True, "real.example"),
            ("forward", True, False, "Alias.example"),
        ):
            fake = SimpleNamespace(
                getaddrinfo=partial(lookup, no_name),
                getnameinfo=partial(reverse, no_reverse),
                **{
                    name: getattr(socket, name)
                    for name in ("AI_CANONNAME", "IPPROTO_TCP", "NI_NAMEREQD")
                },
            )
            self.patch(kerberos_module, "socket", fake)
            self.successResultOf(self.context(CANONICALIZE_HOST_NAME=how))
            self.assertEqual(self.kerberos.calls[-1][1], f"mongodb@{wanted}", how)

    def test_failures(self) -> None:
        """What Kerberos refuses is an error of the log-in."""
        broken = FakeKerberos.KrbError("no tickets")
        for results in ({"init": broken}, {"init": 0}):
            self.kerberos = FakeKerberos(**results)
            self.failureResultOf(self.context(), OperationFailure)
        for results in ({"step": broken}, {"step": -1}):
            self.kerberos = FakeKerberos(**results)
            context = self.successResultOf(self.context())
            self.assertRaises(OperationFailure, context.step, "")
        for results in ({"unwrap": broken}, {"unwrap": -1}, {"wrap": -1}):
            self.kerberos = FakeKerberos(**results)
            context = self.successResultOf(self.context())
            self.assertRaises(OperationFailure, context.wrap, "c", "u")

    def test_closed_at_work(self) -> None:
        """What a thread is at work with is cleared away only when it is done."""
        context = self.successResultOf(self.context())
        cleaned: list[bool] = []

        def step(_: Any, challenge: str) -> int:
            context.close()
            cleaned.append(("clean",) in self.kerberos.calls)
            return 1

        self.patch(self.kerberos, "authGSSClientStep", step)
        context.step("")
        self.assertEqual((cleaned, self.kerberos.calls[-1]), ([False], ("clean",)))
        self.assertRaises(OperationFailure, context.step, "")
