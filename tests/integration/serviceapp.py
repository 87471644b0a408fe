"""
An application with a L{MongoService}, run by C{test_service} under one reactor
after the other: C{python -m tests.integration.serviceapp REACTOR URI}.

Prints C{clean} when the service has stopped and left nothing behind.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

__all__ = ["install", "main"]


def install(name: str) -> None:
    """Install a reactor: one of Twisted's by its short name, or C{uvloop}."""
    from twisted.application.reactors import installReactor
    from twisted.internet import asyncioreactor

    if name == "uvloop":
        # By name, for it is not always there.
        asyncioreactor.install(importlib.import_module("uvloop").new_event_loop())
    elif name == "asyncio":
        asyncioreactor.install(asyncio.new_event_loop())
    else:
        installReactor(name)


def main(name: str, uri: str) -> None:
    """Start the application, use its client, stop it and look at what is left."""
    install(name)
    from twisted.application.service import MultiService
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred, gatherResults
    from twisted.internet.task import deferLater, react

    from txmongokit.errors import AutoReconnect
    from txmongokit.service import MongoService

    reactor: Any = installed

    def left() -> list[str]:
        found = [*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()]
        return sorted(map(repr, found))

    async def use(_: Any) -> None:
        # What the reactor itself needs is there once it runs.
        await deferLater(reactor, 0)
        before = left()
        application = MultiService()
        service = MongoService(uri, serverSelectionTimeoutMS=20000)
        service.setServiceParent(application)
        application.startService()
        things = service.client["shop"]["things"]
        await gatherResults([things.insert_one({"_id": number}) for number in range(50)])
        assert len(await things.find().to_list()) == 50
        waiting = things.find_one({"$where": "sleep(60000)"})
        await deferLater(reactor, 0.2)
        await application.stopService()
        try:
            await waiting
        except AutoReconnect:
            pass
        else:
            raise AssertionError("the operation under way did not fail")
        after = left()
        assert after == before, f"left behind: {after}, not {before}"
        print("clean", type(reactor).__name__)

    react(lambda _: Deferred.fromCoroutine(use(_)))


if __name__ == "__main__":
    main(*sys.argv[1:])
