"""
Where users and other parts of Twisted plug in.

Each interface's docstring is its specification.
"""

from __future__ import annotations

from zope.interface import Attribute, Interface

__all__ = ["IOperationRunner"]


class IOperationRunner(Interface):
    """
    Whatever runs commands: a client, a client that splits reads from
    writes, or a test's fake.

    Databases, collections and cursors know nothing else of the network.
    """

    options = Attribute(
        "The client's L{txmongokit._sansio.commands.base.CommandOptions}: "
        "what databases and collections inherit."
    )

    def run(command, session=None):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Send a command to a server that suits it and give what its reply
        means.

        @param command: a L{txmongokit._sansio.commands.base.Command}.
        @param session: a L{txmongokit._sansio.transactions.SessionState},
            or C{None} for an implicit one.

        @return: L{twisted.internet.defer.Deferred}, firing with what
            C{command.parse} returns.  Cancelling it stops the wait, never
            retries, and closes the connection if the request was sent: so
            the server learns that nobody waits.
        """

    def run_in_order(commands, session):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Send the commands of a transaction one behind the other, without
        waiting for each reply.

        @param commands: an iterable of
            L{txmongokit._sansio.commands.base.Command}; the next is asked
            for when there is room on the way.
        @param session: the L{txmongokit._sansio.transactions.SessionState}
            that is in the transaction.

        @return: L{twisted.internet.defer.Deferred}, firing with the list of
            what each C{parse} returns; fails with the first command's error
            that failed, when no more replies are to come.  Cancelling it
            closes the connection.
        """

    def stream(command, session, on_result):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Send a command that the server answers many times (exhaust), on a
        connection of its own.

        @param on_result: called with what each reply means, as
            C{command.parse} tells it.  If it returns a Deferred, nothing
            more is read until that has fired.

        @return: L{twisted.internet.defer.Deferred}, firing with C{None} after
            the last reply; fails as L{run} does, without a retry.
            Cancelling it closes the connection.
        """

    def seconds():  # type: ignore[no-untyped-def]  # an interface has no self
        """
        The time that deadlines are told in.
        """

    def sleep(seconds):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        @return: a L{twisted.internet.defer.Deferred} that fires with C{None}
            after as many seconds.
        """

    def soon(function):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Call C{function} without arguments in a later turn of the reactor.

        This only takes note: it may be called from any thread, and while
        garbage is collected.
        """

    def deadline(options):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        When an operation that begins now must have ended: for operations of
        several commands, which each get it as their C{deadline}.

        @param options: its
            L{txmongokit._sansio.commands.base.CommandOptions}; its
            C{timeout} and C{pymongo.timeout()} count, whichever is earlier.

        @return: in L{seconds}; infinity where 0 lifted the limit, C{None}
            where there is none.
        """

    def take_session(**options):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Take a session from the pool, without a round trip.

        @return: a L{txmongokit._sansio.transactions.SessionState}, to be
            given back by L{release_session}.
        """

    def release_session(session):  # type: ignore[no-untyped-def]  # an interface has no self
        """
        Give a session back.  Doing so twice does nothing.
        """
