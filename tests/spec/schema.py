"""
Whether a file has the shape that the unified test format asks for.

The official JSON schema is expressed here in the few kinds of shape that it
needs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tests.spec.matching import Malformed
from tests.spec.requirements import parse_version

__all__ = ["check_file"]

_SUPPORTED = (1, 28, 0)

# Looks at a value; the second argument is where it is.
Shape = Callable[[Any, str], None]


def _of(kind: type | tuple[type, ...], name: str) -> Shape:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Malformed(f"{path} must be {name}")

    return check


_text = _of(str, "a string")
_boolean = _of(bool, "a boolean")
_integer = _of(int, "an integer")
_object = _of(dict, "an object")


def _anything(value: Any, path: str) -> None:
    """Whatever there is."""


def _always(constant: Any) -> Shape:
    def check(value: Any, path: str) -> None:
        if value is not constant:
            raise Malformed(f"{path} must be {constant}")

    return check


def _matching(pattern: str) -> Shape:
    def check(value: Any, path: str) -> None:
        _text(value, path)
        if not re.fullmatch(pattern, value):
            raise Malformed(f"{path} must match {pattern}")

    return check


def _one_of(*values: str) -> Shape:
    def check(value: Any, path: str) -> None:
        if value not in values or not isinstance(value, str):
            raise Malformed(f"{path} must be one of {', '.join(values)}")

    return check


def _either(*shapes: Shape) -> Shape:
    def check(value: Any, path: str) -> None:
        for shape in shapes[:-1]:
            try:
                return shape(value, path)
            except Malformed:
                continue
        return shapes[-1](value, path)

    return check


def _array(item: Shape, least: int = 0) -> Shape:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise Malformed(f"{path} must be an array of at least {least}")
        for index, each in enumerate(value):
            item(each, f"{path}[{index}]")

    return check


def _fields(
    optional: Mapping[str, Shape] | None = None,
    *,
    least: int = 0,
    most: int | None = None,
    **required: Shape,
) -> Shape:
    """
    An object of known fields.
    """
    known = {**(optional or {}), **required}

    def check(value: Any, path: str) -> None:
        _object(value, path)
        for name in required:
            if name not in value:
                raise Malformed(f"{path} must have {name}")
        if len(value) < least or (most is not None and len(value) > most):
            raise Malformed(f"{path} has the wrong number of fields")
        for name, each in value.items():
            if name not in known:
                raise Malformed(f"{path} must not have {name}")
            known[name](each, f"{path}.{name}")

    return check


def _both(*shapes: Shape) -> Shape:
    def check(value: Any, path: str) -> None:
        for shape in shapes:
            shape(value, path)

    return check


def _excluding(name: str, *others: str) -> Shape:
    def check(value: Any, path: str) -> None:
        clash = [other for other in others if name in value and other in value]
        if clash:
            raise Malformed(f"{path} must not have {name} and {', '.join(clash)}")

    return check


_version = _matching(r"[0-9]+(\.[0-9]+){0,2}")

_requirement = _fields(
    {
        "auth": _boolean,
        "authMechanism": _text,
        "csfle": _either(_boolean, _fields({"minLibmongocryptVersion": _version}, least=1)),
        "maxServerVersion": _version,
        "minServerVersion": _version,
        "serverParameters": _object,
        "serverless": _one_of("require", "forbid", "allow"),
        "topologies": _array(
            _one_of("single", "replicaset", "sharded", "sharded-replicaset", "load-balanced"), 1
        ),
    },
    least=1,
)

_SEVERITY = _one_of(
    "emergency", "alert", "critical", "error", "warning", "notice", "info", "debug", "trace"
)
_COMPONENTS = ("command", "topology", "serverSelection", "connection")

_COMMAND_EVENTS = ("commandStartedEvent", "commandSucceededEvent", "commandFailedEvent")
_CMAP_EVENTS = (
    "poolCreatedEvent",
    "poolReadyEvent",
    "poolClearedEvent",
    "poolClosedEvent",
    "connectionCreatedEvent",
    "connectionReadyEvent",
    "connectionClosedEvent",
    "connectionCheckOutStartedEvent",
    "connectionCheckOutFailedEvent",
    "connectionCheckedOutEvent",
    "connectionCheckedInEvent",
)
_SDAM_EVENTS = (
    "serverDescriptionChangedEvent",
    "serverHeartbeatStartedEvent",
    "serverHeartbeatSucceededEvent",
    "serverHeartbeatFailedEvent",
    "topologyDescriptionChangedEvent",
    "topologyOpeningEvent",
    "topologyClosedEvent",
)

_options = _fields(
    {
        "readConcern": _object,
        "readPreference": _object,
        "timeoutMS": _integer,
        "writeConcern": _object,
    }
)
_NAME = "(:[a-zA-Z0-9_]+)?"
_key = _either(_text, _fields({"$$placeholder": _anything}))
_PROVIDERS = {
    "aws": _fields(dict.fromkeys(("accessKeyId", "secretAccessKey", "sessionToken"), _key)),
    "azure": _fields(
        dict.fromkeys(
            ("tenantId", "clientId", "clientSecret", "identityPlatformEndpoint", "accessToken"),
            _key,
        )
    ),
    "gcp": _fields(dict.fromkeys(("email", "privateKey", "endpoint", "accessToken"), _key)),
    "kmip": _fields({"endpoint": _key}),
    "local": _fields({"key": _either(_key, _of(bytes, "bytes"))}),
}


def _providers(value: Any, path: str) -> None:
    _object(value, path)
    for name, each in value.items():
        if not re.fullmatch("(aws|azure|gcp|kmip|local)" + _NAME, name):
            raise Malformed(f"{path} must not have {name}")
        _PROVIDERS[name.partition(":")[0]](each, f"{path}.{name}")


_client = _fields(
    {
        "autoEncryptOpts": _object,
        "awaitMinPoolSizeMS": _integer,
        "ignoreCommandMonitoringEvents": _array(_text, 1),
        "observeEvents": _array(_one_of(*_COMMAND_EVENTS, *_CMAP_EVENTS, *_SDAM_EVENTS), 1),
        "observeLogMessages": _fields(dict.fromkeys(_COMPONENTS, _SEVERITY), least=1),
        "observeSensitiveCommands": _boolean,
        "observeTracingMessages": _fields({"enableCommandPayload": _boolean}),
        "serverApi": _fields({"strict": _boolean, "deprecationErrors": _boolean}, version=_text),
        "storeEventsAsEntities": _array(_fields(id=_text, events=_array(_text, 1)), 1),
        "uriOptions": _object,
        "useMultipleMongoses": _boolean,
    },
    id=_text,
)

_entity = _fields(
    {
        "client": _client,
        "clientEncryption": _fields(
            id=_text,
            clientEncryptionOpts=_fields(
                {"keyExpirationMS": _integer},
                keyVaultClient=_text,
                keyVaultNamespace=_text,
                kmsProviders=_providers,
            ),
        ),
        "database": _fields(
            {"databaseOptions": _options}, id=_text, client=_text, databaseName=_text
        ),
        "collection": _fields(
            {"collectionOptions": _options}, id=_text, database=_text, collectionName=_text
        ),
        "session": _fields({"sessionOptions": _object}, id=_text, client=_text),
        "bucket": _fields({"bucketOptions": _object}, id=_text, database=_text),
        "thread": _fields(id=_text),
    },
    least=1,
    most=1,
)

_data = _fields(
    {"createOptions": _object}, collectionName=_text, databaseName=_text, documents=_array(_object)
)

_error = _fields(
    {
        "errorCode": _integer,
        "errorCodeName": _text,
        "errorContains": _text,
        "errorLabelsContain": _array(_text, 1),
        "errorLabelsOmit": _array(_text, 1),
        "errorResponse": _object,
        "expectResult": _anything,
        "isClientError": _boolean,
        "isError": _always(True),
        "isTimeoutError": _boolean,
        "writeConcernErrors": _array(_object),
        "writeErrors": _object,
    },
    least=1,
)

_operation = _both(
    _fields(
        {
            "arguments": _object,
            "expectError": _error,
            "expectResult": _anything,
            "ignoreResultAndError": _boolean,
            "saveResultAsEntity": _text,
        },
        name=_text,
        object=_text,
    ),
    _excluding("expectError", "expectResult", "saveResultAsEntity"),
    _excluding("ignoreResultAndError", "expectError", "expectResult", "saveResultAsEntity"),
)

_COMMAND_FIELDS = {
    "commandName": _text,
    "databaseName": _text,
    "hasServerConnectionId": _boolean,
    "hasServiceId": _boolean,
}
_heartbeat = _fields({"awaited": _boolean})
_server = _fields(
    {
        "type": _one_of(
            "Standalone",
            "Mongos",
            "PossiblePrimary",
            "RSPrimary",
            "RSSecondary",
            "RSOther",
            "RSArbiter",
            "RSGhost",
            "LoadBalancer",
            "Unknown",
        )
    }
)
_topology = _fields({"type": _text})
_EVENTS: dict[str, Shape] = {
    **dict.fromkeys(_CMAP_EVENTS, _fields()),
    "commandStartedEvent": _fields({"command": _object, **_COMMAND_FIELDS}),
    "commandSucceededEvent": _fields({"reply": _object, **_COMMAND_FIELDS}),
    "commandFailedEvent": _fields(_COMMAND_FIELDS),
    "poolClearedEvent": _fields({"hasServiceId": _boolean, "interruptInUseConnections": _boolean}),
    "connectionClosedEvent": _fields({"reason": _text}),
    "connectionCheckOutFailedEvent": _fields({"reason": _text}),
    "serverDescriptionChangedEvent": _fields(
        {"previousDescription": _server, "newDescription": _server}
    ),
    "serverHeartbeatStartedEvent": _heartbeat,
    "serverHeartbeatSucceededEvent": _heartbeat,
    "serverHeartbeatFailedEvent": _heartbeat,
    "topologyDescriptionChangedEvent": _fields(
        {"previousDescription": _topology, "newDescription": _topology}
    ),
    "topologyOpeningEvent": _fields(),
    "topologyClosedEvent": _fields(),
}


def _event(names: Collection[str]) -> Shape:
    return _fields({name: _EVENTS[name] for name in names}, least=1, most=1)


_FAMILIES = {
    "command": _event(_COMMAND_EVENTS),
    "cmap": _event(_CMAP_EVENTS),
    "sdam": _event(_SDAM_EVENTS),
}
_events_of_client = _fields(
    {"eventType": _one_of(*_FAMILIES), "ignoreExtraEvents": _boolean},
    client=_text,
    events=_array(_object),
)


def _expected_events(value: Any, path: str) -> None:
    _events_of_client(value, path)
    family = _FAMILIES[value.get("eventType", "command")]
    _array(family)(value["events"], f"{path}.events")


_message = _fields(
    {"failureIsRedacted": _boolean},
    level=_SEVERITY,
    component=_one_of(*_COMPONENTS),
    data=_object,
)


def _span(value: Any, path: str) -> None:
    _fields({"nested": _array(_span, 1)}, name=_text, tags=_object)(value, path)


_spans = _fields({"ignoreExtraSpans": _boolean}, client=_text, spans=_array(_span))

_test = _fields(
    {
        "expectEvents": _array(_expected_events, 1),
        "expectLogMessages": _array(
            _fields(
                {"ignoreExtraMessages": _boolean, "ignoreMessages": _array(_message)},
                client=_text,
                messages=_array(_message),
            ),
            1,
        ),
        "expectTracingMessages": _either(_spans, _array(_spans, 1)),
        "outcome": _array(_data, 1),
        "runOnRequirements": _array(_requirement, 1),
        "skipReason": _text,
    },
    description=_text,
    operations=_array(_operation),
)

_file = _fields(
    {
        "_yamlAnchors": _object,
        "createEntities": _array(_entity, 1),
        "initialData": _array(_data, 1),
        "runOnRequirements": _array(_requirement, 1),
    },
    description=_text,
    schemaVersion=_version,
    tests=_array(_test, 1),
)


def check_file(file: Any) -> None:
    """
    @raise Malformed: the file does not have the format's shape, or is of a
        version that is not supported.
    """
    _file(file, "file")
    version = parse_version(file["schemaVersion"])
    if version[0] != _SUPPORTED[0] or version > _SUPPORTED:
        raise Malformed(f"schema version {file['schemaVersion']} is not supported")
