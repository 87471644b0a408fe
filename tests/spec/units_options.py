"""
Connection strings: options, hosts, credentials, read and write concerns.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.spec.units_case import Case, expect, load
from txmongokit.errors import ConfigurationError
from txmongokit.options import ClientOptions, parse_options, read_client_options

__all__ = [
    "concern_documents",
    "concern_strings",
    "connection_strings",
    "credentials",
    "said",
    "uri_options",
]


def said(options: ClientOptions) -> dict[str, Any]:
    """
    What the specifications' options say, by their names in lower case.
    """
    preference, write, srv = options.read_preference, options.write_concern, options.srv
    values: dict[str, Any] = {
        "appname": options.app_name,
        "authsource": options.auth_source,
        "compressors": list(options.compressors),
        "directconnection": options.direct_connection,
        "enableoverloadretargeting": options.enable_overload_retargeting,
        "journal": write.document.get("j"),
        "loadbalanced": options.load_balanced,
        "maxadaptiveretries": options.max_adaptive_retries,
        "maxconnecting": options.max_connecting,
        "maxpoolsize": options.max_pool_size,
        "maxstalenessseconds": preference.max_staleness,
        "minpoolsize": options.min_pool_size,
        "readconcernlevel": options.read_concern.level,
        "readpreference": preference.mongos_mode,
        "readpreferencetags": list(preference.tag_sets),
        "replicaset": options.replica_set,
        "retryreads": options.retry_reads,
        "retrywrites": options.retry_writes,
        "servermonitoringmode": options.server_monitoring_mode,
        # Whoever selects a server waits for it: there is no other way here.
        "serverselectiontryonce": False,
        "ssl": options.tls is not None,
        "tls": options.tls is not None,
        "w": write.document.get("w"),
        "wtimeoutms": write.document.get("wtimeout"),
        "zlibcompressionlevel": options.zlib_compression_level,
    }
    for name, seconds in (
        ("connecttimeoutms", options.connect_timeout),
        ("heartbeatfrequencyms", options.heartbeat_frequency),
        ("localthresholdms", options.local_threshold),
        ("maxidletimems", options.max_idle_time),
        ("serverselectiontimeoutms", options.server_selection_timeout),
        ("sockettimeoutms", options.socket_timeout),
        ("timeoutms", options.timeout),
        ("waitqueuetimeoutms", options.wait_queue_timeout),
    ):
        values[name] = None if seconds is None else seconds * 1000
    if options.credentials is not None:
        values["authmechanism"] = options.credentials.mechanism
        values["authmechanismproperties"] = options.credentials.properties
    if srv is not None:
        values["srvservicename"] = srv.service_name
        values["srvmaxhosts"] = srv.max_hosts
    if options.proxy is not None:
        proxy = options.proxy
        values |= {
            "proxyhost": proxy.host,
            "proxyport": proxy.port,
            "proxyusername": proxy.username,
            "proxypassword": proxy.password,
        }
    if options.tls is not None:
        tls = options.tls
        values |= {
            "tlsallowinvalidcertificates": tls.allow_invalid_certificates,
            "tlsallowinvalidhostnames": tls.allow_invalid_hostnames,
            "tlscafile": tls.ca_file,
            "tlscertificatekeyfile": tls.certificate_key_file,
            "tlscertificatekeyfilepassword": tls.certificate_key_file_password,
            "tlsdisablecertificaterevocationcheck": tls.disable_certificate_revocation_check,
            "tlsdisableocspendpointcheck": tls.disable_ocsp_endpoint_check,
            "tlsinsecure": tls.allow_invalid_certificates and tls.allow_invalid_hostnames,
        }
    return values


def _read(case: Mapping[str, Any]) -> ClientOptions | None:
    """The options of a case's connection string; C{None} where it is to be refused."""
    uri = case["uri"]
    if not case["valid"]:
        try:
            parse_options(uri)
        except ConfigurationError:
            return None
        raise AssertionError(f"{uri} was taken")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = read_client_options(uri)
    if case.get("warning") is not None:
        expect([str(each.message) for each in caught] != [], case["warning"], "a warning")
    return options


def _check_options(options: ClientOptions, wanted: Mapping[str, Any] | None) -> None:
    values = said(options)
    for name, value in (wanted or {}).items():
        expect(values.get(name.lower()), value, name)


def _uri_option(case: Mapping[str, Any]) -> None:
    options = _read(case)
    if options is not None:
        _check_options(options, case["options"])
        _check_hosts(options, case.get("hosts"))


def uri_options(path: Path) -> Iterator[Case]:
    """
    URI options specification.
    """
    for case in load(path)["tests"]:
        yield Case(case["description"], partial(_uri_option, case))


def _check_hosts(options: ClientOptions, hosts: Any) -> None:
    if hosts:
        # PyMongo's grammar: what ends in .sock is a socket, and names are in lower case.
        wanted = [
            (each["host"], None)
            if each["host"].endswith(".sock")
            else (each["host"].lower(), each["port"] or 27017)
            for each in hosts
        ]
        expect(list(options.seeds), wanted, "the hosts")


def _connection_string(case: Mapping[str, Any]) -> None:
    options = _read(case)
    if options is None:
        return
    _check_options(options, case["options"])
    _check_hosts(options, case["hosts"])
    auth = case["auth"]
    if auth is None:
        expect(options.credentials, None, "the credentials")
        return
    if auth["db"] is not None:
        # A name with a dot is a database and a collection.
        expect(options.default_database, auth["db"].partition(".")[0], "the database")
    # PyMongo's users escape with quote_plus, which makes a space a plus.
    names = {name: auth[name] and auth[name].replace("+", " ") for name in auth}
    credentials = options.credentials
    expect(credentials and credentials.username, names["username"], "the user")
    expect(credentials and credentials.password, names["password"] or None, "the password")


def connection_strings(path: Path) -> Iterator[Case]:
    """
    Connection string specification.
    """
    for case in load(path)["tests"]:
        yield Case(case["description"], partial(_connection_string, case))


def _credential(case: Mapping[str, Any]) -> None:
    options = _read(case)
    if options is None:
        return
    wanted, found = case["credential"], options.credentials
    if wanted is None or found is None:
        expect(found, wanted, "the credentials")
        return
    expect(found.username, wanted["username"], "the user")
    expect(found.password, wanted["password"], "the password")
    expect(found.source, wanted["source"], "the source")
    expect(found.mechanism, wanted["mechanism"] or "DEFAULT", "the mechanism")
    expect(found.properties, wanted["mechanism_properties"] or {}, "the properties")


def credentials(path: Path) -> Iterator[Case]:
    """
    Authentication specification.
    """
    for case in load(path)["tests"]:
        yield Case(case["description"], partial(_credential, case))


_FIELDS = {"wtimeoutMS": "wtimeout", "journal": "j"}


def _concern_string(case: Mapping[str, Any]) -> None:
    options = _read(case)
    if options is None:
        return
    if "readConcern" in case:
        expect(options.read_concern.document, case["readConcern"], "the read concern")
    if "writeConcern" in case:
        wanted = {_FIELDS.get(name, name): value for name, value in case["writeConcern"].items()}
        expect(options.write_concern.document, wanted, "the write concern")


def concern_strings(path: Path) -> Iterator[Case]:
    """
    Read and write concern specification: connection strings.
    """
    for case in load(path)["tests"]:
        yield Case(case["description"], partial(_concern_string, case))


def _concern_document(case: Mapping[str, Any]) -> None:
    if "readConcern" in case:
        level = case["readConcern"].get("level")
        concern = read_client_options("h", readConcernLevel=level).read_concern
        expect(concern.document, case["readConcernDocument"], "the read concern")
        expect(concern.ok_for_legacy, case["isServerDefault"] or level == "local", "the default")
        return
    try:
        write = read_client_options("h", **case["writeConcern"]).write_concern
    except ConfigurationError:
        if case["valid"]:
            raise
        return
    if not case["valid"]:
        raise AssertionError(f"{case['writeConcern']} was taken")
    expect(write.document, case["writeConcernDocument"], "the write concern")
    expect(write.is_server_default, case["isServerDefault"], "the default")
    expect(write.acknowledged, case["isAcknowledged"], "the acknowledgement")


def concern_documents(path: Path) -> Iterator[Case]:
    """
    Read and write concern specification: documents.
    """
    for case in load(path)["tests"]:
        yield Case(case["description"], partial(_concern_document, case))
