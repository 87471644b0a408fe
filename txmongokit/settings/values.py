"""
What settings mean together: servers, a database, and options.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from txmongokit.connection import ConnectionPool, MongoConnection
from txmongokit.errors import ConfigurationError, PyMongoError
from txmongokit.masterslave import MasterSlaveConnection
from txmongokit.settings.keys import PLACES, SPLITTING, Setting, plain, read_keys
from txmongokit.types import format_address
from txmongokit.uri import read_uri

__all__ = ["MongoSettings", "read_settings"]

HostPort = tuple[str, int]
_PORT = 27017
# What is true of a whole deployment, and not of a slave that is asked by itself.
_OF_THE_MASTER = ("replicaset", "directconnection", "loadbalanced")


@dataclass(frozen=True, slots=True)
class MongoSettings:
    """
    Settings, read and checked; nothing is connected.

    @ivar prefix: what their keys begin with.
    @ivar uri: the connection string, C{None} where hosts were given.
    @ivar masters: the hosts that were given, of one deployment.
    @ivar slaves: each for itself; empty for none.
    @ivar database: the name of the application's database.
    @ivar options: arguments of L{ConnectionPool}, and those of
        L{MasterSlaveConnection} about staleness.
    """

    prefix: str
    uri: str | None = field(repr=False)
    masters: tuple[HostPort, ...]
    slaves: tuple[HostPort, ...]
    database: str
    options: Mapping[str, Any] = field(repr=False)

    def connection(self, **arguments: Any) -> ConnectionPool | MasterSlaveConnection:
        """
        A new client, which connects when it must.

        @param arguments: more of L{ConnectionPool}'s, such as C{reactor} or
            C{event_listeners}.

        @return: with slaves a L{MasterSlaveConnection}, else a
            L{ConnectionPool}; for one host it is a L{MongoConnection}.

        @raise ConfigurationError: settings contradict one another or an
            argument.
        """
        given = {plain(name): name for name in self.options}
        for name in arguments:
            if plain(name) in given:
                raise ConfigurationError(
                    f"{self.prefix}{given[plain(name)]} is also an argument, {name}: give one"
                )
        options = {**self.options, **arguments}
        splitting = {name: options.pop(name) for name in SPLITTING if name in options}
        if splitting and not self.slaves:
            raise ConfigurationError(
                f"{self.prefix}{next(iter(splitting))} is for slaves: name them by "
                f"{self.prefix}slave_hosts, or leave it out"
            )
        try:
            master = self._master(options)
            return self._split(master, options, splitting) if self.slaves else master
        except (PyMongoError, TypeError) as error:
            raise ConfigurationError(
                f"the settings {self.prefix}* cannot be used: {error}"
            ) from error

    def _split(
        self, master: ConnectionPool, options: dict[str, Any], splitting: dict[str, Any]
    ) -> MasterSlaveConnection:
        """Reads from slaves, each asked by itself, whatever it is a member of."""
        own = {name: each for name, each in options.items() if plain(name) not in _OF_THE_MASTER}
        own["directConnection"] = True
        slaves = [MongoConnection(host, port, **own) for host, port in self.slaves]
        codec = master.codec_options
        return MasterSlaveConnection(
            master, slaves, codec.document_class, codec.tz_aware, **splitting
        )

    def _master(self, options: dict[str, Any]) -> ConnectionPool:
        if self.uri is not None:
            return ConnectionPool(self.uri, **options)
        if len(self.masters) == 1:
            host, port = self.masters[0]
            return MongoConnection(host, port, **options)
        seeds = ",".join(map(format_address, self.masters))
        return ConnectionPool(f"mongodb://{seeds}", **options)


def read_settings(mapping: Mapping[str, Any], prefix: str = "mongo.") -> MongoSettings:
    """
    Read settings without making anything of them.

    @param mapping: keys with the prefix: C{db}; C{master_host} and
        C{master_port}; C{slave_hosts} and C{slave_ports}, with commas
        between several; or C{uri} instead of hosts; any option of
        L{ConnectionPool} in any spelling, and L{MasterSlaveConnection}'s
        C{max_staleness}, C{staleness_interval} and C{when_stale}; and with C{_file} behind its name
        the file that a password or the connection string is in.  Keys
        without the prefix are left alone.  A table by the prefix's name will
        do, too.

    @raise ConfigurationError: a key is not known, a value is not allowed, or
        keys contradict one another; the error names them.
    """
    found = read_keys(mapping, prefix)
    places = {name: found.pop(name, Setting(f"{prefix}{name}", None)) for name in PLACES}
    uri, master = places["uri"], places["master_host"]
    slaves = _addresses(places["slave_hosts"], places["slave_ports"], [])
    if uri.value is None:
        masters = _addresses(master, places["master_port"], ["127.0.0.1"])
    else:
        _check_alone(places)
        masters = ()
    if slaves and master.value is None:
        raise ConfigurationError(
            f"{places['slave_hosts'].key} needs {master.key}: name the host that is written to"
        )
    return MongoSettings(
        prefix,
        uri.value,
        masters,
        slaves,
        _database(places["db"], uri),
        {name: setting.value for name, setting in found.items()},
    )


def _check_alone(places: Mapping[str, Setting]) -> None:
    """A connection string says all about the servers."""
    uri = places["uri"]
    if not isinstance(uri.value, str):
        raise uri.refused("must be text", shown=False)
    for name in ("master_host", "master_port", "slave_hosts", "slave_ports"):
        other = places[name]
        if other.value not in (None, ""):
            why = "which has the hosts already" if "master" in name else "whose options are its own"
            mend = "" if "master" in name else ", and write the master as master_host"
            raise ConfigurationError(
                f"{other.key} does not go with {uri.key}, {why}: leave one out{mend}"
            )


def _database(setting: Setting, uri: Setting) -> str:
    name = setting.value
    if name is None and uri.value is not None:
        try:
            name = read_uri(uri.value).database
        except ConfigurationError as error:
            raise ConfigurationError(f"{uri.key}: {error}") from None
    if name is None:
        raise ConfigurationError(f"{setting.key} is missing: name the application's database")
    if not isinstance(name, str):
        raise setting.refused("must be the name of a database")
    return name


def _addresses(hosts: Setting, ports: Setting, default: list[str]) -> tuple[HostPort, ...]:
    """Each host with its port."""
    names = default if hosts.value is None else hosts.parts()
    numbers = [] if ports.value is None else [_port(ports, text) for text in ports.parts()]
    addresses = [_address(hosts, name) for name in names]
    if not addresses:
        if numbers:
            raise ConfigurationError(f"{ports.key} needs {hosts.key}: name the hosts")
        if default and hosts.value is not None:
            raise hosts.refused("names no host: give one or leave the key out")
        return ()
    if numbers and any(port is not None for _, port in addresses):
        raise ConfigurationError(
            f"{hosts.key} has ports already: leave {ports.key} out, or write the hosts without them"
        )
    if len(numbers) not in (0, 1, len(names)):
        raise ConfigurationError(
            f"{hosts.key} has {_counted(names, 'host')} and {ports.key} has "
            f"{_counted(numbers, 'port')}: give one port for each host, or one for all"
        )
    given = numbers or [_PORT]
    if len(given) == 1:
        given *= len(names)
    return tuple(
        (host, port if own is None else own)
        for (host, own), port in zip(addresses, given, strict=True)
    )


def _counted(items: Sized, noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _address(setting: Setting, text: str) -> tuple[str, int | None]:
    """A host, and its port where that is written behind it."""
    host, port = text, None
    found = re.fullmatch(r"\[([^]]*)\](?::([^:]*))?|([^:]*):([^:]*)", text)
    if found:
        bracketed, own, named, other = found.groups()
        host = named if bracketed is None else bracketed
        tail = own if bracketed is not None else other
        port = None if tail is None else _port(setting, tail)
    if ":" in host or (found and found[1] is not None):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _no_host(setting, text) from None
    elif not re.fullmatch(r"[\w.-]+", host):
        raise _no_host(setting, text)
    return host, port


def _no_host(setting: Setting, text: str) -> ConfigurationError:
    return setting.refused(
        f"cannot be used: {setting.quoted(text)} must be a host's name or address (a connection "
        "string or a Unix socket goes into a uri)"
    )


def _port(setting: Setting, text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise setting.refused(
            f"cannot be used: {setting.quoted(text)} must be a whole number 1 to 65535"
        )
    return int(text)
