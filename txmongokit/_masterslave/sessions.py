"""
Sessions of a client that consists of several.
"""

from __future__ import annotations

from typing import Any

from txmongokit._sansio.commands.base import Command
from txmongokit._sansio.transactions import SessionState
from txmongokit.connection import ConnectionPool

__all__ = ["MasterSession", "SplitSession"]


class MasterSession(SessionState):
    """
    An explicit session: its master's, which the client that consists of
    several may use as its own.

    @param state: the master's own, which nobody else uses any more.
    @param client: whose session it is now.
    """

    __slots__ = ("_master",)

    def __init__(self, state: SessionState, client: Any) -> None:
        super().__init__(
            state.server_session,
            client=client,
            explicit=True,
            causal_consistency=state.causal_consistency,
            snapshot=state.snapshot,
            snapshot_time=state.snapshot_time,
            default_transaction_options=state.default_transaction_options,
            default_timeout=state.default_timeout,
        )
        self.trace = state.trace
        self._master = state.client

    def admit(self, command: Command[Any], client: Any) -> None:
        """
        See L{SessionState.admit}.  The master runs what its owner was given.
        """
        super().admit(command, self.client if client is self._master else client)


class SplitSession(SessionState):
    """
    An implicit session: one of each connection that it is used on, as no
    server is to learn of another deployment's sessions and times.

    @ivar home: the connection that it was used on last, which is the one that
        holds its cursor.
    """

    __slots__ = ("_states", "home")

    def __init__(self) -> None:
        super().__init__(None)
        self.home: ConnectionPool[Any] | None = None
        self._states: dict[ConnectionPool[Any], SessionState] = {}

    def at(self, pool: ConnectionPool[Any]) -> SessionState:
        """
        The session to use on a connection.
        """
        self.home = pool
        state = self._states.get(pool)
        if state is None:
            state = self._states[pool] = pool.take_session()
        return state

    def release(self) -> None:
        """
        Give everything back.
        """
        states, self._states = self._states, {}
        for pool, state in states.items():
            pool.release_session(state)
