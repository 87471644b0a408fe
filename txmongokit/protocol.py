"""
TxMongo's protocols: its messages, and connections that speak them.

What the client itself speaks is L{txmongokit.wire}.  These are for programs
that use MongoDB's messages by themselves: clients of servers that still take
OP_QUERY and its kin (up to MongoDB 5.0), test servers, proxies.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from secrets import token_bytes
from typing import Any

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions
from twisted.internet.defer import Deferred, DeferredLock, fail, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from txmongokit._pymongo import raise_command_error
from txmongokit._sansio.auth import LoginMemory, authenticate
from txmongokit._sansio.conversation import Derivation, Step
from txmongokit._sansio.messages import (
    CHECKSUM_PRESENT,
    EXHAUST_ALLOWED,
    MORE_TO_COME,
    OP_COMPRESSED,
    OP_DELETE,
    OP_GET_MORE,
    OP_INSERT,
    OP_KILL_CURSORS,
    OP_MSG,
    OP_QUERY,
    OP_REPLY,
    OP_UPDATE,
    REPLY_CURSOR_NOT_FOUND,
    REPLY_QUERY_FAILURE,
)
from txmongokit._sansio.messagetuples import (
    OP_NOTE,
    BaseMessage,
    Delete,
    Getmore,
    Insert,
    KillCursors,
    MongoDecoder,
    Msg,
    Note,
    Query,
    Reply,
    Update,
)
from txmongokit.credentials import Credentials
from txmongokit.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    DuplicateKeyError,
    MongoAuthenticationError,
    NotPrimaryError,
    OperationFailure,
)
from txmongokit.types import (
    DELETE_SINGLE_REMOVE,
    INSERT_CONTINUE_ON_ERROR,
    QUERY_AWAIT_DATA,
    QUERY_EXHAUST,
    QUERY_NO_CURSOR_TIMEOUT,
    QUERY_OPLOG_REPLAY,
    QUERY_PARTIAL,
    QUERY_SLAVE_OK,
    QUERY_TAILABLE_CURSOR,
    UPDATE_MULTI,
    UPDATE_UPSERT,
)

__all__ = [
    "DEFAULT_MAX_BSON_SIZE",
    "DEFAULT_MAX_MESSAGE_SIZE",
    "DEFAULT_MAX_WRITE_BATCH_SIZE",
    "DELETE_SINGLE_REMOVE",
    "INSERT_CONTINUE_ON_ERROR",
    "INT_MAX",
    "OP_COMPRESSED",
    "OP_DELETE",
    "OP_GETMORE",
    "OP_INSERT",
    "OP_KILL_CURSORS",
    "OP_MSG",
    "OP_MSG_CHECKSUM_PRESENT",
    "OP_MSG_EXHAUST_ALLOWED",
    "OP_MSG_MORE_TO_COME",
    "OP_QUERY",
    "OP_REPLY",
    "OP_UPDATE",
    "QUERY_AWAIT_DATA",
    "QUERY_EXHAUST",
    "QUERY_NO_CURSOR_TIMEOUT",
    "QUERY_OPLOG_REPLAY",
    "QUERY_PARTIAL",
    "QUERY_SLAVE_OK",
    "QUERY_TAILABLE_CURSOR",
    "REPLY_AWAIT_CAPABLE",
    "REPLY_CURSOR_NOT_FOUND",
    "REPLY_QUERY_FAILURE",
    "REPLY_SHARD_CONFIG_STALE",
    "UPDATE_MULTI",
    "UPDATE_UPSERT",
    "BaseMessage",
    "Delete",
    "Getmore",
    "Insert",
    "KillCursors",
    "MongoAuthenticationError",
    "MongoClientProtocol",
    "MongoDecoder",
    "MongoProtocol",
    "MongoReceiverProtocol",
    "MongoSenderProtocol",
    "MongoServerProtocol",
    "Msg",
    "Note",
    "Query",
    "Reply",
    "Update",
    "connectionDone",
]

INT_MAX = 2**31 - 1

DEFAULT_MAX_BSON_SIZE = 16 * 1024 * 1024
DEFAULT_MAX_WRITE_BATCH_SIZE = 1000
DEFAULT_MAX_MESSAGE_SIZE = 48_000_000

OP_GETMORE = OP_GET_MORE
OP_MSG_CHECKSUM_PRESENT = CHECKSUM_PRESENT
OP_MSG_MORE_TO_COME = MORE_TO_COME
OP_MSG_EXHAUST_ALLOWED = EXHAUST_ALLOWED

REPLY_SHARD_CONFIG_STALE = 1 << 2
REPLY_AWAIT_CAPABLE = 1 << 3

_OPERATIONS = {
    OP_REPLY: "REPLY",
    OP_NOTE: "MSG",
    OP_UPDATE: "UPDATE",
    OP_INSERT: "INSERT",
    OP_QUERY: "QUERY",
    OP_GET_MORE: "GETMORE",
    OP_DELETE: "DELETE",
    OP_KILL_CURSORS: "KILL_CURSORS",
    OP_MSG: "MSG",
}
_OLDEST_WITH_MESSAGES = 6  # MongoDB 3.6


class MongoSenderProtocol(Protocol):
    """
    Sends messages and numbers them.
    """

    _log = Logger()
    _request_id = 1

    def get_request_id(self) -> int:
        """
        The number of the next message.
        """
        return self._request_id

    def _send(self, request: BaseMessage) -> int:
        """Write a message, and tell its number."""
        assert self.transport is not None
        request_id = self._request_id
        data = request.encode(request_id)
        self._request_id = 1 if request_id + 1 >= INT_MAX else request_id + 1
        self.transport.write(data)
        return request_id


class MongoReceiverProtocol(Protocol):
    """
    Finds the messages in what comes; to be inherited by what says what is to be
    done with them.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._decoder = MongoDecoder()

    def dataReceived(self, data: bytes) -> None:
        """
        Have each message handled; what cannot be is L{fail}'s matter.
        """
        try:
            self._decoder.feed(data)
            while (request := self._decoder.next()) is not None:
                self.handle(request)
        except Exception as error:
            self.fail(error)

    def fail(self, reason: Any) -> None:
        """
        Log a reason, and close the connection for it.
        """
        self._log.error("connection closed: {reason}", reason=str(reason))
        if self.transport is not None:
            self.transport.loseConnection()

    def handle(self, msg: Any) -> None:
        """
        Do something about a message.

        @raise TypeError: nobody has said what.
        """
        raise TypeError(f"{type(self).__name__} must define handle(msg)")


class MongoClientProtocol(MongoSenderProtocol):
    """
    Sends any message.  Each method gives the number that the message had, which
    an answer has as its C{response_to}.
    """

    def send(self, request: BaseMessage) -> Any:
        """
        Send a message by the method for its kind.
        """
        return getattr(self, f"send_{_OPERATIONS[request.opcode]}")(request)

    def send_REPLY(self, request: Reply) -> int:
        """
        Answer a query.
        """
        return self._send(request)

    def send_MSG(self, request: Msg) -> int:
        """
        Send a command, its answer, or a L{Note}.
        """
        return self._send(request)

    def send_UPDATE(self, request: Update) -> int:
        """
        Have something changed.
        """
        return self._send(request)

    def send_INSERT(self, request: Insert) -> int:
        """
        Have something inserted.
        """
        return self._send(request)

    def send_QUERY(self, request: Query) -> Any:
        """
        Ask.
        """
        return self._send(request)

    def send_GETMORE(self, request: Getmore) -> Any:
        """
        Ask for more.
        """
        return self._send(request)

    def send_DELETE(self, request: Delete) -> int:
        """
        Have something deleted.
        """
        return self._send(request)

    def send_KILL_CURSORS(self, request: KillCursors) -> int:
        """
        Have cursors forgotten.
        """
        return self._send(request)


class MongoServerProtocol(MongoReceiverProtocol):
    """
    Takes any message, to be inherited by what does something about some of
    them: together with L{MongoClientProtocol}, which sends the answers, it is
    all that a server needs.
    """

    def handle(self, request: Any) -> None:
        """
        Hand a message to the method for its kind.
        """
        getattr(self, f"handle_{_OPERATIONS[request.opcode]}")(request)

    def handle_REPLY(self, request: Reply) -> None:
        """
        A query's answer: not looked at.
        """

    def handle_MSG(self, request: Msg) -> None:
        """
        A command, its answer or a L{Note}: not looked at.
        """

    def handle_UPDATE(self, request: Update) -> None:
        """
        A change: not looked at.
        """

    def handle_INSERT(self, request: Insert) -> None:
        """
        Documents to insert: not looked at.
        """

    def handle_QUERY(self, request: Query) -> None:
        """
        A query: not looked at.
        """

    def handle_GETMORE(self, request: Getmore) -> None:
        """
        A wish for more: not looked at.
        """

    def handle_DELETE(self, request: Delete) -> None:
        """
        Something to delete: not looked at.
        """

    def handle_KILL_CURSORS(self, request: KillCursors) -> None:
        """
        Cursors to forget: not looked at.
        """


class MongoProtocol(MongoServerProtocol, MongoClientProtocol):
    """
    A connection to a server, which gives each question its answer.

    @ivar min_wire_version: the oldest dialect that the server speaks; C{None}
        until somebody has said so.
    @ivar max_wire_version: the newest one.
    @ivar max_bson_size: the largest document that it takes, in bytes.
    @ivar max_write_batch_size: the most statements in one of its commands.
    @ivar max_message_size: the largest message that it takes, in bytes.
    """

    min_wire_version: int | None = None
    max_wire_version: int | None = None
    max_bson_size: int | None = None
    max_write_batch_size: int | None = None
    max_message_size: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[int, Deferred[Any]] = {}
        self._ready: list[Deferred[None]] = []
        self._login = DeferredLock()
        self._memory = LoginMemory()
        self._connected = False
        self._tell_lost: Callable[[], None] = lambda: None
        self._lost: Exception | None = None

    # The connection.

    def inflight(self) -> int:
        """
        How many answers are still to come.
        """
        return len(self._answers)

    def connectionMade(self) -> None:
        """
        Tell those who wait for it.
        """
        self._connected = True
        ready, self._ready = self._ready, []
        for waiting in ready:
            if not waiting.called:
                waiting.callback(None)

    def connectionReady(self) -> Deferred[None]:
        """
        @return: fires when there is a connection; fails with L{AutoReconnect}
            where it is lost before.
        """
        if self._lost is not None:
            return fail(self._lost)
        if self._connected:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._ready.remove)
        self._ready.append(waiting)
        return waiting

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Fail all that wait with L{AutoReconnect}.
        """
        tell = getattr(getattr(self, "factory", None), "setInstance", None)
        if tell is not None:
            tell(None, reason)
        self._lost = lost = AutoReconnect(f"connection closed: {reason.getErrorMessage()}")
        self._tell_lost()
        answers, self._answers = self._answers, {}
        ready, self._ready = self._ready, []
        for waiting in (*answers.values(), *ready):
            if not waiting.called:
                waiting.errback(lost)

    def when_lost(self, tell: Callable[[], None]) -> None:
        """
        Have C{tell} called when the connection is gone.
        """
        self._tell_lost = tell

    def set_wire_versions(self, min_wire_version: int, max_wire_version: int) -> None:
        """
        Keep which dialects the server speaks.
        """
        self.min_wire_version = min_wire_version
        self.max_wire_version = max_wire_version

    def init_from_hello_response(self, config: Mapping[str, Any]) -> None:
        """
        Keep what C{hello} told: limits and dialects.
        """
        self.max_bson_size = config.get("maxBsonObjectSize", DEFAULT_MAX_BSON_SIZE)
        self.max_write_batch_size = config.get("maxWriteBatchSize", DEFAULT_MAX_WRITE_BATCH_SIZE)
        self.max_message_size = config.get("maxMessageSizeBytes", DEFAULT_MAX_MESSAGE_SIZE)
        self.set_wire_versions(config.get("minWireVersion", 0), config.get("maxWireVersion", 0))

    # Questions.

    def _asked(self, request: BaseMessage) -> Deferred[Any]:
        if self._lost is not None:
            return fail(self._lost)
        try:
            request_id = self._send(request)
        except Exception:
            return fail()

        def forget(_: Deferred[Any]) -> None:
            self._answers.pop(request_id, None)

        waiting = self._answers[request_id] = Deferred(forget)
        return waiting

    def send_QUERY(self, request: Query) -> Deferred[Reply]:
        """
        Ask.

        @return: fires with the answer; fails with L{OperationFailure} where
            the server cannot, L{NotPrimaryError} where it is no primary, and
            L{AutoReconnect} where the connection goes.  Cancelling stops the
            wait.
        """
        return self._asked(request)

    def send_GETMORE(self, request: Getmore) -> Deferred[Reply]:
        """
        Ask for more.

        @return: as L{send_QUERY}; fails with L{CursorNotFound} where there is
            no such cursor any more.
        """
        return self._asked(request)

    send_query = send_QUERY

    def send_MSG(self, request: Any) -> Any:
        """
        Send a command.

        @return: fires with the L{Msg} that answers it, with C{None} where
            nothing will; the number of a L{Note}.
        """
        if isinstance(request, Note):
            return self._send(request)
        if request.acknowledged:
            return self._asked(request)
        try:
            self._send(request)
        except Exception:
            return fail()
        return succeed(None)

    def send_msg(
        self,
        msg: Msg,
        codec_options: CodecOptions[Any],
        session: Any,
        *,
        check: bool = True,
        allowable_errors: Any = None,
    ) -> Deferred[Any]:
        """
        Send a command and read its answer.

        @param session: is told of the answer's C{$clusterTime}; what belongs
            to it must be in the message already.
        @param check: whether C{ok: 0} is an error.
        @param allowable_errors: messages or codes that are none.
        @return: fires with the reply, C{None} where nothing will answer.
        """
        allowed = allowable_errors or ()

        def read(answer: Msg | None) -> Any:
            if answer is None:
                return None
            reply = answer.to_dict(codec_options)
            if session is not None and "$clusterTime" in reply:
                session.advance_cluster_time(reply["$clusterTime"])
            known = {reply.get("errmsg"), reply.get("code")} & set(allowed)
            if check and not reply.get("ok") and not known:
                raise_command_error(reply, self.max_wire_version)
            return reply

        answered: Deferred[Any] = self.send_MSG(msg)
        return answered.addCallback(read)

    def send_op_query_command(
        self, database: str, query: Mapping[str, Any]
    ) -> Deferred[dict[str, Any]]:
        """
        Run a command by OP_QUERY, which servers since 5.1 take for a log-in and
        C{hello} only.

        @return: fires with the reply, whether C{ok} or not.
        """
        asked = self.send_QUERY(Query(collection=f"{database}.$cmd", query=query))
        return asked.addCallback(lambda reply: bson.decode(reply.documents[0]))

    def get_last_error(self, db: Any, **options: Any) -> Deferred[dict[str, Any]]:
        """
        What became of the last write on this connection.  Servers since 5.1 no
        longer know: there, writes are commands and have replies.

        @param db: a database, or its name.
        @param options: a write concern: C{w}, C{wtimeout}, C{j}, C{fsync}.
        @return: fires with the server's reply; fails with
            L{DuplicateKeyError} or L{OperationFailure}.
        """

        def judge(reply: dict[str, Any]) -> dict[str, Any]:
            if not reply.get("ok"):
                raise_command_error(reply, self.max_wire_version)
            if reply.get("err") is not None:
                code = reply.get("code")
                kind = DuplicateKeyError if code in (11000, 11001, 12582) else OperationFailure
                raise kind(reply["err"], code, reply)
            return reply

        name = db if isinstance(db, str) else db.name
        command = {"getlasterror": 1, **options}
        return self.send_op_query_command(name, command).addCallback(judge)

    # Answers.

    def handle_REPLY(self, request: Reply) -> None:
        """
        Give an answer to whoever waits for it.
        """
        waiting = self._answers.pop(request.response_to, None)
        if waiting is None or waiting.called:
            return
        if request.response_flags & REPLY_CURSOR_NOT_FOUND:
            waiting.errback(CursorNotFound("the server does not have this cursor any more", 43))
        elif request.response_flags & REPLY_QUERY_FAILURE:
            document = bson.decode(request.documents[0])
            text = document.get("$err") or document.get("errmsg") or "the query failed"
            try:
                raise_command_error({"ok": 0, "errmsg": text, **document}, self.max_wire_version)
            except Exception as error:
                waiting.errback(error)
                if isinstance(error, NotPrimaryError):
                    self.fail(error)
        else:
            waiting.callback(request)

    def handle_MSG(self, request: Any) -> None:
        """
        Give an answer to whoever waits for it.
        """
        waiting = self._answers.pop(request.response_to, None)
        if waiting is not None and not waiting.called:
            waiting.callback(request)

    handle_reply = handle_REPLY
    handle_msg = handle_MSG

    # Logging in.

    def authenticate(
        self, database_name: Any, username: str, password: str | None, mechanism: str
    ) -> Deferred[Any]:
        """
        Log in, one after the other where several are asked for.

        @param database_name: the database that knows the user.
        @param mechanism: C{DEFAULT}, C{SCRAM-SHA-1}, C{SCRAM-SHA-256},
            C{PLAIN} or C{MONGODB-X509}.
        @return: fires when that is done; fails with
            L{MongoAuthenticationError} where it is not.
        """
        source = "$external" if mechanism == "MONGODB-X509" else str(database_name)
        credentials = Credentials(str(username), password, source, mechanism)
        return self._login.run(Deferred.fromCoroutine, self._log_in(credentials))

    async def _log_in(self, credentials: Credentials) -> None:
        mechanisms = None
        if credentials.mechanism == "DEFAULT":
            mechanisms = await self._mechanisms(credentials)
        steps: Generator[Any, Any, Any] = authenticate(
            credentials, mechanisms=mechanisms, nonce=_nonce, memory=self._memory
        )
        answer: Any = None
        try:
            while True:
                step = steps.send(answer)
                if isinstance(step, Derivation):
                    answer = step.key()
                elif isinstance(step, Step):
                    answer = await self._command(step.database, step.body)
                else:
                    raise ConfigurationError(
                        f"authMechanism={credentials.mechanism} is for the client: here is only "
                        "what user and password, or a certificate, suffice for"
                    )
        except StopIteration:
            return
        except MongoAuthenticationError:
            raise
        except OperationFailure as error:
            raise MongoAuthenticationError(str(error), error.code) from error

    async def _mechanisms(self, credentials: Credentials) -> Any:
        user = f"{credentials.source}.{credentials.username}"
        hello = await self._command("admin", {"isMaster": 1, "saslSupportedMechs": user})
        return hello.get("saslSupportedMechs")

    def _command(self, database: str, body: Mapping[str, Any]) -> Deferred[Any]:
        """A command in the newest dialect that the server is known to speak."""
        if (self.max_wire_version or 0) < _OLDEST_WITH_MESSAGES:
            return self.send_op_query_command(database, body)
        msg = Msg.create({**body, "$db": database})
        return self.send_msg(msg, DEFAULT_CODEC_OPTIONS, None, check=False)

    def authenticate_scram_sha1(
        self, database_name: Any, username: str, password: str
    ) -> Deferred[Any]:
        """
        Log in by SCRAM-SHA-1.
        """
        return self.authenticate(database_name, username, password, "SCRAM-SHA-1")

    def authenticate_mongo_cr(
        self, database_name: Any, username: str, password: str
    ) -> Deferred[Any]:
        """
        Log in by MONGODB-CR, which servers since 4.0 refuse.
        """
        return self.authenticate(database_name, username, password, "MONGODB-CR")

    def authenticate_mongo_x509(
        self, database_name: Any, username: str, password: str | None = None
    ) -> Deferred[Any]:
        """
        Log in by TLS's client certificate.
        """
        return self.authenticate(database_name, username, None, "MONGODB-X509")


def _nonce() -> bytes:
    return token_bytes(32)
