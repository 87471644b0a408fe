"""
The indexes of a collection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.operations import IndexModel, SearchIndexModel
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.arguments import Keys, key_document
from txmongokit._sansio.commands.base import without_classes
from txmongokit._sansio.commands.indexes import (
    CreateIndexes,
    CreateSearchIndexes,
    DropIndexes,
    DropSearchIndex,
    ListIndexes,
    UpdateSearchIndex,
    without_concerns,
)
from txmongokit._sansio.commands.read import aggregate_command
from txmongokit.cursor import CommandCursor, TimeoutMode
from txmongokit.interfaces import IOperationRunner
from txmongokit.scope import Scope, in_order
from txmongokit.sessions import ClientSession

__all__ = ["IndexedScope"]

# Those of create_index that are the command's, not the index's.
_COMMAND_OPTIONS = frozenset(
    {
        "comment",
        "commit_quorum",
        "commitQuorum",
        "deadline",
        "max_time_ms",
        "maxTimeMS",
        "raw_data",
        "timeout",
    }
)


class IndexedScope(Scope):
    """
    The part of L{txmongokit.collection.Collection} that is about its
    indexes; see there for C{session}, C{timeout} and C{deadline}.
    """

    def __init__(self, runner: IOperationRunner, options: Any, database: str, name: str) -> None:
        super().__init__(runner, options)
        self._database_name = database
        self._name = name

    def create_index(
        self,
        keys: Keys | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[str]:
        """
        Create an index.

        @param keys: C{sort_fields} in TxMongo.
        @param options: those of PyMongo's C{IndexModel} (C{unique},
            C{name}, C{sparse}, C{expireAfterSeconds}, ...) and of
            L{create_indexes}.
        @return: fires with its name.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        keys = options.pop("sort_fields", keys)
        if keys is None:
            raise TypeError("create_index needs the keys of the index")
        command_options = {
            name: options.pop(name) for name in list(options) if name in _COMMAND_OPTIONS
        }
        model = IndexModel(list(key_document("keys", keys).items()), **options)
        created = self.create_indexes([model], session=session, **command_options)
        return created.addCallback(lambda names: names[0])

    def create_indexes(
        self,
        indexes: Sequence[IndexModel],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[list[str]]:
        """
        Create indexes.

        @param options: C{commit_quorum}, C{comment}, C{max_time_ms},
            C{raw_data}.
        @return: fires with their names.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        if not isinstance(indexes, (list, tuple)):
            raise TypeError(f"indexes must be a list of IndexModels, not {type(indexes).__name__}")
        for index in indexes:
            if not isinstance(index, IndexModel):
                raise TypeError(f"indexes must be IndexModels, not {type(index).__name__}")
        limits = self._limits(options)
        documents = [index.document for index in indexes]
        command = CreateIndexes(self._database_name, self._name, limits, documents, **options)
        created = self._run(command, session)
        return created.addCallback(lambda reply: [document["name"] for document in documents])

    def list_indexes(
        self,
        session: ClientSession | None = None,
        comment: Any = None,
        *,
        timeout_mode: TimeoutMode | str | None = None,
        **options: Any,
    ) -> CommandCursor[dict[str, Any]]:
        """
        The indexes, one document for each; none where there is no
        collection.

        @param options: C{batch_size}, C{raw_data}.
        @return: a cursor, which starts on its first use.
        """
        limits = self._limits(options)
        batch_size = options.get("batch_size")
        command = ListIndexes(self._database_name, self._name, limits, comment=comment, **options)
        return CommandCursor(
            self._runner,
            command,
            session,
            batch_size=batch_size,
            comment=comment,
            timeout_mode=timeout_mode,
        )

    def index_information(
        self, session: ClientSession | None = None, comment: Any = None, **options: Any
    ) -> Deferred[dict[str, Any]]:
        """
        The indexes by name: for each the C{key} pairs and its options.
        """

        def by_name(indexes: list[dict[str, Any]]) -> dict[str, Any]:
            found = {}
            for index in indexes:
                index["key"] = list(index["key"].items())
                found[index.pop("name")] = index
            return found

        listed = self.list_indexes(session=session, comment=comment, **options).to_list()
        return listed.addCallback(by_name)

    def drop_index(
        self,
        index_or_name: Keys | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[None]:
        """
        Drop one index, by its name or keys.  That there is no collection is
        no error; that there is no such index is one.

        @param index_or_name: C{index_identifier} in TxMongo.
        @param options: C{comment}, C{max_time_ms}, C{raw_data}.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        index: Any = options.pop("index_identifier", index_or_name)
        if index is None:
            raise TypeError("drop_index needs an index's name or keys")
        limits = self._limits(options)
        if not isinstance(index, str):
            index = "_".join(f"{key}_{way}" for key, way in key_document("keys", index).items())
        command = DropIndexes(self._database_name, self._name, limits, index, **options)
        dropped = self._run(command, session)
        return dropped.addCallback(lambda reply: None)

    def drop_indexes(
        self, *places: Any, session: ClientSession | None = None, **options: Any
    ) -> Deferred[None]:
        """
        Drop all indexes but the one on C{_id}.

        @param options: as in L{drop_index}.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        return self.drop_index("*", session=session, **options)

    # Search indexes.

    def create_search_index(
        self,
        model: Mapping[str, Any] | SearchIndexModel,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[str]:
        """
        Begin to create a search index: only Atlas has them.

        @param model: PyMongo's C{SearchIndexModel}, or its arguments.
        @param options: C{comment}.
        @return: fires with its name.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        created = self.create_search_indexes([model], session=session, **options)
        return created.addCallback(lambda names: names[0])

    def create_search_indexes(
        self,
        models: Sequence[Mapping[str, Any] | SearchIndexModel],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[list[str]]:
        """
        Begin to create search indexes.

        @param options: C{comment}.
        @return: fires with their names.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        limits = self._limits(options)
        documents = [_search_index(model) for model in models]
        command = CreateSearchIndexes(self._database_name, self._name, limits, documents, **options)
        created = self._run(command, session)
        return created.addCallback(
            lambda reply: [index["name"] for index in reply["indexesCreated"]]
        )

    def list_search_indexes(
        self,
        name: str | None = None,
        *places: Any,
        session: ClientSession | None = None,
        batch_size: int | None = None,
        timeout_mode: TimeoutMode | str | None = None,
        **options: Any,
    ) -> CommandCursor[dict[str, Any]]:
        """
        The search indexes, one document for each.

        @param name: of the only one that matters.
        @param options: those of an aggregation.
        @return: a cursor, which starts on its first use.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a search index's name, not {type(name).__name__}")
        limits = without_classes(without_concerns(self._limits(options)))
        stage = {"$listSearchIndexes": {} if name is None else {"name": name}}
        command = aggregate_command(
            self._database_name, self._name, limits, [stage], batch_size=batch_size, **options
        )
        return CommandCursor(
            self._runner,
            command,
            session,
            batch_size=batch_size,
            comment=options.get("comment"),
            timeout_mode=timeout_mode,
        )

    def update_search_index(
        self,
        name: str,
        definition: Mapping[str, Any],
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> Deferred[None]:
        """
        Begin to change a search index.

        @param options: C{comment}.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        limits = self._limits(options)
        command = UpdateSearchIndex(
            self._database_name, self._name, limits, name, definition, **options
        )
        return self._run(command, session).addCallback(lambda reply: None)

    def drop_search_index(
        self, name: str, *places: Any, session: ClientSession | None = None, **options: Any
    ) -> Deferred[None]:
        """
        Drop a search index.  That there is no collection is no error.

        @param options: C{comment}.
        """
        if places:
            session = in_order(("session", "comment"), places, options, session)
        limits = self._limits(options)
        command = DropSearchIndex(self._database_name, self._name, limits, name, **options)
        return self._run(command, session).addCallback(lambda reply: None)


def _search_index(model: Any) -> Mapping[str, Any]:
    if isinstance(model, SearchIndexModel):
        return model.document
    if isinstance(model, Mapping):
        return SearchIndexModel(**model).document
    raise TypeError(
        "a search index is told as a SearchIndexModel or a mapping of its arguments, "
        f"not as {type(model).__name__}"
    )
