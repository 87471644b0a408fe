"""
The connection string and keyword arguments, as typed values.

Strings die here: whatever an option's text was, from here on it is a number,
a flag or one of PyMongo's value objects.  No option is ever dropped: each
either has a field, or is refused by name.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion, TypeRegistry
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
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.types import Address

__all__ = ["ClientOptions", "Credentials", "TLSOptions", "parse_options"]

_MODES: Mapping[str, Any] = {
    "primary": Primary,
    "primarypreferred": PrimaryPreferred,
    "secondary": Secondary,
    "secondarypreferred": SecondaryPreferred,
    "nearest": Nearest,
}
_MECHANISMS = ("DEFAULT", "SCRAM-SHA-1", "SCRAM-SHA-256", "MONGODB-X509", "PLAIN")
_COMPRESSORS = ("snappy", "zlib", "zstd")
_READ_PREFERENCES = (Primary, PrimaryPreferred, Secondary, SecondaryPreferred, Nearest)
# Server monitoring specification.
_SHORTEST_HEARTBEAT = 0.5


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    Who logs in, and how.

    @ivar source: the database that knows the user.
    @ivar mechanism: C{DEFAULT} negotiates.
    """

    username: str | None
    password: str | None = field(repr=False)
    source: str
    mechanism: str


@dataclass(frozen=True, slots=True)
class TLSOptions:
    """
    What of the server's certificate is verified, and ours.
    """

    ca_file: str | None = None
    certificate_key_file: str | None = None
    certificate_key_file_password: str | None = field(default=None, repr=False)
    allow_invalid_certificates: bool = False
    allow_invalid_hostnames: bool = False
    crl_file: str | None = None


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """
    Everything that a client can be told.  Times are in seconds.
    """

    seeds: tuple[Address, ...]
    replica_set: str | None = None
    direct_connection: bool = False
    default_database: str | None = None
    app_name: str | None = None
    credentials: Credentials | None = None
    tls: TLSOptions | None = None
    connect_timeout: float | None = 20.0
    socket_timeout: float | None = None
    server_selection_timeout: float = 30.0
    heartbeat_frequency: float = 10.0
    min_heartbeat: float = 0.5
    local_threshold: float = 0.015
    timeout: float | None = None
    max_pool_size: int = 100
    min_pool_size: int = 0
    max_idle_time: float | None = None
    max_connecting: int = 2
    wait_queue_timeout: float = 30.0
    retry_reads: bool = True
    retry_writes: bool = True
    compressors: tuple[str, ...] = ()
    zlib_compression_level: int = -1
    read_preference: Any = field(default_factory=lambda: ReadPreference.PRIMARY)
    read_concern: ReadConcern = field(default_factory=ReadConcern)
    write_concern: WriteConcern = field(default_factory=WriteConcern)
    codec_options: CodecOptions[Any] = field(default_factory=CodecOptions)
    server_api: ServerApi | None = None
    connection_sharing: int = 1
    server_monitoring_mode: str = "auto"
    server_selector: Callable[[list[Any]], list[Any]] | None = None
    event_listeners: tuple[Any, ...] = ()
    max_adaptive_retries: int = 2
    enable_overload_retargeting: bool = False


class _Taken:
    """Options as they are used up, so that what is left over is noticed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def take(self, name: str, default: Any = None) -> Any:
        value = self._values.pop(name, None)
        return default if value is None else value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def left(self) -> list[str]:
        return sorted(self._values)


_OBJECTS: Mapping[str, Any] = {
    "codec_options": CodecOptions,
    "document_class": object,
    "read_preference": _READ_PREFERENCES,
    "read_concern": ReadConcern,
    "write_concern": WriteConcern,
    "server_api": ServerApi,
    "type_registry": TypeRegistry,
    "username": str,
    "password": str,
}
"""Keyword arguments that are no URI options, and what each must be."""

_SYNONYMS = {"j": "journal", "wtimeout": "wtimeoutms", "ssl": "tls", "app_name": "appname"}

_NOT_YET: Mapping[str, str] = {
    "loadbalanced": "load balancers",
    "authmechanismproperties": "properties of authentication mechanisms",
    "srvservicename": "mongodb+srv",
    "srvmaxhosts": "mongodb+srv",
    "srvallowedhostssuffix": "mongodb+srv",
}


def parse_options(uri: str, **kwargs: Any) -> ClientOptions:
    """
    Read a connection string.

    Follows the connection-string and URI options specifications.

    @param uri: C{mongodb://...}, or hosts without a scheme.
    @param kwargs: options by their URI names, in any case; each overrides
        the URI's.  Also C{username} and C{password}, unescaped, and as
        objects C{codec_options}, C{document_class}, C{type_registry},
        C{read_preference}, C{read_concern}, C{write_concern} and
        C{server_api}.

    @raise ConfigurationError: an option is unknown, its value is not
        allowed, or options contradict one another.
    @raise InvalidURI: the string cannot be read.
    """
    if not isinstance(uri, str):
        raise TypeError(f"uri must be a str, not {type(uri).__name__}")
    if uri.startswith("mongodb+srv://"):
        raise ConfigurationError(
            "mongodb+srv:// is not supported by this version: list the hosts in a mongodb:// URI"
        )
    if "://" not in uri:
        uri = f"mongodb://{uri}"
    objects = _take_objects(kwargs)
    parsed = _parse(uri, "the connection string")
    values = parsed["options"]
    values.update(_parse_keywords(kwargs))
    _check_contradictions(uri, kwargs)
    for name in ("username", "password"):
        parsed[name] = objects.get(name, parsed[name])
    return _assemble(parsed, _Taken(values), objects)


def _take_objects(kwargs: dict[str, Any]) -> dict[str, Any]:
    objects = {name: kwargs.pop(name) for name in _OBJECTS if name in kwargs}
    objects = {name: value for name, value in objects.items() if value is not None}
    for name, value in objects.items():
        if not isinstance(value, _OBJECTS[name]):
            wanted = _OBJECTS[name]
            wanted = "a read preference" if isinstance(wanted, tuple) else f"a {wanted.__name__}"
            raise ConfigurationError(f"{name} must be {wanted}, not a {type(value).__name__}")
    return objects


_COMPRESSORS_OPTION = re.compile("(?<=[?&;])compressors=([^&;]*)[&;]?", re.IGNORECASE)


def _parse(uri: str, what: str) -> dict[str, Any]:
    """
    Read a URI by PyMongo's grammar; the options' names become lower case.

    @param what: what the errors name.
    """
    # PyMongo drops compressors that its own packages do not provide.
    compressors = _COMPRESSORS_OPTION.findall(uri)
    rest = _COMPRESSORS_OPTION.sub("", uri).rstrip("?&;") if compressors else uri
    try:
        with warnings.catch_warnings():
            # It warns of what it leaves out, and nothing may be left out.
            warnings.simplefilter("error")
            parsed = dict(parse_uri(rest, warn=False))
    except (InvalidURI, ConfigurationError) as error:
        raise type(error)(f"{what} cannot be used: {_without_secrets(str(error), uri)}") from None
    except KeyError:
        # The only option that PyMongo looks up without a word of its own.
        allowed = ", ".join(each.name for each in DatetimeConversion)
        raise ConfigurationError(
            f"{what} cannot be used: datetime_conversion must be one of {allowed}"
        ) from None
    except (ValueError, TypeError, OSError, UserWarning, DeprecationWarning) as error:
        text = _without_secrets(str(error), uri)
        raise ConfigurationError(f"{what} cannot be used: {text}") from None
    options = {name.lower(): value for name, value in parsed["options"].items()}
    if compressors:
        options["compressors"] = _compressors(unquote_plus(",".join(compressors)))
    parsed["options"] = options
    return parsed


def _compressors(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in _COMPRESSORS:
            raise ConfigurationError(
                f"compressors={name} is not known: use {', '.join(_COMPRESSORS)}"
            )
    return names


_SECRETS = re.compile("://(?:[^:]*):(.*)@|password=([^&;]*)", re.IGNORECASE | re.DOTALL)


def _without_secrets(text: str, uri: str) -> str:
    """
    An error's text, unless it quotes some of a password: badly escaped ones
    are found in the oddest places.
    """
    for found in _SECRETS.findall(uri):
        for secret in filter(None, found):
            for piece in re.split(r"\W+", f"{secret} {unquote_plus(secret)}"):
                if piece and re.search(rf"\b{re.escape(piece)}\b", text):
                    return (
                        "escape user name and password with urllib.parse.quote_plus "
                        "(what else is wrong is not told, as it would show the password)"
                    )
    return text


# URI options specification, "TLS options".
_CONTRADICTIONS = (
    ("tlsInsecure", "tlsAllowInvalidCertificates"),
    ("tlsInsecure", "tlsAllowInvalidHostnames"),
    ("tlsInsecure", "tlsDisableOCSPEndpointCheck"),
    ("tlsAllowInvalidCertificates", "tlsDisableOCSPEndpointCheck"),
)


def _check_contradictions(uri: str, kwargs: Mapping[str, Any]) -> None:
    """
    Look at URI and keyword arguments together, which PyMongo's grammar has
    seen one at a time; it also spells tlsInsecure out, so that what was
    given is only to be seen here.
    """
    given = {part.partition("=")[0].lower() for part in re.split("[&;]", uri.partition("?")[2])}
    given.update(name.lower() for name, value in kwargs.items() if value is not None)
    for one, other in _CONTRADICTIONS:
        if one.lower() in given and other.lower() in given:
            raise ConfigurationError(f"{one} and {other} contradict one another: leave one out")


# What PyMongo takes apart before it would unescape it.
_STRUCTURED = ("readpreferencetags", "authmechanismproperties")
# AWS_SESSION_TOKEN, for one, is a password.
_SECRET = ("authmechanismproperties",)


def _parse_keywords(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments by the same grammar as the URI's options."""
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in kwargs.items():
        if value is None:
            continue
        key = _SYNONYMS.get(name.lower(), name.lower())
        if key in names:
            raise ConfigurationError(f"{names[key]} and {name} are the same option: give one")
        names[key] = name
        if isinstance(value, (bytes, bytearray)):
            raise ConfigurationError(f"{name} must be text, not {type(value).__name__}: decode it")
        texts = value if isinstance(value, (list, tuple)) else [value]
        if key == "compressors" and not isinstance(value, str):
            texts = [",".join(map(str, texts))]
        safe = ":," if key in _STRUCTURED else ""
        option = "&".join(f"{key}={quote_plus(_text(each), safe)}" for each in texts)
        shown = name if "pass" in key or key in _SECRET else f"{name}={value!r}"
        values.update(_parse(f"mongodb://h/?{option}", shown)["options"])
    return values


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{each}" for name, each in value.items())
    return str(value)


def _assemble(
    parsed: Mapping[str, Any], taken: _Taken, objects: Mapping[str, Any]
) -> ClientOptions:
    for name, what in _NOT_YET.items():
        if taken.take(name):
            raise ConfigurationError(f"{name}: {what} are not supported by this version")
    seeds = tuple((host, port) for host, port in parsed["nodelist"])
    direct = bool(taken.take("directconnection", False))
    if direct and len(seeds) > 1:
        raise ConfigurationError("directConnection=true allows one host only")
    tls = _tls(taken)
    selection_timeout = taken.take("serverselectiontimeoutms", 30.0)
    heartbeat = taken.take("heartbeatfrequencyms", 10.0)
    if heartbeat < _SHORTEST_HEARTBEAT:
        raise ConfigurationError(
            f"heartbeatFrequencyMS={heartbeat * 1000:g} is too small: use 500 or more"
        )
    replica_set = taken.take("replicaset")
    if replica_set == "":
        raise ConfigurationError("replicaSet is empty: name the set or leave the option out")
    minimum, maximum = taken.take("minpoolsize", 0), _pool_size(taken)
    if maximum and minimum > maximum:
        raise ConfigurationError(
            f"minPoolSize={minimum} is larger than maxPoolSize={maximum}: lower it"
        )
    options = ClientOptions(
        seeds=seeds,
        replica_set=replica_set,
        direct_connection=direct,
        default_database=parsed["database"] or None,
        app_name=taken.take("appname"),
        credentials=_credentials(parsed, taken),
        tls=tls,
        connect_timeout=taken.take("connecttimeoutms", 20.0) or None,
        socket_timeout=taken.take("sockettimeoutms") or None,
        server_selection_timeout=selection_timeout,
        heartbeat_frequency=heartbeat,
        local_threshold=taken.take("localthresholdms", 15.0) / 1000.0,
        timeout=taken.take("timeoutms") or None,
        max_pool_size=maximum,
        min_pool_size=minimum,
        max_idle_time=taken.take("maxidletimems"),
        max_connecting=taken.take("maxconnecting", 2),
        # A wait of nothing could never see a connection made.
        wait_queue_timeout=taken.take("waitqueuetimeoutms") or selection_timeout or 30.0,
        retry_reads=taken.take("retryreads", True),
        retry_writes=taken.take("retrywrites", True),
        compressors=tuple(taken.take("compressors", ())),
        zlib_compression_level=taken.take("zlibcompressionlevel", -1),
        read_preference=_read_preference(taken, objects),
        read_concern=objects.get("read_concern") or ReadConcern(taken.take("readconcernlevel")),
        write_concern=_write_concern(taken, objects),
        codec_options=_codec_options(taken, objects),
        server_api=objects.get("server_api"),
    )
    _check_left(taken)
    return options


def _pool_size(taken: _Taken) -> int:
    size = taken.take("maxpoolsize", 100)
    return 0 if size is None or size == math.inf else int(size)


def _check_left(taken: _Taken) -> None:
    """Options without an effect: harmless ones pass, others are refused."""
    # Monitoring is by polling; connecting is always on first use.
    taken.take("servermonitoringmode")
    taken.take("connect")
    left = taken.left()
    if left:
        raise ConfigurationError(f"{left[0]} is not supported by this version: leave it out")


def _tls(taken: _Taken) -> TLSOptions | None:
    old, new = taken.take("ssl"), taken.take("tls")
    enabled = old if new is None else new
    ca_file, crl_file = taken.take("tlscafile"), taken.take("tlscrlfile")
    key_file = taken.take("tlscertificatekeyfile")
    password = taken.take("tlscertificatekeyfilepassword")
    insecure = bool(taken.take("tlsinsecure", False))
    certificates = bool(taken.take("tlsallowinvalidcertificates", False)) or insecure
    hostnames = bool(taken.take("tlsallowinvalidhostnames", False)) or insecure
    # No OCSP responder is ever asked, so switching that off changes nothing.
    taken.take("tlsdisableocspendpointcheck")
    asked = ca_file or crl_file or key_file or password or certificates or hostnames
    if enabled is None and asked:
        enabled = True
    if not enabled:
        if asked:
            raise ConfigurationError("tls=false contradicts the other tls* options: leave it out")
        return None
    return TLSOptions(ca_file, key_file, password, certificates, hostnames, crl_file)


def _credentials(parsed: Mapping[str, Any], taken: _Taken) -> Credentials | None:
    username = parsed["username"]
    password = parsed["password"] or None
    mechanism = taken.take("authmechanism")
    source = taken.take("authsource")
    if username is None and mechanism is None:
        if password is not None:
            raise ConfigurationError("a password needs a user name: give username, too")
        return None
    mechanism = mechanism or "DEFAULT"
    if mechanism not in _MECHANISMS:
        raise ConfigurationError(
            f"authMechanism={mechanism} is not supported by this version: "
            f"use one of {', '.join(_MECHANISMS)}"
        )
    if username == "":
        raise ConfigurationError("the user name is empty: write it before the ':' of user:password")
    if mechanism == "MONGODB-X509":
        if password is not None:
            raise ConfigurationError("MONGODB-X509 takes no password: leave it out")
        if source not in (None, "$external"):
            raise ConfigurationError("MONGODB-X509 needs authSource=$external")
        return Credentials(username, None, "$external", mechanism)
    if username is None:
        raise ConfigurationError(f"authMechanism={mechanism} needs a user name in the URI")
    if password is None:
        raise ConfigurationError(
            f"user {username!r} has no password: write mongodb://user:password@host"
        )
    otherwise = "$external" if mechanism == "PLAIN" else "admin"
    return Credentials(username, password, source or parsed["database"] or otherwise, mechanism)


def _read_preference(taken: _Taken, objects: Mapping[str, Any]) -> Any:
    given = objects.get("read_preference")
    mode = taken.take("readpreference", "primary")
    tags = taken.take("readpreferencetags")
    staleness = taken.take("maxstalenessseconds", -1)
    if given is not None:
        return given
    make: Callable[..., Any] = _MODES[str(mode).lower()]
    if make is Primary:
        if (tags and tags != [{}]) or staleness != -1:
            raise ConfigurationError(
                "readPreference=primary goes with neither readPreferenceTags nor "
                "maxStalenessSeconds: choose another mode or leave them out"
            )
        return ReadPreference.PRIMARY
    return make(tag_sets=tags, max_staleness=staleness)


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
        ("tz_aware", "tz_aware"),
        ("uuidrepresentation", "uuid_representation"),
        ("unicode_decode_error_handler", "unicode_decode_error_handler"),
        ("datetime_conversion", "datetime_conversion"),
    ):
        value = taken.take(option)
        if value is not None:
            changes[name] = value
    for name in ("document_class", "type_registry"):
        if objects.get(name) is not None:
            changes[name] = objects[name]
    if "datetime_conversion" in changes:
        changes["datetime_conversion"] = DatetimeConversion(changes["datetime_conversion"])
    if given is None and "uuid_representation" not in changes:
        changes["uuid_representation"] = UuidRepresentation.STANDARD
    base: CodecOptions[Any] = CodecOptions() if given is None else given
    try:
        return base.with_options(**changes) if changes else base
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"the codec options cannot be used: {error}") from None
