"""
What a command is to the layer that runs it.

A L{Command} knows three things: what to send (L{Command.build}), how its
reply's bytes become a document (L{Command.decode}) and what the reply means
(L{Command.parse}).  It never sees a socket, a session or a retry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import bson
from bson.codec_options import DEFAULT_CODEC_OPTIONS, CodecOptions, TypeRegistry
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from txmongokit._sansio.commands.whole import WholeOperation
from txmongokit.types import Address, ConnectionInfo

__all__ = [
    "CREDENTIAL_COMMANDS",
    "GREETINGS",
    "Command",
    "CommandOptions",
    "CursorBatch",
    "DocumentCommand",
    "Request",
    "RunCommand",
    "WholeReply",
    "sendable",
    "without_classes",
]

ResultT = TypeVar("ResultT")

CREDENTIAL_COMMANDS = frozenset(
    {
        "authenticate",
        "saslstart",
        "saslcontinue",
        "getnonce",
        "createuser",
        "updateuser",
        "copydbgetnonce",
        "copydbsaslstart",
        "copydb",
    }
)
"""
Commands that carry credentials, in lower case: never compressed, and nothing
of them is shown (command-logging-and-monitoring and compression
specifications).
"""

GREETINGS = frozenset({"hello", "ismaster"})
"""
The names of C{hello}, in lower case: never compressed, and shown unless they
carry credentials.
"""

# MongoDB 8.2, which knows rawData; to older servers it is not sent (CRUD
# specification).
_RAW_DATA_WIRE_VERSION = 27

_NO_TYPES = TypeRegistry()


class Request(NamedTuple):
    """
    What one command puts on the wire.

    @ivar body: the command document, without C{$db}, session and concerns,
        which the layer that runs it adds.
    @ivar sequences: document sequences (OP_MSG sections of kind 1), each a
        field name and its encoded documents.
    """

    body: dict[str, Any]
    sequences: tuple[tuple[str, Sequence[bytes]], ...] = ()


@dataclass(frozen=True, slots=True)
class CommandOptions:
    """
    How a command is run: inherited from client, database and collection.

    @ivar timeout: seconds that the whole operation may take, retries
        included (client-side-operations-timeout specification); 0 for
        without limit, whatever is inherited, and C{None} where nobody said.
    @ivar timeout_given: whether C{timeout} is the operation's own.
    """

    codec_options: CodecOptions[Any] = DEFAULT_CODEC_OPTIONS
    read_preference: Any = field(default_factory=lambda: ReadPreference.PRIMARY)
    read_concern: ReadConcern = field(default_factory=ReadConcern)
    write_concern: WriteConcern = field(default_factory=WriteConcern)
    timeout: float | None = None
    timeout_given: bool = False


def sendable(body: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
    """
    A copy of a command document, without what the server does not know.
    """
    body = body.copy()
    if "rawData" in body and info.max_wire_version < _RAW_DATA_WIRE_VERSION:
        del body["rawData"]
    return body


def _plain(codec: CodecOptions[Any]) -> CodecOptions[Any]:
    """Codec options without the user's own classes; the same where there are none."""
    if codec.document_class is dict and codec.type_registry == _NO_TYPES:
        return codec
    return codec.with_options(document_class=dict, type_registry=_NO_TYPES)


def without_classes(options: CommandOptions) -> CommandOptions:
    """
    Options of a command whose reply describes what is the server's own:
    collections, indexes, databases.  It is in dicts, whatever users' documents
    are in.
    """
    codec = _plain(options.codec_options)
    return options if codec is options.codec_options else replace(options, codec_options=codec)


class CursorBatch(NamedTuple):
    """
    One reply's worth of a cursor.

    @ivar cursor_id: 0 when the cursor is exhausted.
    @ivar namespace: as the server named it, for getMore and killCursors.
    @ivar documents: decoded documents, or each document's bytes where the
        command asked for raw batches.
    @ivar address: the server that holds the cursor.
    @ivar reply: the whole reply (post-batch resume token and the like).
    @ivar pinned: whether its connection is kept until the cursor's end.
    """

    cursor_id: int
    namespace: str
    documents: list[Any]
    address: Address
    reply: Mapping[str, Any]
    pinned: bool = False


class Command(Generic[ResultT]):
    """
    One database command with its arguments.

    @cvar name: the command's name, as events and errors show it.
    @cvar operation: what it is called where it is traced; empty for C{name}.
    @ivar is_read: whether a read preference and a read concern apply.
    @ivar is_write: whether a write concern applies.
    @ivar follows_read_preference: whether it goes where the read preference
        says although it takes no read concern.
    @ivar retryable: whether it may be tried a second time: with a
        transaction number if C{is_write}, plainly otherwise.
    @ivar database: the name of the database that it addresses.
    @ivar options: concerns, preference, codec and time limit.
    @ivar address: the one server that it must go to, or C{None}.
    @ivar cursor_ids: the open cursors that it is about.
    @ivar shareable: whether it is so short that it may share a busy
        connection with others of its kind.
    @ivar sends_max_time: whether the server is told, as C{maxTimeMS}, how much
        time is left.
    @ivar deadline: when it must have ended, in the runner's seconds, where it
        is one of several commands of one operation; otherwise the runner
        works it out from C{options.timeout}.
    @ivar whole: the operation that it is one of several commands of.
    @ivar size: bytes of the encoded documents that it was given.
    """

    name: ClassVar[str] = ""
    operation: ClassVar[str] = ""
    is_read: bool = False
    is_write: bool = False
    follows_read_preference: bool = False
    retryable: bool = False
    shareable: bool = False
    address: Address | None = None
    cursor_ids: Sequence[int] = ()
    deadline: float | None = None
    sends_max_time: bool = True
    whole: WholeOperation | None = None
    size: int = 0

    def __init__(self, database: str, options: CommandOptions) -> None:
        self.database = database
        self.options = options

    @property
    def namespace(self) -> str:
        """
        What the command is about, for messages: C{database} or
        C{database.collection}.
        """
        return self.database

    def build(self, info: ConnectionInfo) -> Request:
        """
        The request for one server.  May be called again for a retry and
        must then give the same request.

        @raise txmongokit.errors.PyMongoError: the arguments cannot be sent
            to this server (too large, unknown to its version).
        """
        raise TypeError(f"{type(self).__name__} does not say what to send")

    def decode(self, raw: bytes) -> dict[str, Any]:
        """
        The reply as a document.  User documents within it are decoded with
        the command's codec options, everything else with the defaults.
        """
        return bson.decode(raw)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> ResultT:
        """
        What a successful reply means.

        @raise txmongokit.errors.PyMongoError: it reports failed writes.
        """
        raise TypeError(f"{type(self).__name__} does not say what its reply means")

    def tolerates(self, reply: Mapping[str, Any]) -> bool:
        """
        Whether a reply with C{ok: 0} is no error, but for L{parse} to tell
        what it means.
        """
        return False

    def unacknowledged(self) -> ResultT:
        """
        The result where the write concern asks for no reply.
        """
        raise TypeError(f"{type(self).__name__} needs an acknowledged write concern")

    def retrying(self) -> None:
        """
        Called before L{build} when the command is sent again.
        """


class DocumentCommand(Command[ResultT], Generic[ResultT]):
    """
    A command whose document is known before it meets a server.

    @ivar collection: the collection's name, C{None} where it is about a
        whole database.
    @param body: the document.
    """

    def __init__(
        self,
        database: str,
        collection: str | None,
        options: CommandOptions,
        body: dict[str, Any],
    ) -> None:
        super().__init__(database, options)
        self.collection = collection
        self._body = body

    @property
    def namespace(self) -> str:
        """C{database.collection}, or the database alone."""
        return self.database if self.collection is None else f"{self.database}.{self.collection}"

    def build(self, info: ConnectionInfo) -> Request:
        """The same document each time, copied."""
        return Request(sendable(self._body, info))


class WholeReply(Command[dict[str, Any]]):
    """
    A command whose result is the reply, all of it by the codec options.

    What decides about success, and what the session and the client learn from
    each reply, is looked up in a plain one: users' types and classes may be
    neither equal to numbers nor fit to be sent again.
    """

    _raw: bytes | None = None

    def decode(self, raw: bytes) -> dict[str, Any]:
        """The reply without the user's own classes."""
        codec = _plain(self.options.codec_options)
        self._raw = None if codec is self.options.codec_options else raw
        return bson.decode(raw, codec)

    def parse(self, reply: dict[str, Any], info: ConnectionInfo) -> dict[str, Any]:
        """The reply itself."""
        if self._raw is None:
            return reply
        return bson.decode(self._raw, self.options.codec_options)


class RunCommand(WholeReply):
    """
    A command document as the user wrote it.

    @param document: sent as it is; it is copied, never changed.
    @param check: whether C{ok: 0} is an error.
    @param allowable_errors: messages or codes that are no error though
        C{ok} is 0.
    """

    operation = "runCommand"
    follows_read_preference = True

    def __init__(
        self,
        database: str,
        document: Mapping[str, Any],
        options: CommandOptions,
        *,
        check: bool = True,
        allowable_errors: Sequence[str | int] = (),
    ) -> None:
        super().__init__(database, options)
        self.document = document
        self.check = check
        self.allowable_errors = allowable_errors
        self.shareable = len(document) == 1 and "ping" in document

    def build(self, info: ConnectionInfo) -> Request:
        """The document, copied, so that the caller's own is left alone."""
        return Request(dict(self.document))

    def tolerates(self, reply: Mapping[str, Any]) -> bool:
        """
        Whether a reply with C{ok: 0} counts as success for this call.
        """
        if not self.check:
            return True
        return (
            reply.get("errmsg") in self.allowable_errors
            or reply.get("code") in self.allowable_errors
        )
