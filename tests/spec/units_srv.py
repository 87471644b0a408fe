"""
Seed lists from DNS, by a resolver that has the records which the
specification's tests ask for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError
from twisted.python.failure import Failure

from tests.spec.units_case import Case, expect, load
from tests.spec.units_options import said
from txmongokit._net.srv import SrvResolver
from txmongokit.errors import PyMongoError
from txmongokit.options import ClientOptions, read_client_options
from txmongokit.types import format_address

__all__ = ["SERVICES", "TEXTS", "RecordedResolver", "seed_lists"]

_DOMAIN = "test.build.10gen.cc"
_TTL = 86400


def _service(name: str, *targets: str, service: str = "mongodb") -> tuple[str, Any]:
    """One name's SRV records; targets as C{host} or C{host:port}."""
    pairs = [each.partition(":") for each in targets]
    return f"_{service}._tcp.{name}", [(host, int(port or 27017)) for host, _, port in pairs]


_LOCAL = f"localhost.{_DOMAIN}"
SERVICES: Mapping[str, list[tuple[str, int]]] = dict(
    [
        _service(f"test1.{_DOMAIN}", _LOCAL, f"{_LOCAL}:27018"),
        _service(f"test2.{_DOMAIN}", f"{_LOCAL}:27018", f"{_LOCAL}:27019"),
        *(
            _service(f"test{number}.{_DOMAIN}", _LOCAL)
            for number in (3, 5, 6, 7, 8, 10, 11, 20, 21)
        ),
        _service(f"test12.{_DOMAIN}", "localhost.build.10gen.cc"),
        _service(f"test13.{_DOMAIN}", "test.build.10gen.cc"),
        _service(f"test14.{_DOMAIN}", "localhost.not-test.build.10gen.cc"),
        _service(f"test15.{_DOMAIN}", "localhost.test.not-build.10gen.cc"),
        _service(f"test16.{_DOMAIN}", "localhost.test.build.not-10gen.cc"),
        _service(f"test17.{_DOMAIN}", "localhost.test.build.10gen.not-cc"),
        _service(f"test18.{_DOMAIN}", f"localhost.sub.{_DOMAIN}"),
        _service(f"test19.{_DOMAIN}", "localhost.evil.build.10gen.cc", _LOCAL),
        _service(f"test22.{_DOMAIN}", _LOCAL, f"{_LOCAL}:27018", service="customname"),
        _service(f"test23.{_DOMAIN}", f"{_LOCAL}:8000"),
        _service(f"test24.{_DOMAIN}", f"{_LOCAL}:8000"),
        _service("build.10gen.cc", "build.10gen.cc"),
        _service(_DOMAIN, _DOMAIN),
    ]
)
"""The SRV records."""

TEXTS: Mapping[str, list[tuple[bytes, ...]]] = {
    f"test5.{_DOMAIN}": [(b"replicaSet=repl0&authSource=thisDB",)],
    f"test6.{_DOMAIN}": [(b"replicaSet=repl0",), (b"authSource=otherDB",)],
    f"test7.{_DOMAIN}": [(b"ssl=false",)],
    f"test8.{_DOMAIN}": [(b"authSource",)],
    f"test10.{_DOMAIN}": [(b"socketTimeoutMS=500",)],
    f"test11.{_DOMAIN}": [(b"replicaS", b"et=rep", b"l0")],
    f"test20.{_DOMAIN}": [(b"loadBalanced=true",)],
    f"test21.{_DOMAIN}": [(b"loadBalanced=false",)],
    f"test24.{_DOMAIN}": [(b"loadBalanced=true",)],
}
"""The TXT records, each a tuple of its strings."""


class RecordedResolver:
    """
    An L{twisted.internet.interfaces.IResolver}, as much of it as is asked,
    that answers at once.

    @param services: hosts and ports by the name of the service.
    @param texts: TXT records by name.
    @param ttl: how long every record is good for, in seconds.
    """

    def __init__(
        self,
        services: Mapping[str, list[tuple[str, int]]] = SERVICES,
        texts: Mapping[str, list[tuple[bytes, ...]]] = TEXTS,
        ttl: int = _TTL,
    ) -> None:
        self.services = services
        self.texts = texts
        self.ttl = ttl
        self.asked: list[str] = []

    def lookupService(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """
        Look up SRV records.
        """
        return self._answer(
            name,
            [
                dns.Record_SRV(0, 5, port, host, ttl=self.ttl)
                for host, port in self.services.get(name, ())
            ],
        )

    def lookupText(self, name: str, timeout: Any = None) -> Deferred[Any]:
        """
        Look up TXT records.
        """
        return self._answer(
            name, [dns.Record_TXT(*strings, ttl=self.ttl) for strings in self.texts.get(name, ())]
        )

    def _answer(self, name: str, records: list[Any]) -> Deferred[Any]:
        self.asked.append(name)
        if not records:
            return fail(DNSNameError(name))
        answers = [
            dns.RRHeader(name, each.TYPE, dns.IN, each.ttl, payload=each) for each in records
        ]
        return succeed((answers, [], []))


def _resolved(uri: str) -> ClientOptions:
    results: list[Any] = []
    resolver = SrvResolver(Clock(), Random(1), RecordedResolver())
    resolver.resolve(read_client_options(uri)).addBoth(results.append)
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    assert isinstance(result, ClientOptions)
    return result


def _seed_list(case: Mapping[str, Any]) -> None:
    """All but the connection to the servers behind the names."""
    if case.get("error"):
        try:
            _resolved(case["uri"])
        except PyMongoError:
            return
        raise AssertionError(f"{case['uri']} was resolved")
    options = _resolved(case["uri"])
    if "seeds" in case:
        expect(sorted(map(format_address, options.seeds)), sorted(case["seeds"]), "the seeds")
    if "numSeeds" in case:
        expect(len(options.seeds), case["numSeeds"], "the number of seeds")
    values = said(options)
    for name, value in case.get("options", {}).items():
        expect(values.get(name.lower()), value, name)
    user = options.credentials
    for name, value in case.get("parsed_options", {}).items():
        actual = {
            "user": user and user.username,
            "password": user and user.password,
            "db": options.default_database,
            "defaultDatabase": options.default_database,
            "auth_database": options.default_database,
        }[name]
        expect(actual, value, name)


def seed_lists(path: Path) -> Iterator[Case]:
    """
    Initial DNS seedlist discovery specification.
    """
    case = load(path)
    yield Case(case.get("comment", path.stem), partial(_seed_list, case))
