"""
The pool of connections, as a topology makes it, with connections that are
only imagined: one is established as fast as the case's fail point lets
C{hello} be answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from bson.objectid import ObjectId
from pymongo import monitoring as events
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.spec.units_case import Case, load
from txmongokit._net.observation import Observer
from txmongokit._net.topology import Topology
from txmongokit.errors import AutoReconnect, PyMongoError, WaitQueueTimeoutError
from txmongokit.options import read_client_options
from txmongokit.types import Address, ConnectionInfo

__all__ = ["pool"]

_ADDRESS = ("a", 27017)
_STEP = 0.005
_PATIENCE = 20.0
_ANYTHING = (42, "42")
# The address comes first in every error of ours; what it is called is the specification's affair.
_ERRORS = {"PoolClosedError": AutoReconnect, "WaitQueueTimeoutError": WaitQueueTimeoutError}


class _Connection:
    """What a pool looks at of a protocol."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(_ADDRESS, 0)
        self.closed = False
        self.idle = True
        self.on_drained: Callable[[], None] | None = None
        self.on_lost: Callable[[Exception], None] | None = None

    def abort(self, reason: Exception) -> None:
        """Close at once."""
        self.closed = True
        self.idle = False
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost(reason)


class _Connector:
    """Establishes connections after a while; monitors' never."""

    def __init__(self, clock: Clock, delay: float) -> None:
        self._clock = clock
        self._delay = delay

    def prepare(self) -> None:
        """Nothing is needed."""

    def connect(self, address: Address, monitoring: bool = False, **options: Any) -> Deferred[Any]:
        """Connect."""
        if monitoring:
            return Deferred()
        timer: Any = None
        attempt: Deferred[Any] = Deferred(lambda _: timer.cancel())
        timer = self._clock.callLater(self._delay, lambda: attempt.callback(_Connection()))
        return attempt


class _Recorder(events.ConnectionPoolListener):
    """Keeps what it is told, as the specification writes it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def _keep(self, event: Any) -> None:
        name = type(event).__name__.removesuffix("Event")
        told = {"type": f"Connection{name}" if name.startswith("Pool") else name}
        for ours, theirs in (
            ("address", "address"),
            ("connection_id", "connectionId"),
            ("duration", "duration"),
            ("interrupt_connections", "interruptInUseConnections"),
            ("options", "options"),
            ("reason", "reason"),
        ):
            if hasattr(event, ours):
                told[theirs] = getattr(event, ours)
        self.seen.append(told)

    pool_created = pool_ready = pool_cleared = pool_closed = _keep
    connection_created = connection_ready = connection_closed = _keep
    connection_check_out_started = connection_check_out_failed = _keep
    connection_checked_out = connection_checked_in = _keep

    def count(self, kind: str) -> int:
        """How often something happened."""
        return sum(each["type"] == kind for each in self.seen)


class _Thread:
    """Operations one after another."""

    def __init__(self) -> None:
        self._last: Deferred[Any] = succeed(None)
        self._waiting = 0
        self.error: BaseException | None = None

    def do(self, action: Callable[[], Any]) -> None:
        """Do something after all that came before."""
        self._waiting += 1
        self._last.addCallback(lambda _: action())
        self._last.addErrback(self._failed)
        self._last.addBoth(self._done)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        return self._waiting > 0

    def _failed(self, failure: Failure) -> None:
        if self.error is None:
            self.error = failure.value

    def _done(self, _: Any) -> None:
        self._waiting -= 1


class _Play:
    """One case."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        settings = dict(case.get("poolOptions", {}))
        self._upkeep = settings.pop("backgroundThreadIntervalMS", 10) > 0
        options = read_client_options("mongodb://a", connection_sharing=1, **settings)
        blocked = case.get("failPoint", {}).get("data", {}).get("blockTimeMS", 1)
        self.clock = Clock()
        self.recorder = _Recorder()
        self.topology = Topology(
            self.clock,
            options,
            _Connector(self.clock, blocked / 1000.0),  # type: ignore[arg-type]  # imagined
            Observer([self.recorder], ObjectId()),
            Random(1),
        )
        self.topology.start()
        self.pool = self.topology.server(_ADDRESS).pool
        self._timeout = options.wait_queue_timeout
        self._labels: dict[str, Any] = {}
        self._threads: dict[str, _Thread] = {}
        self._main = _Thread()

    def do(self, operation: Mapping[str, Any]) -> None:
        """One operation, in its thread."""
        action = partial(getattr(self, f"_{_snake(operation['name'])}"), operation)
        if "thread" in operation:
            self._threads[operation["thread"]].do(action)
            return
        if operation["name"] in ("start", "wait", "waitForEvent", "waitForThread"):
            action()
            return
        self._main.do(action)
        self._until(lambda: not self._main.busy, "the main thread waits")
        if self._main.error is not None:
            raise self._main.error

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self.clock.seconds() + _PATIENCE
        while not condition():
            if self.clock.seconds() > deadline:
                raise AssertionError(what)
            self._pass(_STEP)

    def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)
        if self._upkeep and self.pool.ready:
            self.pool.maintain()

    def _start(self, operation: Mapping[str, Any]) -> None:
        self._threads[operation["target"]] = _Thread()

    def _wait(self, operation: Mapping[str, Any]) -> None:
        until = self.clock.seconds() + operation["ms"] / 1000.0
        while self.clock.seconds() < until:
            self._pass(_STEP)

    def _wait_for_thread(self, operation: Mapping[str, Any]) -> None:
        thread = self._threads[operation["target"]]
        self._until(lambda: not thread.busy, f"{operation['target']} waits")
        if thread.error is not None:
            raise thread.error

    def _wait_for_event(self, operation: Mapping[str, Any]) -> None:
        kind, count = operation["event"], operation["count"]
        self._until(lambda: self.recorder.count(kind) >= count, f"{kind} did not come")

    def _check_out(self, operation: Mapping[str, Any]) -> Deferred[None]:
        def got(connection: Any) -> None:
            self._labels[operation.get("label", "")] = connection

        return self.pool.check_out(self._timeout).addCallback(got)

    def _check_in(self, operation: Mapping[str, Any]) -> None:
        self.pool.check_in(self._labels[operation["connection"]])

    def _clear(self, operation: Mapping[str, Any]) -> None:
        interrupt = operation.get("interruptInUseConnections", False)
        self.pool.clear(AutoReconnect("cleared by the test"), interrupt_in_use=interrupt)

    def _close(self, operation: Mapping[str, Any]) -> None:
        self.pool.close()

    def _ready(self, operation: Mapping[str, Any]) -> None:
        self.pool.resume()


def _snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name)


def _matches(actual: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(
            _matches(actual.get(name), value) for name, value in wanted.items()
        )
    if wanted in _ANYTHING and not isinstance(wanted, bool):
        return actual is not None
    return bool(actual == wanted)


def _run(case: Mapping[str, Any]) -> None:
    play = _Play(case)
    wanted_error = case.get("error")
    try:
        try:
            for operation in case["operations"]:
                play.do(operation)
        except PyMongoError as error:
            if wanted_error is None or not isinstance(error, _ERRORS[wanted_error["type"]]):
                raise
        else:
            if wanted_error is not None:
                raise AssertionError(f"there was no {wanted_error['type']}")
        ignored = case.get("ignore", ())
        told = [each for each in play.recorder.seen if each["type"] not in ignored]
    finally:
        play.topology.close()
    for number, wanted in enumerate(case["events"]):
        if number == len(told):
            raise AssertionError(f"event {number} did not come: {wanted}")
        if not _matches(told[number], wanted):
            raise AssertionError(f"event {number} is {told[number]}, not {wanted}")


def pool(path: Path) -> Iterator[Case]:
    """
    Connection monitoring and pooling specification.
    """
    case = load(path)
    yield Case(case["description"], partial(_run, case))
