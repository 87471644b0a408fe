"""
What a connection string or keyword arguments say, each option by itself.

The part before the question mark is read by PyMongo's grammar; the options,
by the table in this module, which makes each a number, a flag, a text or a
mapping.  What the options mean together is L{txmongokit.options}' matter.
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from pymongo.uri_parser import parse_uri

from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.types import Address

__all__ = [
    "COMPRESSORS",
    "MECHANISMS",
    "OPTION_NAMES",
    "ConnectionString",
    "option_name",
    "read_keywords",
    "read_options",
    "read_uri",
    "without_secrets",
]

COMPRESSORS = ("snappy", "zlib", "zstd")
"""The compressors of the compression specification."""

MECHANISMS = (
    "DEFAULT",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "MONGODB-X509",
    "PLAIN",
    "GSSAPI",
    "MONGODB-AWS",
    "MONGODB-OIDC",
    "MONGODB-CR",
)
"""The mechanisms of the authentication specification."""

# How options begin on which it depends whether and how a connection is
# encrypted, who logs in and through whose hands the data go: nothing that is
# wrong with one is left at a warning.
_SECURITY = ("tls", "ssl", "auth", "proxy")
_SRV_SCHEME = "mongodb+srv://"
# URI options specification: all integers are of 32 bits.
_LARGEST = 2**31 - 1


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise ValueError("must be true or false")


def _number(minimum: int, maximum: int = _LARGEST) -> Callable[[Any], int]:
    """A reader of whole numbers."""

    def read(value: Any) -> int:
        number = value
        if isinstance(value, str):
            try:
                number = int(value)
            except ValueError:
                number = None
        elif isinstance(value, float) and value.is_integer():
            number = int(value)
        if type(number) is not int or not minimum <= number <= maximum:
            limit = f"of at least {minimum}" if maximum == _LARGEST else f"{minimum} to {maximum}"
            raise ValueError(f"must be a whole number {limit}")
        return number

    return read


def _pool_size(value: Any) -> int:
    # PyMongo takes float("inf") for no limit.
    return 0 if value == math.inf else _number(0)(value)


def _staleness(value: Any) -> int:
    number = _number(-1)(value)
    if number == 0:
        raise ValueError("must be -1, for no limit, or at least 90")
    return number


def _seconds(value: Any) -> float:
    """Milliseconds, read as seconds."""
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if type(number) not in (int, float) or not 0 <= number <= _LARGEST:
        raise ValueError("must be a number of milliseconds of at least 0")
    return float(number) / 1000.0


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("must be text")


def _app_name(value: Any) -> str:
    if len(_text(value).encode("utf-8")) > 128:
        raise ValueError("must be no longer than 128 bytes of UTF-8")
    return str(value)


def _one_of(*names: str, any_case: bool = False) -> Callable[[Any], str]:
    """A reader of names."""

    def read(value: Any) -> str:
        for name in names:
            if value == name or (any_case and str(value).lower() == name.lower()):
                return name
        raise ValueError(f"must be one of {', '.join(names)}")

    return read


def _w(value: Any) -> int | str:
    if isinstance(value, str) and not value.lstrip("-").isdigit():
        return value
    try:
        return _number(0)(value)
    except ValueError:
        raise ValueError("must be a whole number of at least 0, or text") from None


def _tag_sets(value: Any) -> list[dict[str, str]]:
    sets = value if isinstance(value, (list, tuple)) else [value]
    return [_tag_set(each) for each in sets]


def _tag_set(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(each) for name, each in value.items()}
    tags = {}
    for tag in filter(None, _text(value).split(",")):
        name, colon, each = tag.partition(":")
        if not colon:
            raise ValueError("must be name:value pairs with commas between them")
        tags[name] = each
    return tags


def _unescaped_tags(value: str) -> dict[str, str]:
    return {unquote_plus(name): unquote_plus(each) for name, each in _tag_set(value).items()}


def _properties(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            str(name): str(each).lower() if isinstance(each, bool) else each
            for name, each in value.items()
        }
    properties = {}
    for part in _text(value).split(","):
        name, _, each = part.partition(":")
        if not each:
            raise ValueError("must be NAME:value pairs with commas between them")
        properties[name] = each
    return properties


def _compressors(value: Any) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
        raise ValueError(f"must be names of {', '.join(COMPRESSORS)} with commas between them")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


_UUIDS = {
    "unspecified": UuidRepresentation.UNSPECIFIED,
    "standard": UuidRepresentation.STANDARD,
    "pythonLegacy": UuidRepresentation.PYTHON_LEGACY,
    "javaLegacy": UuidRepresentation.JAVA_LEGACY,
    "csharpLegacy": UuidRepresentation.CSHARP_LEGACY,
}


def _uuid_representation(value: Any) -> int:
    if isinstance(value, str) and value in _UUIDS:
        return _UUIDS[value]
    if type(value) is int and value in _UUIDS.values():
        return value
    raise ValueError(f"must be one of {', '.join(_UUIDS)}")


def _datetime_conversion(value: Any) -> DatetimeConversion:
    try:
        if isinstance(value, str) and not value.isdigit():
            return DatetimeConversion[value]
        return DatetimeConversion(int(value))
    except (KeyError, ValueError, TypeError):
        allowed = ", ".join(each.name for each in DatetimeConversion)
        raise ValueError(f"must be one of {allowed}") from None


@dataclass(frozen=True, slots=True)
class _Option:
    """
    One option.

    @ivar name: as the specification spells it.
    @ivar read: makes a value of what was given; C{ValueError} says what it
        must be.
    @ivar unescape: makes of the URI's text what C{read} is given.
    @ivar repeats: whether each repetition adds to the others.
    """

    name: str
    read: Callable[[Any], Any]
    unescape: Callable[[str], Any] = unquote_plus
    repeats: bool = False

    @property
    def guards(self) -> bool:
        """Whether security, or whether data are safe, depends on it."""
        return self.name == "w" or self.name.lower().startswith(_SECURITY)

    @property
    def secret(self) -> bool:
        """Whether its value must not be shown: AWS_SESSION_TOKEN, too, is a password."""
        return "pass" in self.name.lower() or self.name == "authMechanismProperties"


def _key(name: str) -> str:
    """The same for C{maxPoolSize}, C{maxpoolsize} and C{max_pool_size}."""
    return name.replace("_", "").lower()


_OPTIONS: Mapping[str, _Option] = {
    _key(option.name): option
    for option in (
        _Option("appName", _app_name),
        _Option("authMechanism", _one_of(*MECHANISMS)),
        _Option("authMechanismProperties", _properties),
        _Option("authSource", _text),
        _Option("compressors", _compressors),
        _Option("connect", _flag),
        _Option("connectTimeoutMS", _seconds),
        _Option("datetime_conversion", _datetime_conversion),
        _Option("directConnection", _flag),
        _Option("enableOverloadRetargeting", _flag),
        _Option("fsync", _flag),
        _Option("heartbeatFrequencyMS", _seconds),
        _Option("journal", _flag),
        _Option("loadBalanced", _flag),
        _Option("localThresholdMS", _seconds),
        _Option("maxAdaptiveRetries", _number(0)),
        _Option("maxConnecting", _number(1)),
        _Option("maxIdleTimeMS", _seconds),
        _Option("maxPoolSize", _pool_size),
        _Option("maxStalenessSeconds", _staleness),
        _Option("minPoolSize", _number(0)),
        _Option("proxyHost", _text),
        _Option("proxyPassword", _text),
        _Option("proxyPort", _number(0, 65535)),
        _Option("proxyUsername", _text),
        _Option("readConcernLevel", _text),
        _Option(
            "readPreference",
            _one_of(
                "primary",
                "primaryPreferred",
                "secondary",
                "secondaryPreferred",
                "nearest",
                any_case=True,
            ),
        ),
        _Option("readPreferenceTags", _tag_sets, unescape=_unescaped_tags, repeats=True),
        _Option("replicaSet", _text),
        _Option("retryReads", _flag),
        _Option("retryWrites", _flag),
        _Option("serverMonitoringMode", _one_of("auto", "stream", "poll")),
        _Option("serverSelectionTimeoutMS", _seconds),
        _Option("serverSelectionTryOnce", _flag),
        _Option("socketTimeoutMS", _seconds),
        _Option("srvAllowedHostsSuffix", _text),
        _Option("srvMaxHosts", _number(0)),
        _Option("srvServiceName", _text),
        _Option("timeoutMS", _seconds),
        _Option("tls", _flag),
        _Option("tlsAllowInvalidCertificates", _flag),
        _Option("tlsAllowInvalidHostnames", _flag),
        _Option("tlsCAFile", _text),
        _Option("tlsCRLFile", _text),
        _Option("tlsCertificateKeyFile", _text),
        _Option("tlsCertificateKeyFilePassword", _text),
        _Option("tlsDisableCertificateRevocationCheck", _flag),
        _Option("tlsDisableOCSPEndpointCheck", _flag),
        _Option("tlsInsecure", _flag),
        _Option("tz_aware", _flag),
        _Option("unicode_decode_error_handler", _one_of("strict", "replace", "ignore")),
        _Option("uuidRepresentation", _uuid_representation),
        _Option("w", _w),
        _Option("wTimeoutMS", _number(0)),
        _Option("waitQueueMultiple", _number(1)),
        _Option("waitQueueSize", _number(1)),
        _Option("waitQueueTimeoutMS", _seconds),
        _Option("zlibCompressionLevel", _number(-1, 9)),
    )
}

OPTION_NAMES = tuple(option.name for option in _OPTIONS.values())
"""Every option of a connection string, as the specification spells it."""

_ALIASES = {"ssl": "tls", "j": "journal", "wtimeout": "wtimeoutms"}
_DEPRECATED = ("j", "wtimeout")


def option_name(key: str) -> str:
    """
    An option's name as the specification spells it.

    @param key: a key of what this module reads.
    """
    return _OPTIONS[key].name


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(_key(name), _OPTIONS, 1, 0.5)
    hint = f": did you mean {_OPTIONS[near[0]].name}?" if near else ", check its name"
    return f"the option {name} is not known and is ignored{hint}"


def _refuse_unknown(name: str) -> None:
    if name.lower().startswith(_SECURITY):
        text = _unknown(name).replace("is not known and is ignored", "is not known")
        raise ConfigurationError(f"{text}; it looks like one that security depends on")


@dataclass(frozen=True, slots=True)
class ConnectionString:
    """
    A connection string, taken apart.

    @ivar hosts: where to connect to; of C{mongodb+srv} one name without a
        port.
    @ivar is_srv: whether the hosts are to be asked of DNS.
    @ivar options: what was said, by names in lower case without underscores;
        times are in seconds.
    @ivar warnings: what was wrong and is ignored.
    """

    hosts: tuple[Address, ...]
    is_srv: bool
    username: str | None
    password: str | None = field(repr=False)
    database: str | None
    options: Mapping[str, Any] = field(repr=False)
    warnings: tuple[str, ...]


def read_uri(uri: str) -> ConnectionString:
    """
    Take a connection string apart, without any DNS.

    Follows the connection-string, URI options and
    initial-dns-seedlist-discovery specifications.  No error and no warning
    shows any of a password.

    @param uri: C{mongodb://...}, C{mongodb+srv://...}, or hosts without a
        scheme.

    @raise ConfigurationError: an option that security depends on is not
        known, is given twice, or has a wrong value.
    @raise InvalidURI: the string cannot be read.
    """
    if "://" not in uri:
        uri = f"mongodb://{uri}"
    is_srv = uri.startswith(_SRV_SCHEME)
    base, _, tail = uri.partition("?")
    grammar = f"mongodb://{base[len(_SRV_SCHEME) :]}" if is_srv else base
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = parse_uri(grammar, default_port=None if is_srv else 27017)
        hosts = tuple((host, port) for host, port in parsed["nodelist"])
        if is_srv:
            _check_srv_host(hosts)
        notes: list[str] = []
        options = read_options(tail, notes)
    except (InvalidURI, ConfigurationError) as error:
        text = without_secrets(str(error), uri)
        raise type(error)(f"the connection string cannot be used: {text}") from None
    except (ValueError, TypeError, Warning) as error:
        text = without_secrets(str(error), uri)
        raise InvalidURI(f"the connection string cannot be used: {text}") from None
    return ConnectionString(
        hosts,
        is_srv,
        parsed["username"],
        parsed["password"] or None,
        parsed["database"] or None,
        options,
        tuple(without_secrets(note, uri) for note in notes),
    )


def _check_srv_host(hosts: tuple[Address, ...]) -> None:
    if len(hosts) != 1:
        raise InvalidURI("mongodb+srv:// takes one host name: give one, or use mongodb://")
    host, port = hosts[0]
    if port is not None:
        raise InvalidURI("mongodb+srv:// takes no port: leave it out, or use mongodb://")
    if ":" in host or "/" in host or re.fullmatch(r"[\d.]+", host) or not host.strip("."):
        raise InvalidURI("mongodb+srv:// needs a host name that DNS knows, or use mongodb://")


def read_options(text: str, notes: list[str]) -> dict[str, Any]:
    """
    The options of a connection string, or of a TXT record.

    @param text: what follows the question mark.
    @param notes: is given a sentence for all that is ignored.

    @raise ConfigurationError: see L{read_uri}.
    @raise InvalidURI: it is no list of C{name=value}.
    """
    if "&" in text and ";" in text:
        raise InvalidURI("options are separated either by & or by ;, not by both: escape values")
    said: dict[str, list[tuple[str, Any]]] = {}
    for pair in re.split("[&;]", text) if text else ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InvalidURI("options are name=value pairs with & between them")
        key = _ALIASES.get(_key(name), _key(name))
        # Snake case is for keyword arguments, but for the names that have no other.
        if key not in _OPTIONS or ("_" in name and name.lower() != _OPTIONS[key].name):
            _refuse_unknown(name)
            notes.append(_unknown(name))
            continue
        if _key(name) in _DEPRECATED:
            notes.append(f"the option {name} is deprecated: use {_OPTIONS[key].name}")
        said.setdefault(key, []).append((name, value))
    options = {}
    for key, pairs in said.items():
        option = _OPTIONS[key]
        raw = [value for _, value in pairs] if option.repeats else _one_value(option, pairs, notes)
        try:
            if isinstance(raw, list):
                options[key] = option.read([option.unescape(each) for each in raw])
            else:
                options[key] = option.read(option.unescape(raw))
        except ValueError as error:
            value = "" if option.secret else f"={unquote_plus(pairs[-1][1])}"
            sentence = f"{option.name}{value} {error}"
            if option.guards:
                raise ConfigurationError(sentence) from None
            notes.append(f"{sentence}, and is ignored")
    return options


def _one_value(option: _Option, pairs: list[tuple[str, str]], notes: list[str]) -> str:
    """The one that counts of what may have been given several times."""
    values = {value for _, value in pairs}
    if option.guards and len(values) > 1:
        names = " and ".join(dict.fromkeys(name for name, _ in pairs))
        raise ConfigurationError(f"{names} contradicts itself: give one value")
    current = [pair for pair in pairs if _key(pair[0]) not in _DEPRECATED] or pairs
    if len(pairs) > 1 and {name.lower() for name, _ in pairs} != {"tls", "ssl"}:
        notes.append(f"{option.name} is given {len(pairs)} times: one of the values is used")
    return current[-1][1]


def read_keywords(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    Options as keyword arguments: the URI's names in any case, with or
    without underscores.  C{None} is as good as nothing.

    @return: the values as L{read_uri} gives them, and a sentence for each
        that is ignored.

    @raise ConfigurationError: a value is not allowed, or two arguments are
        one option.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    notes: list[str] = []
    for name, value in kwargs.items():
        if value is None:
            continue
        key = _ALIASES.get(_key(name), _key(name))
        option = _OPTIONS.get(key)
        if option is None:
            _refuse_unknown(name)
            notes.append(_unknown(name))
            continue
        if key in names:
            raise ConfigurationError(f"{names[key]} and {name} are the same option: give one")
        names[key] = name
        if isinstance(value, (bytes, bytearray)):
            raise ConfigurationError(f"{name} must be text, not {type(value).__name__}: decode it")
        try:
            values[key] = option.read(value)
        except ValueError as error:
            shown = name if option.secret else f"{name}={value!r}"
            raise ConfigurationError(f"{shown} {error}") from None
    return values, notes


_SECRETS = re.compile("://(?:[^:]*):(.*)@|password=([^&;]*)", re.IGNORECASE | re.DOTALL)


def without_secrets(text: str, uri: str) -> str:
    """
    A message, unless it quotes some of a password: badly escaped ones are
    found in the oddest places.
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
