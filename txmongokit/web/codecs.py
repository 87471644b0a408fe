"""
How session data becomes documents, and bytes that nobody else can read.

A store has a codec, which makes a document that BSON can encode of a
session's data, and possibly a cipher, which makes the bytes of that document
unreadable.  Keys with dots, dollar signs, NULs and percent signs are the
store's own business: no codec has to care.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zope.interface import Attribute, Interface, implementer

__all__ = ["BSONCodec", "ISessionCipher", "ISessionCodec", "ModbCodec"]


class ISessionCodec(Interface):
    """
    Data to documents and back.  C{jaraco.modb} itself, the module, is one as
    well: C{ModbCodec} loads it.
    """

    def encode(data):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Make a document of a session's data, without changing the data.

        @param data: a C{dict}: of a session, or of one of its keys alone,
            which is how changes are merged.
        @return: a mapping of strings to what BSON can encode.
        @raise Exception: any; the store makes L{InvalidSessionData
            <txmongokit.web.errors.InvalidSessionData>} of it.
        """

    def decode(document):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Make data of what L{encode} made.

        @return: a C{dict}, which the caller may change.
        @raise Exception: any; the store makes L{SessionUnreadable
            <txmongokit.web.errors.SessionUnreadable>} of it.
        """


class ISessionCipher(Interface):
    """
    Bytes to bytes that only holders of a key can read and make.
    """

    newest = Attribute("The name of the key that L{seal} uses, a C{str}.")
    accepts_plain = Attribute(
        "Whether sessions are read that are not encrypted, whoever has written them."
    )

    def seal(packed, place):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Encrypt and authenticate.

        @param packed: the session's data as BSON.
        @param place: bytes that tell which session that is; L{open} fails
            with others.
        @return: bytes.
        """

    def open(sealed, place):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        The opposite of L{seal}, with whatever key that was.

        @raise txmongokit.web.errors.SessionUnreadable: the bytes were changed,
            are another session's, or their key is unknown.
        """


@implementer(ISessionCodec)
class BSONCodec:
    """
    What BSON can encode, and nothing else: strings, numbers, dates, bytes,
    ids, C{None}, and lists and dictionaries of those.  Tuples come back as
    lists.
    """

    def encode(self, data: dict[str, Any]) -> Mapping[str, Any]:
        """
        The data itself.
        """
        return data

    def decode(self, document: dict[str, Any]) -> dict[str, Any]:
        """
        The document itself.
        """
        return document


@implementer(ISessionCodec)
class ModbCodec:
    """
    Objects of any class, by C{jaraco.modb} (extra C{txmongokit[modb]}).

    B{Unsafe where others can write to the database}: whoever changes a stored
    session chooses which classes are made of it, and so can run code in the
    web server.  A cipher keeps them from that, one that does not accept plain
    sessions; nothing else does.  To encrypt what there is, stop the web
    servers, run L{rotate<txmongokit.web.store.MongoSessionStore.rotate>} in a
    program of its own, which decodes nothing, and start them with a cipher
    that does not accept plain sessions.

    @raise ImportError: C{jaraco.modb} is not installed.
    """

    def __init__(self) -> None:
        try:
            from jaraco import modb
        except ImportError as error:
            raise ImportError(
                "ModbCodec needs jaraco.modb: pip install 'txmongokit[modb]'"
            ) from error
        self._modb = modb

    def encode(self, data: dict[str, Any]) -> Mapping[str, Any]:
        """
        A document that names the classes of what is in it.
        """
        encoded: Mapping[str, Any] = self._modb.encode(data)
        return encoded

    def decode(self, document: dict[str, Any]) -> dict[str, Any]:
        """
        The objects again.  Their classes must be importable.
        """
        decoded: dict[str, Any] = self._modb.decode(document)
        return decoded
