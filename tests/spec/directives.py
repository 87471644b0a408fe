"""
What tests ask of the runner itself: operations on C{testRunner}.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.spec.deployments import Ground
from tests.spec.entities import Entities
from tests.spec.events import COMMAND, event_name, match_event
from tests.spec.matching import Malformed, Matcher, Mismatch

__all__ = ["Case", "run_directive", "wait_until"]

_PATIENCE = 10.0
_LOOP_SECONDS = 1.0

Arguments = Mapping[str, Any]


class Case(Protocol):
    """
    What directives need of a running case.
    """

    ground: Ground
    entities: Entities
    matcher: Matcher

    async def create_entities(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """Make entities."""

    async def operate(self, operation: Mapping[str, Any]) -> Any:
        """Perform an operation and check what comes of it."""


async def pause(seconds: float) -> None:
    """
    Let the reactor run for a while.
    """
    from twisted.internet import reactor

    await deferLater(reactor, seconds)


async def wait_until(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """
    @raise Mismatch: the condition does not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Mismatch(f"{what}: not within {seconds:g} s")
        await pause(0.01)


async def _fail_point(case: Case, arguments: Arguments) -> None:
    # The format wants it set by the client under test: it then has a connection.
    client = case.entities.get(arguments["client"], "client")
    address = await deferToThread(case.ground.primary)
    command = arguments["failPoint"]
    case.ground.note_fail_point(command["configureFailPoint"], address)
    await client.pool.admin.command(command)


async def _targeted_fail_point(case: Case, arguments: Arguments) -> None:
    session = case.entities.get(arguments["session"], "session").session
    address = session.state.pinned_address
    if address is None:
        raise Mismatch("the session is not pinned")
    await deferToThread(case.ground.set_fail_point, arguments["failPoint"], address)


async def _session_state(case: Case, arguments: Arguments) -> None:
    transaction = case.entities.get(arguments["session"], "session").session.state.transaction
    state = "none" if transaction is None else transaction.state.name.lower()
    if state == "committed_empty":
        state = "committed"
    if state != arguments["state"]:
        raise Mismatch(f"the transaction is {state}, not {arguments['state']}")


def _pinned(wanted: bool) -> Callable[[Case, Arguments], Awaitable[None]]:
    async def check(case: Case, arguments: Arguments) -> None:
        session = case.entities.get(arguments["session"], "session").session
        pinned = getattr(session.state, "pinned_address", None) is not None
        if pinned != wanted:
            raise Mismatch(f"the session is {'' if pinned else 'not '}pinned")

    return check


def _dirty(wanted: bool) -> Callable[[Case, Arguments], Awaitable[None]]:
    async def check(case: Case, arguments: Arguments) -> None:
        if case.entities.get(arguments["session"], "session").server_session.dirty != wanted:
            raise Mismatch(f"the session is {'not ' if wanted else ''}dirty")

    return check


def _lsids(same: bool) -> Callable[[Case, Arguments], Awaitable[None]]:
    async def check(case: Case, arguments: Arguments) -> None:
        recorder = case.entities.get(arguments["client"], "client").recorder
        started = [each for each in recorder.of(COMMAND) if hasattr(each, "command")]
        lsids = [each.command.get("lsid") for each in started[-2:]]
        if len(lsids) < 2 or None in lsids:
            raise Mismatch(f"the last two commands have the lsids {lsids}")
        if (lsids[0] == lsids[1]) != same:
            raise Mismatch(f"the last two lsids are {'not ' if same else ''}the same")

    return check


def _collection(wanted: bool) -> Callable[[Case, Arguments], Awaitable[None]]:
    async def check(case: Case, arguments: Arguments) -> None:
        database = case.ground.client[arguments["databaseName"]]
        names = await deferToThread(database.list_collection_names)
        if (arguments["collectionName"] in names) != wanted:
            raise Mismatch(f"there is {'no' if wanted else 'a'} {arguments['collectionName']}")

    return check


def _index(wanted: bool) -> Callable[[Case, Arguments], Awaitable[None]]:
    async def check(case: Case, arguments: Arguments) -> None:
        database = case.ground.client[arguments["databaseName"]]
        collection = database[arguments["collectionName"]]
        indexes = await deferToThread(collection.index_information)
        if (arguments["indexName"] in indexes) != wanted:
            raise Mismatch(f"there is {'no' if wanted else 'an'} index {arguments['indexName']}")

    return check


async def _checked_out(case: Case, arguments: Arguments) -> None:
    recorder = case.entities.get(arguments["client"], "client").recorder
    if recorder.checked_out != arguments["connections"]:
        raise Mismatch(f"{recorder.checked_out} connections are checked out")


async def _create_entities(case: Case, arguments: Arguments) -> None:
    await case.create_entities(arguments["entities"])


async def _run_on_thread(case: Case, arguments: Arguments) -> None:
    thread = case.entities.get(arguments["thread"], "thread")
    operation = arguments["operation"]
    thread.run(lambda: Deferred.fromCoroutine(case.operate(operation)))


async def _wait_for_thread(case: Case, arguments: Arguments) -> None:
    from twisted.internet import reactor

    thread = case.entities.get(arguments["thread"], "thread")
    joined = thread.join()
    joined.addTimeout(_PATIENCE, reactor)
    await joined


def _count(case: Case, arguments: Arguments) -> int:
    recorder = case.entities.get(arguments["client"], "client").recorder
    count = 0
    for event in recorder.events:
        try:
            match_event(case.matcher, arguments["event"], event)
        except Mismatch:
            continue
        count += 1
    return count


async def _wait_for_event(case: Case, arguments: Arguments) -> None:
    (name,) = arguments["event"]
    recorder = case.entities.get(arguments["client"], "client").recorder
    try:
        await wait_until(lambda: _count(case, arguments) >= arguments["count"], f"event {name}")
    except Mismatch as error:
        seen = ", ".join(event_name(each) for each in recorder.events) or "none"
        raise Mismatch(f"{error}: saw {seen}") from None


async def _event_count(case: Case, arguments: Arguments) -> None:
    count = _count(case, arguments)
    if count != arguments["count"]:
        (name,) = arguments["event"]
        raise Mismatch(f"{count} events {name}, not {arguments['count']}")


async def _record_topology(case: Case, arguments: Arguments) -> None:
    pool = case.entities.get(arguments["client"], "client").pool
    case.entities.add(arguments["id"], "topology", pool.topology_description)


async def _topology_type(case: Case, arguments: Arguments) -> None:
    description = case.entities.get(arguments["topologyDescription"], "topology")
    if description.topology_type_name != arguments["topologyType"]:
        raise Mismatch(f"the topology is {description.topology_type_name}")


def _primary(description: Any) -> Any:
    for address, server in description.server_descriptions().items():
        if server.server_type_name == "RSPrimary":
            return address
    return None


async def _primary_change(case: Case, arguments: Arguments) -> None:
    pool = case.entities.get(arguments["client"], "client").pool
    prior = _primary(case.entities.get(arguments["priorTopologyDescription"], "topology"))

    def changed() -> bool:
        now = _primary(pool.topology_description)
        return now is not None and now != prior

    await wait_until(changed, "another primary", arguments.get("timeoutMS", 10_000) / 1000)


async def _wait(case: Case, arguments: Arguments) -> None:
    await pause(arguments["ms"] / 1000)


async def _loop(case: Case, arguments: Arguments) -> None:
    """
    Run operations again and again, for a second: nobody ends us sooner.
    """
    entities = case.entities
    stores = {}
    for option in ("storeErrorsAsEntity", "storeFailuresAsEntity"):
        if option in arguments:
            entities.add(arguments[option], "value", [])
            stores[option] = entities.value(arguments[option])
    failures = stores.get("storeFailuresAsEntity", stores.get("storeErrorsAsEntity"))
    errors = stores.get("storeErrorsAsEntity", failures)
    iterations = successes = 0
    end = time.monotonic() + _LOOP_SECONDS
    while time.monotonic() < end:
        iterations += 1
        try:
            for operation in arguments["operations"]:
                await case.operate(operation)
                successes += 1
        except Exception as error:
            store = failures if isinstance(error, Mismatch) else errors
            if store is None:
                raise
            store.append({"error": str(error), "time": time.time()})
        await pause(0)
    for option, number in (
        ("storeIterationsAsEntity", iterations),
        ("storeSuccessesAsEntity", successes),
    ):
        if option in arguments:
            entities.add(arguments[option], "value", number)


class _Arguments(dict[str, Any]):
    """
    Arguments; one that is missing is the test's fault.
    """

    def __missing__(self, name: str) -> Any:
        raise Malformed(f"the argument {name!r} is missing")


_DIRECTIVES: dict[str, Callable[[Case, Arguments], Awaitable[None]]] = {
    "assertCollectionExists": _collection(True),
    "assertCollectionNotExists": _collection(False),
    "assertDifferentLsidOnLastTwoCommands": _lsids(False),
    "assertEventCount": _event_count,
    "assertIndexExists": _index(True),
    "assertIndexNotExists": _index(False),
    "assertNumberConnectionsCheckedOut": _checked_out,
    "assertSameLsidOnLastTwoCommands": _lsids(True),
    "assertSessionDirty": _dirty(True),
    "assertSessionNotDirty": _dirty(False),
    "assertSessionPinned": _pinned(True),
    "assertSessionTransactionState": _session_state,
    "assertSessionUnpinned": _pinned(False),
    "assertTopologyType": _topology_type,
    "createEntities": _create_entities,
    "failPoint": _fail_point,
    "loop": _loop,
    "recordTopologyDescription": _record_topology,
    "runOnThread": _run_on_thread,
    "targetedFailPoint": _targeted_fail_point,
    "wait": _wait,
    "waitForEvent": _wait_for_event,
    "waitForPrimaryChange": _primary_change,
    "waitForThread": _wait_for_thread,
}


async def run_directive(case: Case, name: str, arguments: Arguments) -> None:
    """
    Do what a test asks of the runner.

    @raise Malformed: there is no such operation.
    @raise Mismatch: an assertion does not hold.
    """
    directive = _DIRECTIVES.get(name)
    if directive is None:
        raise Malformed(f"the runner has no operation {name!r}")
    await directive(case, _Arguments(arguments))
