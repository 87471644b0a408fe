"""
A soak: two replica sets under load, and C{twistd mongosync} between them,
while one after the other of the replicator, the source's primary and the
destination's primary is killed (SIGKILL) at a random moment and comes back.

Ends with 0 only if the replicator went on by itself every time, both sides
are equal (C{dbHash}, options, indexes; capped appends in count and order),
and the destination's oplog shows each batch once, without a gap. The same
seed draws the same kills; the load goes on between them, so its length does
not repeat.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bson import Timestamp
from pymongo import InsertOne, ReplaceOne, UpdateOne
from pymongo.errors import PyMongoError

from benchmarks.load import Client, checkpoint_gaps, differences, finish
from benchmarks.main_job import JobFailed, Replicator
from txmongokit.testing import (
    Deployment,
    Member,
    ServerFailed,
    ServerNotFound,
    replica_set,
)

__all__ = ["Churn", "Soak", "main", "plan", "verdict"]

REPLICATOR, SOURCE, DESTINATION = "replicator", "source", "destination"
_VICTIMS = (REPLICATOR, SOURCE, DESTINATION)
_DATABASE = "soak"
_PLAIN = ("a", "b", "c")
_CAPPED = "appended"
_UNIQUE = "unique"
_DOCUMENTS = 400
_POLL_SECONDS = 0.1
# A primary that is away refuses at once: the load does not spin then.
_REFUSED_SECONDS = 0.05


def plan(kills: int, seed: int) -> list[tuple[str, float]]:
    """
    Whom to kill, and how many seconds after the one before: each of the
    three about equally often, in a random order.
    """
    draw = random.Random(seed)
    victims = [_VICTIMS[number % len(_VICTIMS)] for number in range(kills)]
    draw.shuffle(victims)
    # Often soon enough to hit what the kill before has set going.
    return [(victim, draw.choice((0.1, 0.5, 1.5)) * (0.5 + draw.random())) for victim in victims]


class Churn:
    """
    A load of everything, in threads, that outlives elections: what a server
    refuses meanwhile is counted and left.

    @ivar done: how many actions have succeeded, by name.
    @ivar refused: how many have not.
    """

    def __init__(self, source: Deployment, seed: int, threads: int = 2) -> None:
        self.done: Counter[str] = Counter()
        self.refused = 0
        self._source = source
        self._stopping = threading.Event()
        self._appended = 0
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(f"{seed} {number}"),))
            for number in range(threads)
        ]

    def prepare(self) -> None:
        """
        Make the collections.
        """
        with self._source.client() as client:
            database = client[_DATABASE]
            database.create_collection(_CAPPED, capped=True, size=64 << 20)
            database[_UNIQUE].create_index("name", unique=True)
            for name in _PLAIN:
                database[name].insert_many(
                    [{"_id": number, "n": 0, "tags": []} for number in range(_DOCUMENTS)]
                )

    def start(self) -> None:
        """
        Begin to write.
        """
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """
        Write no more.
        """
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(60)

    def _work(self, draw: random.Random) -> None:
        actions: dict[str, tuple[int, Callable[[Client, random.Random], Any]]] = {
            "write": (60, _write),
            "find_and_modify": (10, _find_and_modify),
            "transact": (12, _transact),
            "append": (12, self._append),
            "unique": (5, _write_unique),
            "ddl": (1, _change_schema),
        }
        names = list(actions)
        weights = [actions[name][0] for name in names]
        with self._source.client(w="majority", serverSelectionTimeoutMS=5000) as client:
            while not self._stopping.is_set():
                (name,) = draw.choices(names, weights)
                try:
                    actions[name][1](client, draw)
                except PyMongoError:
                    # Counted and printed: a load meets these while primaries are killed.
                    self.refused += 1
                    time.sleep(_REFUSED_SECONDS)  # It would spin while nobody answers.
                else:
                    with self._lock:
                        self.done[name] += 1
                time.sleep(draw.random() * 0.02)

    def _append(self, client: Client, draw: random.Random) -> None:
        with self._lock:
            first = self._appended
            self._appended += 5
        client[_DATABASE][_CAPPED].insert_many([{"_id": first + number} for number in range(5)])


def _write(client: Client, draw: random.Random) -> None:
    statements: list[InsertOne[dict[str, Any]] | UpdateOne | ReplaceOne[dict[str, Any]]] = []
    collection = client[_DATABASE][draw.choice(_PLAIN)]
    gone = []
    for _ in range(draw.randrange(1, 40)):
        number = draw.randrange(_DOCUMENTS)
        dice = draw.random()
        if dice < 0.3:
            fresh = draw.getrandbits(48)
            statements.append(InsertOne({"_id": fresh, "n": 0, "text": "x" * draw.randrange(300)}))
        elif dice < 0.6:
            statements.append(UpdateOne({"_id": number}, {"$inc": {"n": 1, "deep.n": 1}}))
        elif dice < 0.75:
            push = {"tags": {"$each": [draw.randrange(99)], "$slice": -6}}
            statements.append(UpdateOne({"_id": number}, {"$push": push}))
        elif dice < 0.9:
            new = {"n": draw.randrange(1000), "tags": []}
            statements.append(ReplaceOne({"_id": number}, new, upsert=True))
        else:
            gone.append(number)
    if statements:
        collection.bulk_write(statements, ordered=draw.random() < 0.5)
    if gone:
        collection.delete_many({"_id": {"$in": gone}})


def _find_and_modify(client: Client, draw: random.Random) -> None:
    collection = client[_DATABASE][draw.choice(_PLAIN)]
    collection.find_one_and_update({"_id": draw.randrange(_DOCUMENTS)}, {"$inc": {"n": 1}})


def _transact(client: Client, draw: random.Random) -> None:
    amount = draw.randrange(1, 9)
    numbers = draw.sample(range(_DOCUMENTS), 4)
    with client.start_session() as session, session.start_transaction():
        for sign, number in zip((1, -1, 1, -1), numbers, strict=True):
            client[_DATABASE][draw.choice(_PLAIN)].update_one(
                {"_id": number}, {"$inc": {"balance": sign * amount}}, session=session
            )
        client[_DATABASE]["ledger"].insert_one(
            {"_id": draw.getrandbits(48), "amount": amount}, session=session
        )


def _write_unique(client: Client, draw: random.Random) -> None:
    collection = client[_DATABASE][_UNIQUE]
    name = f"name {draw.randrange(30)}"
    # Names wander from one document to another.
    collection.delete_one({"name": name})
    collection.insert_one({"_id": draw.getrandbits(48), "name": name})


def _change_schema(client: Client, draw: random.Random) -> None:
    database = client[_DATABASE]
    passing = database[f"passing{draw.randrange(3)}"]
    dice = draw.randrange(6)
    if dice == 0:
        database[draw.choice(_PLAIN)].create_index([("n", draw.choice((1, -1)))])
    elif dice == 1:
        database[draw.choice(_PLAIN)].drop_indexes()
    elif dice == 2:
        passing.insert_one({"n": 1})
        passing.create_index("n", sparse=True)
    elif dice == 3:
        passing.drop()
    elif dice == 4:
        passing.rename(f"renamed{draw.randrange(2)}", dropTarget=True)
    else:
        database.command("collMod", "a", validator={"n": {"$gte": draw.randrange(-9, 0)}})


class Soak:
    """
    One run.

    @param say: takes a line for each kill.
    @param options: the replicator's, besides the usual ones.
    """

    def __init__(
        self,
        source: Deployment,
        destination: Deployment,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
        options: Sequence[str] = (),
    ) -> None:
        self.churn = Churn(source, seed)
        log = destination.folder / "mongosync.log"
        self.replicator = Replicator(source, destination, log, *options)
        self._sets = {SOURCE: source, DESTINATION: destination}
        self._say = say
        self._there = destination.client()
        self._here = source.client(w="majority")

    def run(self, kills: Sequence[tuple[str, float]], seconds: float) -> None:
        """
        Kill, and wait until the destination has the last write.

        @param kills: what L{plan} gives.
        @param seconds: how long the end may take after the last kill.
        @raise JobFailed: the replicator ended by itself or did not get there.
        """
        self.churn.prepare()
        self.replicator.start()
        self._until(lambda: self._position() is not None, "the first checkpoint", seconds)
        self.churn.start()
        for number, (victim, pause) in enumerate(kills, 1):
            time.sleep(pause)
            self._kill(victim)
            self._say(f"{number:>4} {victim:<11} {self._state()}")
        self.churn.stop()
        for name in self._sets:
            self._whole(name)
        end = finish(self._here)
        self._until(
            lambda: (self._position() or Timestamp(0, 0)) >= end, "the end of the load", seconds
        )
        self.replicator.check()

    def close(self) -> None:
        """
        End the load and the replicator.
        """
        self.churn.stop()
        self.replicator.kill(signal.SIGTERM)
        self._here.close()
        self._there.close()

    def differences(self) -> Iterator[str]:
        """
        What is wrong now that everything should be equal.
        """
        yield from verdict(self._here, self._there)

    def _kill(self, victim: str) -> None:
        self.replicator.check()
        if victim == REPLICATOR:
            self.replicator.kill()
            self.replicator.start()
            return
        # A second member down would leave no majority, which is another test.
        self._whole(victim)
        primary = self._sets[victim].primary()
        primary.kill()
        primary.start()

    def _whole(self, name: str) -> None:
        for member in self._sets[name].members:
            self._until(lambda member=member: _serves(member), f"{name} to be whole", 60)  # type: ignore[misc]

    def _position(self) -> Any:
        try:
            # Lanes have checkpoints of their own beside it.
            found = self._there["txmongokit"]["mongosync"].find_one({"lane": None}) or {}
        except PyMongoError:
            return None
        return found.get("ts")

    def _state(self) -> str:
        done = sum(self.churn.done.values())
        return f"{done:,} actions done, {self.churn.refused} refused"

    def _until(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            self.replicator.check()
            if time.monotonic() > deadline:
                raise JobFailed(
                    f"Waited {seconds:.0f} s for {what}. The replicator's log:\n"
                    f"{self.replicator.log_tail()}"
                )
            time.sleep(_POLL_SECONDS)


def _serves(member: Member) -> bool:
    try:
        with member.client(serverSelectionTimeoutMS=1000) as client:
            state = client.admin.command("isMaster")
    except PyMongoError:
        return False
    return bool(state.get("ismaster") or state.get("secondary"))


def verdict(source: Client, destination: Client) -> Iterator[str]:
    """
    What tells the two sides apart, and what is odd in the destination's oplog.
    """
    yield from differences(source, destination)
    yield from checkpoint_gaps(destination)
    appended = [
        [found["_id"] for found in client[_DATABASE][_CAPPED].find().sort("$natural", 1)]
        for client in (source, destination)
    ]
    if appended[0] != appended[1]:
        yield (
            f"{_DATABASE}.{_CAPPED}: {len(appended[0])} here and {len(appended[1])} there, or in "
            "another order"
        )
    if not appended[0]:
        yield f"{_DATABASE}.{_CAPPED} is empty: the load did not run"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--members", type=int, default=3, help="of each set; default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="for the end; default: %(default)s"
    )
    parser.add_argument(
        "--lanes", type=int, default=1, help="of the replicator; default: %(default)s"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the soak.

    @return: the exit code.
    """
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s {line}", flush=True)

    try:
        with (
            replica_set(options.members, name="source") as source,
            replica_set(options.members, name="destination") as destination,
        ):
            lanes = ("--lanes", str(options.lanes))
            soak = Soak(source, destination, options.seed, say, lanes)
            try:
                soak.run(plan(options.kills, options.seed), options.seconds)
                wrong = list(soak.differences())
            finally:
                soak.close()
    except (JobFailed, ServerFailed, ServerNotFound, PyMongoError) as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; everything is cleaned up.", file=sys.stderr)
        return 130
    print(f"{dict(soak.churn.done)}, {soak.churn.refused} refused")
    print(*(["NOT EQUAL:", *wrong] if wrong else ["EQUAL, and every batch once."]), sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
