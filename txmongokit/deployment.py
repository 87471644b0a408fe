"""
What a client does with a deployment as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pymongo.results import ClientBulkWriteResult
from pymongo.write_concern import WriteConcern
from twisted.internet.defer import Deferred

from txmongokit._sansio.commands.admin import ListDatabases, ServerInformation
from txmongokit._sansio.commands.base import CommandOptions
from txmongokit._sansio.commands.clientbulk import ClientBulkWrite
from txmongokit._sansio.transactions import bound_session
from txmongokit.bulkwrite import WriteModel, run_client_bulk
from txmongokit.changestream import WATCHED, ChangeStream
from txmongokit.cursor import CommandCursor, TimeoutMode
from txmongokit.database import Database
from txmongokit.errors import InvalidOperation
from txmongokit.interfaces import IOperationRunner
from txmongokit.scope import Scope, changed, in_order, written_in
from txmongokit.sessions import ClientSession, session_state

__all__ = ["Deployment"]

DocumentT = TypeVar("DocumentT", bound=Mapping[str, Any])


class Deployment(Generic[DocumentT]):
    """
    The part of a client that is about all its databases; to be inherited by
    what is an L{IOperationRunner}.

    See L{txmongokit.collection.Collection} for C{session}, C{timeout} and
    C{deadline}.

    @ivar options: what databases and collections inherit.
    """

    options: CommandOptions

    def _scope(self) -> _Scope:
        return _Scope(self, self.options)  # type: ignore[arg-type]  # what inherits it is a runner

    def list_databases(
        self,
        session: ClientSession | None = None,
        comment: Any = None,
        *,
        timeout_mode: TimeoutMode | str | None = None,
        **options: Any,
    ) -> CommandCursor[dict[str, Any]]:
        """
        The databases, one document for each.

        @param options: C{filter}, C{name_only}, C{authorized_databases}.
        @return: a cursor, which starts on its first use.
        """
        scope = self._scope()
        limits = scope.limits(options)
        return CommandCursor(
            scope.runner,
            ListDatabases(limits, comment=comment, **options),
            session,
            timeout_mode=timeout_mode,
        )

    def list_database_names(
        self, session: ClientSession | None = None, comment: Any = None, **options: Any
    ) -> Deferred[list[str]]:
        """
        The names of the databases.

        @param options: C{filter}, C{authorized_databases}.
        """
        listed = self.list_databases(
            **{"session": session, "comment": comment, "name_only": True, **options}
        ).to_list()
        return listed.addCallback(lambda found: [item["name"] for item in found])

    def drop_database(
        self,
        name_or_database: str | Database[Any],
        session: ClientSession | None = None,
        comment: Any = None,
        **options: Any,
    ) -> Deferred[None]:
        """
        Drop a database.
        """
        name = name_or_database
        if isinstance(name, Database):
            name = name.name
        if not isinstance(name, str):
            raise TypeError(
                "a database is named by a string or the database itself, "
                f"not {type(name_or_database).__name__}"
            )
        return Database(self._scope().runner, name).drop(
            session=session, comment=comment, **options
        )

    def server_info(
        self, session: ClientSession | None = None, **options: Any
    ) -> Deferred[dict[str, Any]]:
        """
        Which version of the server answers, and how it was built.
        """
        scope = self._scope()
        limits = scope.limits(options)
        return scope.run(ServerInformation(limits, **options), session)

    def watch(
        self,
        pipeline: Sequence[Mapping[str, Any]] | None = None,
        *places: Any,
        session: ClientSession | None = None,
        **options: Any,
    ) -> ChangeStream[DocumentT]:
        """
        The changes to all databases; see
        L{txmongokit.collection.Collection.watch}.
        """
        if places:
            session = in_order(WATCHED, places, options, session)
        scope = self._scope()
        limits = scope.limits(options)
        return ChangeStream(
            scope.runner, "admin", None, limits, pipeline, session, whole_deployment=True, **options
        )

    def bulk_write(
        self,
        models: Iterable[WriteModel[Any]],
        session: ClientSession | None = None,
        ordered: bool = True,
        verbose_results: bool = False,
        bypass_document_validation: bool | None = None,
        comment: Any = None,
        let: Mapping[str, Any] | None = None,
        write_concern: WriteConcern | None = None,
        **options: Any,
    ) -> Deferred[ClientBulkWriteResult]:
        """
        Run many writes on any collections, in few messages.  It needs
        MongoDB 8.0.

        @param models: PyMongo's C{InsertOne}, C{UpdateOne}, C{UpdateMany},
            C{ReplaceOne}, C{DeleteOne} and C{DeleteMany}, each with its
            C{namespace}.
        @param ordered: run them in their order and stop at the first that
            fails; otherwise all are tried.
        @param verbose_results: whether the result is to tell each
            operation's.
        @param options: C{raw_data}.
        @return: fires with the result; fails with
            L{txmongokit.errors.ClientBulkWriteException}, which tells what
            was done.

        @raise InvalidOperation: there is nothing to write, or what an
            unacknowledged write concern cannot have is asked for.
        """
        if isinstance(models, (str, Mapping)) or not isinstance(models, Iterable):
            raise TypeError(f"models must be a list of operations, not {type(models).__name__}")
        scope = self._scope()
        state = bound_session(scope.runner) if session is None else session_state(session)
        limits = scope.limits(options)
        if state is not None:
            if state.in_transaction and write_concern is not None:
                raise InvalidOperation("Cannot set write concern after starting a transaction")
            limits = written_in(state, limits)
        limits = changed(limits, {"write_concern": write_concern})
        if not limits.write_concern.acknowledged:
            # The words are PyMongo's: the drivers' tests look for them.
            if verbose_results:
                raise InvalidOperation(
                    "Cannot request unacknowledged write concern and verbose results"
                )
            if ordered:
                raise InvalidOperation(
                    "Cannot request unacknowledged write concern and ordered writes"
                )
        bulk = ClientBulkWrite(
            limits,
            ordered=ordered,
            verbose=verbose_results,
            bypass_document_validation=bypass_document_validation,
            comment=comment,
            let=let,
            **options,
        )
        for model in models:
            bulk.add(model)
        bulk.check()
        return run_client_bulk(scope.runner, bulk, state)


class _Scope(Scope):
    """A client's own operations."""

    @property
    def runner(self) -> IOperationRunner:
        """What runs them."""
        return self._runner

    limits = Scope._limits
    run = Scope._run
