"""
The connection string and keyword arguments, as typed values.

Strings die here: whatever an option's text was, from here on it is a number,
a flag or one of PyMongo's value objects.  Nothing is dropped in silence: what
is not known is warned of, and what security depends on is refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from random import Random
from typing import Any, Literal

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeRegistry
from pymongo.driver_info import DriverInfo
from pymongo.monitoring import (
    CommandListener,
    ConnectionPoolListener,
    ServerHeartbeatListener,
    ServerListener,
    TopologyListener,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import (
    Nearest,
    Primary,
    PrimaryPreferred,
    ReadPreference,
    Secondary,
    SecondaryPreferred,
)
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern

from txmongokit._pymongo import is_public_suffix
from txmongokit.credentials import (
    HUMAN_SECONDS,
    WITH_PASSWORD,
    Credentials,
    check_source,
    check_user,
    mechanism_properties,
)
from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.types import Address
from txmongokit.uri import (
    COMPRESSORS,
    ConnectionString,
    option_name,
    read_keywords,
    read_options,
    read_uri,
)

__all__ = [
    "KEYWORDS",
    "ClientOptions",
    "Credentials",
    "ProxyOptions",
    "SrvOptions",
    "TLSOptions",
    "apply_srv",
    "check_srv_host",
    "check_supported",
    "parse_options",
    "read_client_options",
]

_READ_PREFERENCES = {
    "primary": Primary,
    "primaryPreferred": PrimaryPreferred,
    "secondary": Secondary,
    "secondaryPreferred": SecondaryPreferred,
    "nearest": Nearest,
}
_LISTENERS = (
    CommandListener,
    ConnectionPoolListener,
    ServerHeartbeatListener,
    ServerListener,
    TopologyListener,
)
# Server monitoring specification.
_SHORTEST_HEARTBEAT = 0.5
# RFC 1929.
_LONGEST_LOGIN = 255


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """
    What of the server's certificate is verified, and ours.

    @ivar crl_file: PEM file of revoked certificates.
    @ivar disable_ocsp_endpoint_check: ask no responder of a certificate.
    @ivar disable_certificate_revocation_check: do not ask at all whether a
        certificate was revoked.
    """

    ca_file: str | None = None
    certificate_key_file: str | None = None
    certificate_key_file_password: str | None = field(default=None, repr=False)
    allow_invalid_certificates: bool = False
    allow_invalid_hostnames: bool = False
    crl_file: str | None = None
    disable_ocsp_endpoint_check: bool = False
    disable_certificate_revocation_check: bool = False


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """
    The SOCKS5 proxy in between.
    """

    host: str
    port: int = 1080
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SrvOptions:
    """
    What a C{mongodb+srv} connection string asks of DNS.

    @ivar host: the name that was given, in lower case.
    @ivar max_hosts: how many of the hosts to use, 0 for all.
    @ivar allowed_suffix: the domain, with its leading dot, that the hosts
        must be in; C{None} for the domain of C{host}.
    @ivar host_validator: judges each host instead, C{True} or C{False}.
    @ivar load_balanced_given: whether the TXT record may not say otherwise.
    """

    host: str
    service_name: str = "mongodb"
    max_hosts: int = 0
    allowed_suffix: str | None = None
    host_validator: Callable[[str], bool] | None = None
    load_balanced_given: bool = False


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """
    Everything that a client can be told.  Times are in seconds.

    @ivar seeds: empty with C{srv}, until L{apply_srv}.
    @ivar srv: what to ask DNS, for a C{mongodb+srv} connection string.
    @ivar auth_source: C{authSource} as it was given; the one that counts is
        that of C{credentials}.
    @ivar timeout: C{timeoutMS}: C{None} where it was not given, 0 for
        operations without a limit.
    @ivar max_pool_size: 0 for no limit.
    @ivar wait_queue_size: how many may wait for a connection to one server at
        the most, C{None} for any number, each for C{wait_queue_timeout};
        C{wait_queue_multiple} says it as a multiple of C{max_pool_size}.
    @ivar connection_sharing: how many point commands may be under way on one
        connection, 1 for an exclusive one; C{None} leaves it to the pool.
        With an explicit C{maxPoolSize} it is 1 unless it was given, too.
    """

    seeds: tuple[Address, ...]
    srv: SrvOptions | None = None
    replica_set: str | None = None
    direct_connection: bool = False
    load_balanced: bool = False
    default_database: str | None = None
    app_name: str | None = None
    driver: DriverInfo | None = None
    credentials: Credentials | None = None
    auth_source: str | None = None
    tls: TLSOptions | None = None
    proxy: ProxyOptions | None = None
    connect_timeout: float | None = 20.0
    socket_timeout: float | None = None
    server_selection_timeout: float = 30.0
    server_monitoring_mode: Literal["auto", "stream", "poll"] = "auto"
    heartbeat_frequency: float = 10.0
    min_heartbeat: float = 0.5
    local_threshold: float = 0.015
    server_selector: Callable[[Any], Any] | None = None
    timeout: float | None = None
    max_pool_size: int = 100
    min_pool_size: int = 0
    max_idle_time: float | None = None
    max_connecting: int = 2
    wait_queue_timeout: float = 30.0
    wait_queue_size: int | None = None
    wait_queue_multiple: int | None = None
    connection_sharing: int | None = None
    retry_reads: bool = True
    retry_writes: bool = True
    max_adaptive_retries: int = 2
    enable_overload_retargeting: bool = False
    compressors: tuple[str, ...] = ()
    zlib_compression_level: int = -1
    read_preference: Any = field(default_factory=lambda: ReadPreference.PRIMARY)
    read_concern: ReadConcern = field(default_factory=ReadConcern)
    write_concern: WriteConcern = field(default_factory=WriteConcern)
    codec_options: CodecOptions[Any] = field(default_factory=CodecOptions)
    server_api: ServerApi | None = None
    event_listeners: tuple[Any, ...] = ()


_OBJECTS: Mapping[str, Any] = {
    "authoidcallowedhosts": list,
    "codec_options": CodecOptions,
    "document_class": object,
    "driver": DriverInfo,
    "read_preference": tuple(_READ_PREFERENCES.values()),
    "read_concern": ReadConcern,
    "write_concern": WriteConcern,
    "server_api": ServerApi,
    "type_registry": TypeRegistry,
    "tzinfo": tzinfo,
    "username": str,
    "password": str,
}
"""Keyword arguments that are no URI options, and what each must be."""

_CALLABLES = ("server_selector", "srv_host_validator")
_UNSUPPORTED = {"auto_encryption_opts": "client-side field level encryption"}
KEYWORDS = (*_OBJECTS, *_CALLABLES, *_UNSUPPORTED, "event_listeners", "connection_sharing")
"""Every keyword argument that a connection string cannot give."""


def parse_options(uri: str, **kwargs: Any) -> ClientOptions:
    """
    Read a connection string, for a client of this version: see
    L{read_client_options} and L{check_supported}.
    """
    options, notes = _read(uri, kwargs)
    check_supported(options)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return options


def read_client_options(uri: str, **kwargs: Any) -> ClientOptions:
    """
    Read a connection string, without any DNS.

    Follows the connection-string, URI options, authentication, SOCKS5 and
    initial-dns-seedlist-discovery specifications.  What they tell to warn of
    and to ignore is a C{UserWarning}: options that are not known, and wrong
    values in the URI.  A wrong value of a keyword argument is an error, and
    so is all that is wrong with an option that security depends on (C{tls*},
    C{auth*}, C{proxy*}).

    @param uri: C{mongodb://...}, C{mongodb+srv://...}, or hosts without a
        scheme.
    @param kwargs: options by their URI names, in any case and with or
        without underscores; each overrides the URI's.  Also C{username} and
        C{password}, unescaped; as objects C{codec_options},
        C{document_class}, C{type_registry}, C{tzinfo}, C{read_preference},
        C{read_concern}, C{write_concern}, C{server_api} and C{driver}; the
        callables C{server_selector} and C{srv_host_validator};
        C{event_listeners}, instances of L{pymongo.monitoring}'s listeners;
        and C{connection_sharing}, how many point commands may be under way on
        one connection.

    @raise ConfigurationError: a value is not allowed, or options contradict
        one another.
    @raise InvalidURI: the string cannot be read.
    @raise TypeError: a listener or a callable is none.
    """
    options, notes = _read(uri, kwargs)
    for note in notes:
        warnings.warn(note, UserWarning, stacklevel=2)
    return options


def _read(uri: str, kwargs: dict[str, Any]) -> tuple[ClientOptions, list[str]]:
    if not isinstance(uri, str):
        raise TypeError(f"uri must be a str, not {type(uri).__name__}")
    objects = _take_objects(kwargs)
    connection = read_uri(uri)
    keywords, notes = read_keywords(kwargs)
    taken = _Taken({**connection.options, **keywords})
    _check_contradictions(taken)
    notes = [*connection.warnings, *notes]
    options = _assemble(connection, taken, objects, notes)
    _check_together(options)
    return options, notes


def check_supported(options: ClientOptions) -> None:
    """
    Refuse what a specification allows and this version cannot do.

    @raise ConfigurationError: a password is missing, or a file cannot be read.
    """
    credentials = options.credentials
    if credentials is not None and credentials.lacks_password:
        raise ConfigurationError(
            f"user {credentials.username!r} has no password: write mongodb://user:password@host"
        )
    if options.tls is not None:
        for name, path in (
            ("tlsCAFile", options.tls.ca_file),
            ("tlsCertificateKeyFile", options.tls.certificate_key_file),
            ("tlsCRLFile", options.tls.crl_file),
        ):
            if path is not None:
                _check_file(name, path)


def _check_file(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"{name}={path!r} cannot be read: {reason}") from None


class _Taken:
    """Options as they are used up, so that none is forgotten."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def take(self, name: str, default: Any = None) -> Any:
        return self._values.pop(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def left(self) -> list[str]:
        return sorted(self._values)


def _take_objects(kwargs: dict[str, Any]) -> dict[str, Any]:
    objects = {name: kwargs.pop(name) for name in KEYWORDS if name in kwargs}
    objects = {name: value for name, value in objects.items() if value is not None}
    for name, value in objects.items():
        if name in _UNSUPPORTED:
            raise ConfigurationError(
                f"{name}: {_UNSUPPORTED[name]} is not supported by this version: leave it out"
            )
        if name in _CALLABLES and not callable(value):
            raise TypeError(f"{name} must be a callable, not a {type(value).__name__}")
        wanted = _OBJECTS.get(name)
        if wanted is not None and not isinstance(value, wanted):
            wanted = "a read preference" if isinstance(wanted, tuple) else f"a {wanted.__name__}"
            raise ConfigurationError(f"{name} must be {wanted}, not a {type(value).__name__}")
    listeners = objects.get("event_listeners", ())
    if not isinstance(listeners, (list, tuple)):
        raise TypeError(f"event_listeners must be a list, not a {type(listeners).__name__}")
    for each in listeners:
        if not isinstance(each, _LISTENERS):
            allowed = ", ".join(listener.__name__ for listener in _LISTENERS)
            raise TypeError(f"{each!r} is no event listener: it must be one of {allowed}")
    sharing = objects.get("connection_sharing")
    if sharing is not None and (type(sharing) is not int or sharing < 1):
        raise ConfigurationError(
            f"connection_sharing={sharing!r} must be a whole number of at least 1, "
            "which turns sharing off"
        )
    return objects


# URI options specification, "Conflicting TLS options".
_CONTRADICTIONS = (
    ("tlsInsecure", "tlsAllowInvalidCertificates"),
    ("tlsInsecure", "tlsAllowInvalidHostnames"),
    ("tlsInsecure", "tlsDisableOCSPEndpointCheck"),
    ("tlsInsecure", "tlsDisableCertificateRevocationCheck"),
    ("tlsAllowInvalidCertificates", "tlsDisableOCSPEndpointCheck"),
    ("tlsAllowInvalidCertificates", "tlsDisableCertificateRevocationCheck"),
    ("tlsDisableOCSPEndpointCheck", "tlsDisableCertificateRevocationCheck"),
)


def _check_contradictions(taken: _Taken) -> None:
    for one, other in _CONTRADICTIONS:
        if one.lower() in taken and other.lower() in taken:
            raise ConfigurationError(f"{one} and {other} contradict one another: leave one out")


def _check_together(options: ClientOptions) -> None:
    """What hosts and topology options demand of one another."""
    srv = options.srv
    several = len(options.seeds) > 1
    if options.direct_connection and (several or srv is not None):
        raise ConfigurationError(
            "directConnection=true allows one host only, and no mongodb+srv://: leave it out"
        )
    if options.load_balanced:
        if several:
            raise ConfigurationError("loadBalanced=true allows one host only: leave it out")
        if options.replica_set is not None or options.direct_connection:
            other = "directConnection" if options.direct_connection else "replicaSet"
            raise ConfigurationError(f"loadBalanced=true contradicts {other}: leave one out")
    if srv is not None and srv.max_hosts:
        if options.replica_set is not None:
            raise ConfigurationError("srvMaxHosts contradicts replicaSet: leave one out")
        if options.load_balanced:
            raise ConfigurationError("srvMaxHosts contradicts loadBalanced=true: leave one out")


def _assemble(
    connection: ConnectionString, taken: _Taken, objects: Mapping[str, Any], notes: list[str]
) -> ClientOptions:
    sharing = objects.get("connection_sharing")
    if sharing is None and "maxpoolsize" in taken:
        sharing = 1
    credentials, auth_source = _credentials(connection, taken, objects)
    selection_timeout = taken.take("serverselectiontimeoutms", 30.0)
    options = ClientOptions(
        seeds=() if connection.is_srv else connection.hosts,
        srv=_srv(connection, taken, objects),
        replica_set=_replica_set(taken),
        direct_connection=taken.take("directconnection", False),
        load_balanced=taken.take("loadbalanced", False),
        default_database=connection.database,
        app_name=taken.take("appname"),
        driver=objects.get("driver"),
        credentials=credentials,
        auth_source=auth_source,
        tls=_tls(taken, implied=connection.is_srv),
        proxy=_proxy(taken),
        connect_timeout=taken.take("connecttimeoutms", 20.0) or None,
        socket_timeout=taken.take("sockettimeoutms") or None,
        server_selection_timeout=selection_timeout,
        server_monitoring_mode=taken.take("servermonitoringmode", "auto"),
        heartbeat_frequency=_heartbeat(taken),
        local_threshold=taken.take("localthresholdms", 0.015),
        server_selector=objects.get("server_selector"),
        timeout=taken.take("timeoutms"),
        max_pool_size=taken.take("maxpoolsize", 100),
        min_pool_size=taken.take("minpoolsize", 0),
        max_idle_time=taken.take("maxidletimems") or None,
        max_connecting=taken.take("maxconnecting", 2),
        # A wait of nothing could never see a connection made.
        wait_queue_timeout=taken.take("waitqueuetimeoutms")
        or _usual_wait(selection_timeout, credentials),
        wait_queue_size=taken.take("waitqueuesize"),
        wait_queue_multiple=taken.take("waitqueuemultiple"),
        connection_sharing=sharing,
        retry_reads=taken.take("retryreads", True),
        retry_writes=taken.take("retrywrites", True),
        max_adaptive_retries=taken.take("maxadaptiveretries", 2),
        enable_overload_retargeting=taken.take("enableoverloadretargeting", False),
        compressors=_compressors(taken, notes),
        zlib_compression_level=taken.take("zlibcompressionlevel", -1),
        read_preference=_read_preference(taken, objects),
        read_concern=_read_concern(taken, objects),
        write_concern=_write_concern(taken, objects),
        codec_options=_codec_options(taken, objects),
        server_api=objects.get("server_api"),
        event_listeners=tuple(objects.get("event_listeners", ())),
    )
    _check_pool(options)
    _take_without_effect(taken, notes)
    return options


def _usual_wait(selection_timeout: float, credentials: Credentials | None) -> float:
    human = credentials is not None and credentials.of_human
    return (selection_timeout or 30.0) + (HUMAN_SECONDS if human else 0.0)


def _take_without_effect(taken: _Taken, notes: list[str]) -> None:
    # Connecting is always on first use.
    taken.take("connect")
    if taken.take("serverselectiontryonce"):
        notes.append(
            "serverSelectionTryOnce=true is for drivers with one thread and is ignored: a server "
            "is looked for until serverSelectionTimeoutMS is over"
        )
    left = [option_name(each) for each in taken.left()]
    if left:
        raise ConfigurationError(f"{left[0]} is not supported by this version: leave it out")


def _check_pool(options: ClientOptions) -> None:
    if options.max_pool_size and options.min_pool_size > options.max_pool_size:
        raise ConfigurationError(
            f"minPoolSize={options.min_pool_size} is larger than "
            f"maxPoolSize={options.max_pool_size}: lower it"
        )


def _heartbeat(taken: _Taken) -> float:
    heartbeat: float = taken.take("heartbeatfrequencyms", 10.0)
    if heartbeat < _SHORTEST_HEARTBEAT:
        raise ConfigurationError(
            f"heartbeatFrequencyMS={heartbeat * 1000:g} is too small: use 500 or more"
        )
    return heartbeat


def _replica_set(taken: _Taken) -> str | None:
    replica_set: str | None = taken.take("replicaset")
    if replica_set == "":
        raise ConfigurationError("replicaSet is empty: name the set or leave the option out")
    return replica_set


def _compressors(taken: _Taken, notes: list[str]) -> tuple[str, ...]:
    names = taken.take("compressors", ())
    notes.extend(
        f"the compressor {name} is not known and is ignored: use {', '.join(COMPRESSORS)}"
        for name in names
        if name not in COMPRESSORS
    )
    return tuple(name for name in names if name in COMPRESSORS)


def _tls(taken: _Taken, *, implied: bool) -> TLSOptions | None:
    asked = [name for name in taken.left() if name.startswith("tls") and name != "tls"]
    enabled = taken.take("tls")
    if enabled is None:
        enabled = implied or bool(asked)
    insecure = taken.take("tlsinsecure", False)
    options = TLSOptions(
        ca_file=taken.take("tlscafile"),
        certificate_key_file=taken.take("tlscertificatekeyfile"),
        certificate_key_file_password=taken.take("tlscertificatekeyfilepassword"),
        allow_invalid_certificates=taken.take("tlsallowinvalidcertificates", False) or insecure,
        allow_invalid_hostnames=taken.take("tlsallowinvalidhostnames", False) or insecure,
        crl_file=taken.take("tlscrlfile"),
        disable_ocsp_endpoint_check=taken.take("tlsdisableocspendpointcheck", False),
        disable_certificate_revocation_check=taken.take(
            "tlsdisablecertificaterevocationcheck", False
        ),
    )
    if not enabled:
        if asked:
            raise ConfigurationError(
                f"tls=false contradicts {option_name(asked[0])}: leave one of them out"
            )
        return None
    if options.crl_file is not None and (
        options.allow_invalid_certificates or options.disable_certificate_revocation_check
    ):
        raise ConfigurationError(
            "tlsCRLFile would not be looked at: leave out tlsInsecure, "
            "tlsAllowInvalidCertificates and tlsDisableCertificateRevocationCheck"
        )
    return options


def _proxy(taken: _Taken) -> ProxyOptions | None:
    host, port = taken.take("proxyhost"), taken.take("proxyport")
    username, password = taken.take("proxyusername"), taken.take("proxypassword")
    if not host:
        if host is not None or port is not None or username or password:
            raise ConfigurationError("the other proxy* options need proxyHost: name the proxy")
        return None
    if bool(username) != bool(password):
        raise ConfigurationError("proxyUsername and proxyPassword belong together: give both")
    for name, text in (("proxyUsername", username), ("proxyPassword", password)):
        if text and len(text.encode("utf-8")) > _LONGEST_LOGIN:
            raise ConfigurationError(
                f"{name} is longer than the {_LONGEST_LOGIN} bytes that SOCKS5 allows: shorten it"
            )
    return ProxyOptions(host, 1080 if port is None else port, username or None, password or None)


def _credentials(
    connection: ConnectionString, taken: _Taken, objects: Mapping[str, Any]
) -> tuple[Credentials | None, str | None]:
    """Who logs in, and the source that was given."""
    username = objects.get("username", connection.username)
    password = objects.get("password", connection.password) or None
    mechanism = taken.take("authmechanism")
    properties = taken.take("authmechanismproperties", {})
    source = taken.take("authsource")
    if source == "":
        raise ConfigurationError("authSource is empty: name a database or leave the option out")
    if properties and mechanism is None:
        raise ConfigurationError("authMechanismProperties needs authMechanism: name the mechanism")
    if username is None and mechanism is None:
        if password is not None:
            raise ConfigurationError("a password needs a user name: give username, too")
        return None, source
    if username == "":
        raise ConfigurationError("the user name is empty: write it before the ':' of user:password")
    mechanism = mechanism or "DEFAULT"
    hosts = objects.get("authoidcallowedhosts")
    properties = mechanism_properties(mechanism, properties, hosts)
    check_user(mechanism, username, password, properties)
    check_source(mechanism, source)
    outside = mechanism not in WITH_PASSWORD
    otherwise = "$external" if outside or mechanism == "PLAIN" else "admin"
    database = None if outside else connection.database
    return (
        Credentials(username, password, source or database or otherwise, mechanism, properties),
        source,
    )


def _srv(
    connection: ConnectionString, taken: _Taken, objects: Mapping[str, Any]
) -> SrvOptions | None:
    service_name = taken.take("srvservicename")
    max_hosts = taken.take("srvmaxhosts")
    suffix = taken.take("srvallowedhostssuffix")
    validator = objects.get("srv_host_validator")
    if not connection.is_srv:
        for name, value in (
            ("srvServiceName", service_name),
            ("srvMaxHosts", max_hosts),
            ("srvAllowedHostsSuffix", suffix),
            ("srv_host_validator", validator),
        ):
            if value is not None:
                raise ConfigurationError(f"{name} is for mongodb+srv:// only: leave it out")
        return None
    if suffix is not None and validator is not None:
        raise ConfigurationError(
            "srvAllowedHostsSuffix and srv_host_validator contradict one another: leave one out"
        )
    if service_name is not None and not re.fullmatch("[A-Za-z0-9-]{1,62}", service_name):
        raise ConfigurationError("srvServiceName must be 1 to 62 letters, digits and hyphens")
    return SrvOptions(
        host=_domain_name(connection.hosts[0][0]),
        service_name=service_name or "mongodb",
        max_hosts=max_hosts or 0,
        allowed_suffix=None if suffix is None else _allowed_suffix(suffix),
        host_validator=validator,
        load_balanced_given="loadbalanced" in taken,
    )


def _domain_name(given: str) -> str:
    """A name as DNS has it."""
    name = given.strip(".").lower()
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ConfigurationError(f"{given} is no domain name: correct it") from None


# Domains that nobody can register anything in.
_SPECIAL_DOMAINS = frozenset(
    {"test", "localhost", "invalid", "example", "local", "internal", "corp", "home", "mail"}
)


def _allowed_suffix(given: str) -> str:
    """The domain with its leading dot."""
    domain = _domain_name(given)
    if domain not in _SPECIAL_DOMAINS and ("." not in domain or is_public_suffix(domain)):
        raise ConfigurationError(
            f"srvAllowedHostsSuffix={given} allows hosts of anybody: name a domain of your own"
        )
    return f".{domain}"


def check_srv_host(srv: SrvOptions, host: str) -> None:
    """
    Judge a host that DNS gave, so that whoever answers for DNS cannot lead
    the client, and its passwords, to another domain.

    @param host: in lower case, without a dot at its end.

    @raise ConfigurationError: it is not of the domain that it should be.
    """
    if srv.host_validator is not None:
        try:
            allowed = srv.host_validator(host)
        except Exception as error:
            raise ConfigurationError(f"srv_host_validator failed on {host}: {error}") from error
        if not isinstance(allowed, bool):
            raise ConfigurationError(
                f"srv_host_validator must give True or False, not a {type(allowed).__name__}"
            )
        domain = "what srv_host_validator allows"
    elif srv.allowed_suffix is not None:
        domain = srv.allowed_suffix
        allowed = host.endswith(domain)
    else:
        rest = srv.host.partition(".")[2]
        # Of one or two parts all is the domain, and the host must add to it.
        domain = f".{rest}" if "." in rest else f".{srv.host}"
        allowed = host.endswith(domain)
    if not allowed:
        raise ConfigurationError(
            f"the SRV records of {srv.host} name {host}, which is not in {domain}: "
            "correct them, or give srvAllowedHostsSuffix"
        )


def apply_srv(
    options: ClientOptions, hosts: Sequence[Address], txt_options: Sequence[str], rng: Random
) -> ClientOptions:
    """
    What DNS said, as options.

    Follows the initial-dns-seedlist-discovery specification.

    @param options: those of a C{mongodb+srv} connection string.
    @param hosts: of the SRV records, in any case.
    @param txt_options: the TXT records, each in one piece.
    @param rng: chooses C{srvMaxHosts} of the hosts.

    @return: the options with C{seeds}, and with C{authSource},
        C{replicaSet} and C{loadBalanced} of the TXT record where they were
        not given.

    @raise ConfigurationError: there are no hosts, one is of another domain,
        or the TXT records are not as they should be.
    """
    srv = options.srv
    if srv is None:
        raise ConfigurationError("only a mongodb+srv:// connection string is resolved by DNS")
    if not hosts:
        raise ConfigurationError(
            f"{srv.host} has no SRV records for _{srv.service_name}._tcp: check the name"
        )
    seeds = [(host.rstrip(".").lower(), port) for host, port in hosts]
    for host, _ in seeds:
        check_srv_host(srv, host)
    options = _apply_txt(options, srv, txt_options)
    if 0 < srv.max_hosts < len(seeds):
        seeds = rng.sample(seeds, srv.max_hosts)
    options = replace(options, seeds=tuple(dict.fromkeys(seeds)))
    _check_together(options)
    return options


_TXT_OPTIONS = ("authsource", "replicaset", "loadbalanced")


def _apply_txt(
    options: ClientOptions, srv: SrvOptions, txt_options: Sequence[str]
) -> ClientOptions:
    if len(txt_options) > 1:
        raise ConfigurationError(f"{srv.host} has {len(txt_options)} TXT records: leave one")
    notes: list[str] = []
    try:
        taken = _Taken(read_options(txt_options[0] if txt_options else "", notes))
    except InvalidURI as error:
        raise ConfigurationError(f"the TXT record of {srv.host} cannot be used: {error}") from None
    wrong = [option_name(name) for name in taken.left() if name not in _TXT_OPTIONS]
    if wrong or notes:
        what = f"{wrong[0]} is not allowed in it" if wrong else notes[0]
        raise ConfigurationError(
            f"the TXT record of {srv.host} cannot be used: {what}; it may hold authSource, "
            "replicaSet and loadBalanced"
        )
    source = taken.take("authsource")
    if source == "":
        raise ConfigurationError(f"the TXT record of {srv.host} has an empty authSource")
    if options.auth_source is None and source is not None:
        credentials = options.credentials
        if credentials is not None:
            check_source(credentials.mechanism, source)
            credentials = replace(credentials, source=source)
        options = replace(options, auth_source=source, credentials=credentials)
    replica_set = _replica_set(taken)
    if options.replica_set is None and replica_set is not None:
        options = replace(options, replica_set=replica_set)
    if not srv.load_balanced_given and taken.take("loadbalanced", False):
        options = replace(options, load_balanced=True)
    return options


def _read_preference(taken: _Taken, objects: Mapping[str, Any]) -> Any:
    given = objects.get("read_preference")
    mode = taken.take("readpreference", "primary")
    tags = taken.take("readpreferencetags")
    staleness = taken.take("maxstalenessseconds", -1)
    if given is not None:
        return given
    make: Callable[..., Any] = _READ_PREFERENCES[mode]
    if make is Primary:
        if (tags and tags != [{}]) or staleness != -1:
            raise ConfigurationError(
                "readPreference=primary goes with neither readPreferenceTags nor "
                "maxStalenessSeconds: choose another mode or leave them out"
            )
        return ReadPreference.PRIMARY
    return make(tag_sets=tags, max_staleness=staleness)


def _read_concern(taken: _Taken, objects: Mapping[str, Any]) -> ReadConcern:
    level = taken.take("readconcernlevel")
    given = objects.get("read_concern")
    return ReadConcern(level) if given is None else given


def _write_concern(taken: _Taken, objects: Mapping[str, Any]) -> WriteConcern:
    given = objects.get("write_concern")
    w, wtimeout = taken.take("w"), taken.take("wtimeoutms")
    journal, fsync = taken.take("journal"), taken.take("fsync")
    if given is not None:
        return given  # type: ignore[no-any-return]
    try:
        return WriteConcern(w, wtimeout, journal, fsync)
    except (ConfigurationError, ValueError, TypeError) as error:
        raise ConfigurationError(f"the write concern cannot be used: {error}") from None


def _codec_options(taken: _Taken, objects: Mapping[str, Any]) -> CodecOptions[Any]:
    given = objects.get("codec_options")
    changes: dict[str, Any] = {}
    for option, name in (
        ("tzaware", "tz_aware"),
        ("uuidrepresentation", "uuid_representation"),
        ("unicodedecodeerrorhandler", "unicode_decode_error_handler"),
        ("datetimeconversion", "datetime_conversion"),
    ):
        value = taken.take(option)
        if value is not None:
            changes[name] = value
    for name in ("document_class", "type_registry", "tzinfo"):
        if objects.get(name) is not None:
            changes[name] = objects[name]
    if given is None and "uuid_representation" not in changes:
        changes["uuid_representation"] = UuidRepresentation.STANDARD
    base: CodecOptions[Any] = CodecOptions() if given is None else given
    try:
        return base.with_options(**changes) if changes else base
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the codec options cannot be used: {error}") from None
