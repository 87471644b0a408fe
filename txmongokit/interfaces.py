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

    def run(command, session=None):  # type: ignore[no-untyped-def]
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

    def take_session(**options):  # type: ignore[no-untyped-def]
        """
        Take a session from the pool, without a round trip.

        @return: a L{txmongokit._sansio.transactions.SessionState}, to be
            given back by L{release_session}.
        """

    def release_session(session):  # type: ignore[no-untyped-def]
        """
        Give a session back.  Doing so twice does nothing.
        """
