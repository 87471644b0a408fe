"""
Running one case of a file in the unified test format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import PyMongoError
from twisted.internet.threads import deferToThread

from tests.spec.deployments import Ground
from tests.spec.directives import run_directive, wait_until
from tests.spec.entities import Entities
from tests.spec.events import COMMAND, match_events
from tests.spec.logs import match_messages
from tests.spec.matching import MISSING, Malformed, Matcher, Mismatch
from tests.spec.operations import ROW_OPERATIONS, run_operation
from tests.spec.results import check_error

__all__ = ["Case"]

_INNER = {"client": "pool", "session": "session"}
_FAIL_POINTS = frozenset({"failPoint", "targetedFailPoint"})
_TRANSACTIONS = frozenset({"startTransaction", "withTransaction"})


class Case:
    """
    One case while it runs.

    @param ground: the deployment.
    @param file: the file's content.
    @param test: the case in it.

    @ivar entities: its entity map.
    @ivar matcher: compares with what it expects.
    """

    def __init__(self, ground: Ground, file: Mapping[str, Any], test: Mapping[str, Any]) -> None:
        self.ground = ground
        names = {operation["name"] for operation in test["operations"]}
        self.entities = Entities(ground, bool(names & _FAIL_POINTS))
        self.matcher = Matcher(self.entities.value, self.entities.lsid)
        self._file = file
        self._test = test

    async def run(self) -> None:
        """
        Set up, perform, check and clean up.

        @raise Mismatch: the client did not do what the test expects.
        @raise Malformed: the test makes no sense.
        @raise Unavailable: it needs what cannot be had.
        """
        # Documents in log messages are cut at 1000 characters by default.
        os.environ["MONGODB_LOG_MAX_DOCUMENT_LENGTH"] = "10000"
        failed = True
        try:
            if "initialData" in self._file:
                await deferToThread(self.ground.insert, self._file["initialData"])
            await self.create_entities(self._file.get("createEntities", ()))
            for operation in self._test["operations"]:
                await self.operate(operation)
            self.entities.stop_watching()
            await self._check()
            failed = False
        finally:
            await self._clean_up(failed)

    async def create_entities(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """
        Make entities, and wait for the pools of those clients that want it.
        """
        self.entities.create(specs)
        for item in specs:
            client = item.get("client", {})
            if "awaitMinPoolSizeMS" in client:
                await self._fill_pool(client)

    async def _fill_pool(self, spec: Mapping[str, Any]) -> None:
        entity = self.entities.get(spec["id"], "client")
        least = spec["uriOptions"]["minPoolSize"] * self.ground.servers(
            bool(spec.get("useMultipleMongoses"))
        )
        await wait_until(
            lambda: entity.recorder.ready >= least,
            "minPoolSize",
            spec["awaitMinPoolSizeMS"] / 1000,
        )
        entity.recorder.events.clear()
        if entity.logs is not None:
            entity.logs.messages.clear()

    async def operate(self, operation: Mapping[str, Any]) -> Any:
        """
        Perform an operation and compare what comes of it.

        @return: the result, or the error that was expected.
        """
        name = operation["name"]
        if operation["object"] == "testRunner":
            await run_directive(self, name, operation.get("arguments", {}))
            return None
        kind = self.entities.kind(operation["object"])
        target = self.entities.get(operation["object"], kind)
        if kind in _INNER:
            target = getattr(target, _INNER[kind])
        arguments = self._arguments(name, operation.get("arguments", {}))
        ignored = operation.get("ignoreResultAndError")
        expected = operation.get("expectError")
        try:
            result = await run_operation(kind, target, name, arguments)
        except (Mismatch, Malformed):
            raise
        except Exception as error:
            if ignored:
                if isinstance(error, PyMongoError):
                    return error
                raise Malformed(f"{name}: {error}") from error
            if expected is None:
                raise
            check_error(self.matcher, expected, error)
            return error
        if ignored:
            return result
        if expected is not None:
            raise Mismatch(f"{name}: expected an error, not {result!r}")
        self._check_result(name, operation, result)
        return result

    def _check_result(self, name: str, operation: Mapping[str, Any], result: Any) -> None:
        if "expectResult" in operation:
            wanted = operation["expectResult"]
            if result is None and wanted is not None:
                self.matcher.match(wanted, MISSING)
            elif name in ROW_OPERATIONS:
                self.matcher.match_rows(wanted, result)
            else:
                self.matcher.match(wanted, result, root=True)
        if "saveResultAsEntity" in operation:
            self.entities.save(operation["saveResultAsEntity"], result)

    def _arguments(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        given = dict(arguments)
        if "session" in given:
            given["session"] = self.entities.get(given["session"], "session").session
        if name == "withTransaction":
            operations = given.pop("callback")

            async def callback(session: Any) -> None:
                for operation in operations:
                    outcome = await self.operate(operation)
                    if isinstance(outcome, Exception):
                        raise outcome

            given["callback"] = callback
        return given

    async def _check(self) -> None:
        for wanted in self._test.get("expectEvents", ()):
            recorder = self.entities.get(wanted["client"], "client").recorder
            family = wanted.get("eventType", COMMAND)
            match_events(
                self.matcher,
                wanted["events"],
                recorder.of(family),
                wanted.get("ignoreExtraEvents", False),
            )
        for wanted in self._test.get("expectLogMessages", ()):
            client = self.entities.get(wanted["client"], "client")
            match_messages(self.matcher, wanted, client.messages)
        await deferToThread(self.ground.clear_fail_points)
        for item in self._test.get("outcome", ()):
            found = await deferToThread(
                self.ground.documents, item["databaseName"], item["collectionName"]
            )
            self.matcher.match(list(item["documents"]), found, "outcome")

    async def _clean_up(self, failed: bool) -> None:
        self.entities.stop_watching()
        await deferToThread(self.ground.clear_fail_points)
        transactions = any(
            operation["name"] in _TRANSACTIONS for operation in self._test["operations"]
        )
        if failed or transactions:
            await deferToThread(self.ground.kill_sessions)
        try:
            await self.entities.close()
        except PyMongoError:
            if not failed:
                raise
