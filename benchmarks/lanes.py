"""
What several lanes buy where the destination is far away: one load, replicated
through a proxy on this machine that adds latency, for each number of lanes.

The rate is taken from the destination's own oplog, from the first write to the
last. The load has no DDL; C{--transactions 0.1} makes a tenth of its batches
transactions, for each of which all lanes have to wait.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Self

from benchmarks.load import Load, finish
from benchmarks.replication import Measured, measure
from txmongokit.testing import Deployment, ServerFailed, ServerNotFound, replica_set

__all__ = ["SlowProxy", "main", "report"]

_START_SECONDS = 10.0


class _End(asyncio.Protocol):
    """One side of a connection; what comes in goes out at the other one, late."""

    def __init__(self, delay: float) -> None:
        self.other: _End | None = None
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._refused = False
        # What is on its way here, in order; None for the end.
        self._coming: deque[bytes | None] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready; what has come before may go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Begins its way."""
        self._send(data)

    def connection_lost(self, reason: Exception | None) -> None:
        """So does the news of the end."""
        self._send(None)

    def refuse(self) -> None:
        """Cannot be connected: what is on its way here is lost, and the other side, too."""
        self._refused = True
        if self.other is not None and self.other._transport is not None:
            self.other._transport.close()

    def _send(self, data: bytes | None) -> None:
        other = self.other
        if other is not None:
            other._coming.append(data)
            self._loop.call_later(self._delay, other._arrive)

    def _arrive(self) -> None:
        if self._refused:
            return
        if self._transport is None:
            self._loop.call_later(self._delay or 0.001, self._arrive)
            return
        data = self._coming.popleft()
        if data is None:
            self._transport.close()
        elif not self._transport.is_closing():
            self._transport.write(data)


class SlowProxy:
    """
    Passes connections on to a server, every byte half a round trip late, in
    a thread of its own.

    @param port: of the server, on this machine.
    @param round_trip: in seconds.
    @ivar port: where it listens, once it has started.
    """

    def __init__(self, port: int, round_trip: float) -> None:
        self.port = 0
        self._server_port = port
        self._delay = round_trip / 2
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._connecting: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(_START_SECONDS):
            raise TimeoutError("the proxy does not listen")
        return self

    def __exit__(self, *raised: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)

    def _run(self) -> None:
        server = self._loop.run_until_complete(
            self._loop.create_server(self._accept, "127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._loop.close()

    def _accept(self) -> _End:
        here, there = _End(self._delay), _End(self._delay)
        here.other, there.other = there, here
        connecting = asyncio.ensure_future(
            self._loop.create_connection(lambda: there, "127.0.0.1", self._server_port)
        )

        def connected(done: asyncio.Future[Any]) -> None:
            self._connecting.discard(done)
            if done.exception() is not None:
                there.refuse()

        self._connecting.add(connecting)
        connecting.add_done_callback(connected)
        return here


def _measure(
    source: Deployment, options: argparse.Namespace, round_trip: float, lanes: int
) -> Measured:
    with (
        replica_set(name="destination", cache_gb=1) as destination,
        SlowProxy(destination.primary().port, round_trip) as proxy,
    ):
        command = [sys.executable, "-m", "txmongokit.oplog", "--from", source.uri]
        command += ["--to", f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"]
        command += ["--resume-file", "none", "--lanes", str(lanes)]
        return measure(f"{lanes} lanes", command, source, destination, options.seconds)


def report(round_trips: Sequence[float], rates: dict[tuple[float, int], float]) -> str:
    """
    A table of operations a second: a line for each round trip.

    @param rates: by round trip (in milliseconds) and number of lanes.
    """
    counts = sorted({count for _, count in rates})
    heads = [f"{count} lane{'s' if count > 1 else ''}" for count in counts]
    lines = ["round trip" + "".join(f"{head:>12}" for head in heads)]
    for round_trip in round_trips:
        found = "".join(f"{rates[round_trip, count]:>12,.0f}" for count in counts)
        lines.append(f"{round_trip:>7g} ms{found}")
    return "\n".join(lines)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--namespaces", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--transactions", type=float, default=0.0, metavar="PART", help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=2, help="of the load; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=600.0, help="a run; default: %(default)s")
    parser.add_argument(
        "--round-trips",
        type=float,
        nargs="+",
        default=[0, 5, 20, 50],
        metavar="MS",
        help="default: 0 5 20 50",
    )
    parser.add_argument(
        "--lanes", type=int, nargs="+", default=[1, 2, 4, 8], help="default: 1 2 4 8"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Measure and print the table.

    @return: the exit code: 0 if everything was equal each time.
    """
    options = _arguments(arguments)
    rates: dict[tuple[float, int], float] = {}
    good = True
    try:
        with replica_set(name="source", cache_gb=1) as source:
            with source.client() as client:
                load = Load(
                    options.operations,
                    options.seed,
                    ddl=False,
                    namespaces=options.namespaces,
                    transactions=options.transactions,
                )
                load.write(client)
                finish(client)
            print(
                f"{options.operations:,} operations, namespaces: {options.namespaces}, "
                f"transactions: {options.transactions:.0%} of the batches"
            )
            for round_trip in options.round_trips:
                for lanes in options.lanes:
                    found = _measure(source, options, round_trip / 1000, lanes)
                    rates[round_trip, lanes] = found.rate
                    good = good and found.good
                    print(f"{round_trip:g} ms {found.report(options.operations)}", flush=True)
    except (ServerFailed, ServerNotFound, TimeoutError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(report(options.round_trips, rates))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
