"""
Tests for L{txmongokit.options}.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.son import SON
from pymongo import common
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Nearest, ReadPreference, Secondary
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from tests._specifications import cases
from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.options import ClientOptions, Credentials, TLSOptions, parse_options

REFUSED = (ConfigurationError, InvalidURI)

# Valid by the specifications and refused here, and why.
EXCEPTIONS: Mapping[str, str] = {
    "authMechanism=GSSAPI": "the mechanism is not supported",
    "authMechanism=MONGODB-AWS": "the mechanism is not supported",
    "authMechanism=MONGODB-OIDC": "the mechanism is not supported",
    "mongodb+srv://": "not supported by this version",
    "maxAdaptiveRetries": "there are no overload retries whose number it could set",
    "enableOverloadRetargeting": "there are no overload retries",
    "serverSelectionTryOnce": "an option of single-threaded drivers",
    "tlsDisableCertificateRevocationCheck": "PyMongo's grammar does not know it",
    "tlsCAFile=ca.pem": "the file does not exist",
    "mongodb://alice@127.0.0.1": "SCRAM needs a password (authentication specification)",
    "mongodb://alice:@127.0.0.1": "SCRAM needs a password (authentication specification)",
    "mongodb://%40l%3Ace%2F%3D@": "SCRAM needs a password (authentication specification)",
    "proxyHost": "proxies are not supported",
    "loadBalanced=true": "load balancers are not supported",
}

# The specifications' option names, and where their values are here.
FIELDS: Mapping[str, tuple[str, float]] = {
    "appname": ("app_name", 0),
    "connectTimeoutMS": ("connect_timeout", 1000),
    "directConnection": ("direct_connection", 0),
    "heartbeatFrequencyMS": ("heartbeat_frequency", 1000),
    "localThresholdMS": ("local_threshold", 1000),
    "maxConnecting": ("max_connecting", 0),
    "maxIdleTimeMS": ("max_idle_time", 1000),
    "maxPoolSize": ("max_pool_size", 0),
    "minPoolSize": ("min_pool_size", 0),
    "replicaSet": ("replica_set", 0),
    "retryReads": ("retry_reads", 0),
    "retryWrites": ("retry_writes", 0),
    "serverSelectionTimeoutMS": ("server_selection_timeout", 1000),
    "socketTimeoutMS": ("socket_timeout", 1000),
    "timeoutMS": ("timeout", 1000),
    "zlibCompressionLevel": ("zlib_compression_level", 0),
}
TLS_FIELDS: Mapping[str, str] = {
    "tlsAllowInvalidCertificates": "allow_invalid_certificates",
    "tlsAllowInvalidHostnames": "allow_invalid_hostnames",
    "tlsCAFile": "ca_file",
    "tlsCertificateKeyFile": "certificate_key_file",
    "tlsCertificateKeyFilePassword": "certificate_key_file_password",
}
# Checked by name below, or without an effect.
UNCHECKED = {"tlsDisableOCSPEndpointCheck", "serverMonitoringMode", "loadBalanced"}


def is_exception(uri: str) -> bool:
    """Whether a valid URI is one that is refused on purpose."""
    return any(part in uri for part in EXCEPTIONS)


class SpecificationTests(SynchronousTestCase):
    """
    The specifications' connection strings.
    """

    def check(self, case: Mapping[str, Any]) -> ClientOptions | None:
        """
        One URI is taken, or refused with one of PyMongo's errors.  What
        other drivers warn of is refused here, as nothing is dropped.
        """
        uri = case["uri"]
        try:
            options = parse_options(uri)
        except REFUSED as error:
            self.assertTrue(
                not case["valid"] or case.get("warning") or is_exception(uri),
                f"{case['description']}: {uri}: {error}",
            )
            return None
        self.assertTrue(
            case["valid"] and not case.get("warning") and not is_exception(uri),
            f"{case['description']}: {uri} was taken",
        )
        return options

    def test_uri_options(self) -> None:
        """Every valid option ends up in its field."""
        checked = set()
        for _, file in cases("uri-options/tests"):
            for case in file["tests"]:
                options = self.check(case)
                if options is not None:
                    for name, value in case["options"].items():
                        self.check_option(options, name, value, case["uri"])
                        checked.add(name)
        self.assertGreater(len(checked), 12)

    def check_option(self, options: ClientOptions, name: str, value: Any, uri: str) -> None:
        """One option has its value."""
        if name in UNCHECKED:
            return
        if name in FIELDS:
            field, scale = FIELDS[name]
            actual = getattr(options, field)
            self.assertEqual(actual * scale if scale else actual, value, uri)
        elif name in TLS_FIELDS and options.tls is not None:
            self.assertEqual(getattr(options.tls, TLS_FIELDS[name]), value, uri)
        elif name in ("tls", "ssl", *TLS_FIELDS, "tlsInsecure"):
            self.assertEqual(options.tls is not None, value, uri)
        else:
            self.assertEqual(other_options(options)[name], value, uri)

    def test_connection_strings(self) -> None:
        """Hosts, user, password and database."""
        for _, file in cases("connection-string/tests"):
            for case in file["tests"]:
                options = self.check(case)
                if options is None:
                    continue
                seeds = [(each["host"], each["port"]) for each in case["hosts"] or ()]
                if seeds:
                    # PyMongo's grammar: what ends in .sock is a socket.
                    wanted = [
                        (host.lower(), None if host.endswith(".sock") else port or 27017)
                        for host, port in seeds
                    ]
                    actual = [(host.lower(), port) for host, port in options.seeds]
                    self.assertEqual(actual, wanted, case["uri"])
                self.check_auth(options, case["auth"], case["uri"])

    def check_auth(self, options: ClientOptions, auth: Any, uri: str) -> None:
        """A URI's user is the one that logs in."""
        if auth is None or auth["username"] is None:
            self.assertIsNone(options.credentials, uri)
            return
        assert options.credentials is not None
        # PyMongo's users escape with quote_plus, which makes a space a plus.
        for name in ("username", "password"):
            wanted = auth[name] and auth[name].replace("+", " ")
            self.assertEqual(getattr(options.credentials, name), wanted, uri)
        self.assertEqual(options.default_database, auth["db"], uri)

    def test_credentials(self) -> None:
        """The authentication specification's sources and mechanisms."""
        logged_in = 0
        for _, file in cases("auth/tests/legacy", "connection-string.json"):
            for case in file["tests"]:
                options = self.check(case)
                if options is None or case.get("credential") is None:
                    continue
                wanted = case["credential"]
                self.assertEqual(
                    options.credentials,
                    Credentials(
                        wanted["username"],
                        wanted["password"],
                        wanted["source"],
                        wanted["mechanism"] or "DEFAULT",
                    ),
                    case["uri"],
                )
                logged_in += 1
        self.assertGreater(logged_in, 15)

    def test_concerns(self) -> None:
        """Read and write concerns become PyMongo's objects."""
        for _, file in cases("read-write-concern/tests/connection-string"):
            for case in file["tests"]:
                options = self.check(case)
                if options is None:
                    continue
                if "readConcern" in case:
                    self.assertEqual(options.read_concern.document, case["readConcern"])
                if "writeConcern" in case:
                    wanted = dict(case["writeConcern"])
                    for ours, theirs in (("wtimeout", "wtimeoutMS"), ("j", "journal")):
                        if theirs in wanted:
                            wanted[ours] = wanted.pop(theirs)
                    self.assertEqual(options.write_concern.document, wanted)


def other_options(options: ClientOptions) -> dict[str, Any]:
    """What the specifications' options say that are not in one field."""
    credentials, preference = options.credentials, options.read_preference
    return {
        "authMechanism": credentials and credentials.mechanism,
        "authSource": credentials and credentials.source,
        "compressors": list(options.compressors),
        "readConcernLevel": options.read_concern.level,
        "readPreference": preference.name[0].lower() + preference.name[1:]
        if hasattr(preference, "name")
        else preference.mongos_mode,
        "readPreferenceTags": list(preference.tag_sets),
        "maxStalenessSeconds": preference.max_staleness,
        "w": options.write_concern.document.get("w"),
        "wTimeoutMS": options.write_concern.document.get("wtimeout"),
        "journal": options.write_concern.document.get("j"),
    }


class HostTests(SynchronousTestCase):
    """
    Where to connect to.
    """

    def test_without_scheme(self) -> None:
        """Hosts need no scheme, as in TxMongo."""
        self.assertEqual(parse_options("a:1,b").seeds, (("a", 1), ("b", 27017)))

    def test_ipv6(self) -> None:
        """An IPv6 address loses its brackets."""
        self.assertEqual(parse_options("[::1]:27018").seeds, (("::1", 27018),))

    def test_unix_socket(self) -> None:
        """A percent-encoded path is a Unix socket."""
        seeds = parse_options("mongodb://%2Ftmp%2Fm.sock/").seeds
        self.assertEqual(seeds, (("/tmp/m.sock", None),))

    def test_database(self) -> None:
        """The path names the default database."""
        self.assertEqual(parse_options("h/db").default_database, "db")

    def test_srv(self) -> None:
        """SRV is refused before anything is looked up, without the password."""
        error = self.assertRaises(ConfigurationError, parse_options, "mongodb+srv://u:hunter2@h/")
        self.assertIn("list the hosts", str(error))
        self.assertNotIn("hunter2", str(error))

    def test_direct_connection(self) -> None:
        """A direct connection is to one host."""
        self.assertRaises(ConfigurationError, parse_options, "a,b/?directConnection=true")
        self.assertTrue(parse_options("a", directConnection=True).direct_connection)

    def test_type(self) -> None:
        """The URI is text."""
        self.assertRaises(TypeError, parse_options, b"h")


class DefaultTests(SynchronousTestCase):
    """
    What holds when nothing is said.
    """

    def test_defaults(self) -> None:
        """The parser's defaults are the class's."""
        parsed = parse_options("h")
        expected = ClientOptions(
            seeds=(("h", 27017),),
            codec_options=CodecOptions(uuid_representation=UuidRepresentation.STANDARD),
        )
        self.assertEqual(parsed, expected)

    def test_every_wait_has_a_limit(self) -> None:
        """A queue is left no later than server selection ends."""
        options = parse_options("h", serverSelectionTimeoutMS=5000)
        self.assertEqual(options.wait_queue_timeout, 5.0)
        self.assertEqual(parse_options("h", waitQueueTimeoutMS=70).wait_queue_timeout, 0.07)
        self.assertEqual(parse_options("h", serverSelectionTimeoutMS=0).wait_queue_timeout, 30.0)

    def test_no_limit(self) -> None:
        """Zero means no limit where the specifications say so."""
        options = parse_options("h", timeoutMS=0, socketTimeoutMS=0)
        self.assertIsNone(options.timeout)
        self.assertIsNone(options.socket_timeout)


class KeywordTests(SynchronousTestCase):
    """
    Options as keyword arguments.
    """

    def test_override(self) -> None:
        """A keyword argument wins over the URI."""
        options = parse_options("mongodb://h/?w=1&maxPoolSize=5", w=2, maxpoolsize=7)
        self.assertEqual(options.write_concern, WriteConcern(2))
        self.assertEqual(options.max_pool_size, 7)

    def test_none_is_absent(self) -> None:
        """C{None} leaves the URI's value."""
        self.assertEqual(parse_options("h/?maxPoolSize=5", maxPoolSize=None).max_pool_size, 5)

    def test_seconds(self) -> None:
        """Milliseconds become seconds."""
        options = parse_options(
            "h", localThresholdMS=20, heartbeatFrequencyMS=500, maxIdleTimeMS=1500
        )
        self.assertEqual(options.local_threshold, 0.02)
        self.assertEqual(options.heartbeat_frequency, 0.5)
        self.assertEqual(options.max_idle_time, 1.5)

    def test_objects(self) -> None:
        """PyMongo's value objects are taken as they are."""
        given: dict[str, Any] = {
            "read_preference": Secondary(max_staleness=100),
            "read_concern": ReadConcern("majority"),
            "write_concern": WriteConcern("majority", wtimeout=5),
            "server_api": ServerApi("1", strict=True),
            "codec_options": CodecOptions(tz_aware=True),
        }
        options = parse_options("mongodb://h/?w=1", **given)
        for name, value in given.items():
            self.assertEqual(getattr(options, name), value)

    def test_wrong_objects(self) -> None:
        """An object of the wrong class is refused by name, not ignored."""
        names = ("read_preference", "read_concern", "write_concern", "server_api", "codec_options")
        for name in names:
            error = self.assertRaises(ConfigurationError, parse_options, "h", **{name: 3})
            self.assertIn(name, str(error))

    def test_codec_options(self) -> None:
        """What BSON becomes, from single options, on top of an object."""
        options = parse_options(
            "mongodb://h/?uuidRepresentation=pythonLegacy",
            tz_aware=True,
            document_class=SON,
            codec_options=CodecOptions(unicode_decode_error_handler="replace"),
        ).codec_options
        self.assertEqual(
            options,
            CodecOptions(
                SON,
                tz_aware=True,
                uuid_representation=UuidRepresentation.PYTHON_LEGACY,
                unicode_decode_error_handler="replace",
            ),
        )
        error = self.assertRaises(ConfigurationError, parse_options, "h", document_class=int)
        self.assertIn("document_class", str(error))

    def test_tags(self) -> None:
        """Tag sets may be text or mappings, and keep their order."""
        for tags in (["a:b,c:d", ""], [{"a": "b", "c": "d"}, {}]):
            options = parse_options("h", readPreference="nearest", readPreferenceTags=tags)
            self.assertEqual(options.read_preference, Nearest([{"a": "b", "c": "d"}, {}]))

    def test_read_preference(self) -> None:
        """Primary goes with no tags; every mode is known."""
        self.assertEqual(parse_options("h").read_preference, ReadPreference.PRIMARY)
        for mode in ("primaryPreferred", "secondary", "secondaryPreferred", "nearest"):
            preference = parse_options(f"h/?readPreference={mode}").read_preference
            self.assertEqual(preference.mongos_mode, mode)
        error = self.assertRaises(
            ConfigurationError, parse_options, "h", readPreferenceTags=[{"a": "b"}]
        )
        self.assertIn("primary", str(error))

    def test_user(self) -> None:
        """User and password may be given apart from the URI, unescaped."""
        options = parse_options("mongodb://x:y@h/db", username="u@", password="p/:")
        self.assertEqual(options.credentials, Credentials("u@", "p/:", "db", "DEFAULT"))


class CompressorTests(SynchronousTestCase):
    """
    Compressors, which PyMongo's own parser drops where it lacks a package.
    """

    def test_kept(self) -> None:
        """Known ones are kept, in order, wherever the option stands."""
        for uri in (
            "h/?compressors=zstd,snappy,zlib",
            "h/?w=1&compressors=zstd,snappy,zlib",
            "h/?compressors=zstd,snappy,zlib&w=1",
            "h/?COMPRESSORS=zstd%2Csnappy,zlib,zstd",
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                options = parse_options(uri)
            self.assertEqual(options.compressors, ("zstd", "snappy", "zlib"), uri)
            self.assertEqual(options.write_concern.document, {"w": 1} if "w=1" in uri else {})
        self.assertEqual(parse_options("h", compressors=["zlib"]).compressors, ("zlib",))

    def test_unknown(self) -> None:
        """Others are refused."""
        error = self.assertRaises(ConfigurationError, parse_options, "h/?compressors=zlib,lz4")
        self.assertIn("lz4", str(error))


class CredentialTests(SynchronousTestCase):
    """
    Who logs in.
    """

    def test_repr(self) -> None:
        """No password is ever shown."""
        options = parse_options(
            "mongodb://u:hunter2@h/", tls=True, tlsCertificateKeyFilePassword="swordfish"
        )
        self.assertIn("'u'", repr(options))
        self.assertNotIn("hunter2", repr(options))
        self.assertNotIn("swordfish", repr(options))

    def test_secrets_in_errors(self) -> None:
        """No error shows any of a password, however badly it is escaped."""
        for uri in (
            "mongodb://u:hunter2@h:x/",
            "mongodb://u:pa/hunter2@h/",
            "mongodb://u:pa/hunter2@h/?w=1",
            "mongodb://u:pa?hunter2@h/",
            "mongodb://u:pa?hunter2=1@h/",
            "mongodb://u:pa@hunter2@h/",
            "mongodb://u:pa:hunter2@h/",
            "mongodb://u:hun%ter2@h/",
            "mongodb://u:hunter2@h/?w=1&hunter2=1",
            "mongodb://u:hunter%32@h/?hunter2=1",
            "mongodb://:hunter2@h/",
            "mongodb://u:hunter2@h/?authMechanism=MONGODB-X509",
            "mongodb://u:hunter2@h/?authMechanism=GSSAPI",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2&tls=false",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2&hunter2=3",
        ):
            error = self.assertRaises(REFUSED, parse_options, uri)
            self.assertNotIn("ter2", str(error), uri)
            self.assertIsNone(error.__cause__)

    def test_unsupported_mechanisms(self) -> None:
        """Mechanisms that are not supported are refused by name."""
        for name in ("GSSAPI", "MONGODB-AWS", "MONGODB-OIDC", "MONGODB-CR"):
            uri = f"mongodb://u:p@h/?authMechanism={name}"
            error = self.assertRaises(REFUSED, parse_options, uri)
            self.assertIn("authmechanism", str(error).lower())

    def test_password_missing(self) -> None:
        """A user without a password is refused, not sent as empty."""
        for uri in ("mongodb://u@h/", "mongodb://u:@h/"):
            error = self.assertRaises(ConfigurationError, parse_options, uri)
            self.assertIn("has no password", str(error))

    def test_password_alone(self) -> None:
        """A password without a user is refused, not dropped."""
        error = self.assertRaises(ConfigurationError, parse_options, "h", password="hunter2")
        self.assertIn("user name", str(error))
        self.assertNotIn("hunter2", str(error))

    def test_secret_keywords(self) -> None:
        """Properties of mechanisms may be secrets, and are not shown."""
        for value in ("hunter2", {"nonsense": "hunter2"}, {"AWS_SESSION_TOKEN": "hunter2"}):
            error = self.assertRaises(
                ConfigurationError, parse_options, "h", authMechanismProperties=value
            )
            self.assertIn("authmechanismproperties", str(error).lower())
            self.assertNotIn("hunter2", str(error))

    def test_bytes(self) -> None:
        """Bytes are refused by name: as text they would be another password."""
        error = self.assertRaises(
            ConfigurationError, parse_options, "h", tlsCertificateKeyFilePassword=b"hunter2"
        )
        self.assertIn("tlsCertificateKeyFilePassword must be text", str(error))
        self.assertNotIn("hunter2", str(error))

    def test_certificate_user(self) -> None:
        """A certificate's user has no password."""
        credentials = parse_options("mongodb://CN%3Du@h/?authMechanism=MONGODB-X509").credentials
        self.assertEqual(credentials, Credentials("CN=u", None, "$external", "MONGODB-X509"))


class TLSTests(SynchronousTestCase):
    """
    TLS options: never dropped.
    """

    def test_off(self) -> None:
        """Nothing asks for TLS."""
        self.assertIsNone(parse_options("h").tls)
        self.assertIsNone(parse_options("h", tls=False).tls)

    def test_verifies(self) -> None:
        """TLS verifies by default."""
        self.assertEqual(parse_options("h", tls=True).tls, TLSOptions())
        self.assertEqual(parse_options("h/?ssl=true").tls, TLSOptions())

    def test_implied(self) -> None:
        """Each TLS option turns TLS on."""
        path = Path(self.mktemp())
        path.touch()
        for name, field in TLS_FIELDS.items():
            value: Any = True if "Allow" in name else "secret" if "Pass" in name else str(path)
            tls = parse_options("h", **{name: value}).tls
            self.assertEqual(tls, TLSOptions(**{field: value}), name)

    def test_insecure(self) -> None:
        """C{tlsInsecure} weakens both, and goes with nothing else."""
        tls = parse_options("h", tlsInsecure=True).tls
        wanted = TLSOptions(allow_invalid_certificates=True, allow_invalid_hostnames=True)
        self.assertEqual(tls, wanted)

    def test_contradiction(self) -> None:
        """Turned off and configured at once is refused."""
        self.assertRaises(ConfigurationError, parse_options, "h/?tls=false&tlsInsecure=true")
        self.assertRaises(REFUSED, parse_options, "h/?tls=true&ssl=false")

    def test_contradicting_keywords(self) -> None:
        """So it is where keyword arguments contradict one another, or the URI."""
        insecure = {"tlsInsecure": True}
        for name in (
            "tlsAllowInvalidCertificates",
            "tlsAllowInvalidHostnames",
            "tlsDisableOCSPEndpointCheck",
        ):
            for uri, keywords in (
                ("h", {**insecure, name: False}),
                ("h/?tlsInsecure=true", {name: False}),
                (f"h/?{name}=false", insecure),
            ):
                error = self.assertRaises(ConfigurationError, parse_options, uri, **keywords)
                self.assertIn(f"tlsInsecure and {name}", str(error))
        self.assertRaises(
            ConfigurationError,
            parse_options,
            "h/?tlsAllowInvalidCertificates=true",
            tlsDisableOCSPEndpointCheck=True,
        )
        self.assertIsNotNone(parse_options("h", tlsInsecure=True, tlsAllowInvalidHostnames=None))

    def test_missing_file(self) -> None:
        """A file that is not there is an error of configuration, by name."""
        for name in ("tlsCAFile", "tlsCertificateKeyFile", "tlsCRLFile"):
            error = self.assertRaises(
                ConfigurationError, parse_options, "h", **{name: "/no/such/file"}
            )
            self.assertIn("/no/such/file", str(error))

    def test_revocation_list(self) -> None:
        """A revocation list is refused, as it would not be looked at."""
        path = Path(self.mktemp())
        path.touch()
        error = self.assertRaises(ConfigurationError, parse_options, "h", tlsCRLFile=str(path))
        self.assertIn("revocation", str(error))


class RefusalTests(SynchronousTestCase):
    """
    Nothing is silently dropped.
    """

    def test_nothing_is_dropped(self) -> None:
        """
        Every option that PyMongo's URIs may have changes what is parsed, or
        is refused, or is known to have no effect.
        """
        path = Path(self.mktemp())
        path.touch()
        values: dict[str, Any] = {
            "appname": "x", "authmechanism": "MONGODB-X509", "compressors": "zlib",
            "readpreference": "nearest", "readpreferencetags": "a:b", "replicaset": "x",
            "readconcernlevel": "local", "uuidrepresentation": "pythonLegacy", "w": "2",
            "retryreads": "false", "retrywrites": "false", "tlscafile": str(path),
            "tlscertificatekeyfile": str(path), "tlscrlfile": str(path),
            "tlscertificatekeyfilepassword": "x", "unicode_decode_error_handler": "replace",
            "datetime_conversion": "DATETIME_MS", "zlibcompressionlevel": "3",
            "authmechanismproperties": "SERVICE_NAME:x", "maxpoolsize": "7", "minpoolsize": "7",
            "heartbeatfrequencyms": "700", "maxconnecting": "7", "srvservicename": "x",
            "srvallowedhostssuffix": "x", "servermonitoringmode": "poll", "maxadaptiveretries": "1",
        }  # fmt: skip
        companions = {
            "readpreferencetags": "readPreference=nearest&",
            "maxstalenessseconds": "readPreference=nearest&",
        }
        no_effect = {
            "authsource": "of no use without a user (authentication specification)",
            "connect": "connecting is on first use",
            "servermonitoringmode": "monitoring is by polling",
            "tlsdisableocspendpointcheck": "no responder is ever asked",
        }
        numbers = {"wtimeoutms", "srvmaxhosts", "maxstalenessseconds", "waitqueuemultiple"}
        refused = set()
        for option in common.URI_OPTIONS_VALIDATOR_MAP:
            default = "120" if option.endswith("ms") or option in numbers else "true"
            companion = companions.get(option, "")
            uri = f"mongodb://h/?{companion}{option}={values.get(option, default)}"
            try:
                parsed = parse_options(uri)
            except REFUSED:
                refused.add(option)
                continue
            changed = parsed != parse_options(f"mongodb://h/?{companion}".rstrip("?&"))
            self.assertEqual(changed, option not in no_effect, option)
        self.assertEqual(
            refused,
            {
                "authmechanismproperties",
                "driver",
                "enableoverloadretargeting",
                "loadbalanced",
                "maxadaptiveretries",
                "server_api",
                "srvallowedhostssuffix",
                "srvmaxhosts",
                "srvservicename",
                "waitqueuemultiple",
            }
            & set(common.URI_OPTIONS_VALIDATOR_MAP),
        )

    def test_names(self) -> None:
        """An error names option and value."""
        for name, value in (
            ("nonsense", 3),
            ("pool_size", 3),
            ("event_listeners", [1]),
            ("connectTimeoutMS", -5),
            ("maxConnecting", 0),
            ("tls", "perhaps"),
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **{name: value})
            self.assertIn(f"{name}={value!r}", str(error))

    def test_same_option_twice(self) -> None:
        """Two names of one option would lose one of the values."""
        for keywords in (
            {"tls": True, "ssl": False},
            {"ssl": False, "tls": True},
            {"j": True, "journal": False},
            {"maxPoolSize": 1, "maxpoolsize": 2},
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **keywords)
            self.assertIn(" and ".join(keywords), str(error))
        self.assertIsNone(parse_options("h/?ssl=true", tls=False).tls)
        self.assertIsNone(parse_options("h/?tls=true", ssl=False).tls)
        self.assertEqual(parse_options("h", tls=True, ssl=None).tls, TLSOptions())

    def test_never_another_error(self) -> None:
        """Values that PyMongo fails on in its own way are errors of configuration."""
        for options, part in (
            ({"datetime_conversion": "zz"}, "DATETIME_AUTO"),
            ({"compressors": ("zlib", 3)}, "compressors=3"),
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **options)
            self.assertIn(part, str(error))
        error = self.assertRaises(ConfigurationError, parse_options, "h/?datetime_conversion=zz")
        self.assertIn("datetime_conversion", str(error))

    def test_no_listeners(self) -> None:
        """An empty list of listeners asks for nothing."""
        self.assertEqual(parse_options("h", event_listeners=[]), parse_options("h"))

    def test_limits(self) -> None:
        """Numbers that cannot work are refused."""
        self.assertRaises(ConfigurationError, parse_options, "h", minPoolSize=5, maxPoolSize=4)
        self.assertRaises(ConfigurationError, parse_options, "h", heartbeatFrequencyMS=499)
        self.assertRaises(ConfigurationError, parse_options, "h", replicaSet="")
        self.assertRaises(ConfigurationError, parse_options, "h", appname="a" * 129)

    def test_write_concern(self) -> None:
        """A write concern that contradicts itself is refused."""
        error = self.assertRaises(ConfigurationError, parse_options, "h", w=0, journal=True)
        self.assertIn("write concern", str(error))

    def test_load_balanced(self) -> None:
        """Load balancers are refused; saying that there is none is not."""
        self.assertRaises(ConfigurationError, parse_options, "h/?loadBalanced=true")
        self.assertEqual(parse_options("h/?loadBalanced=false"), parse_options("h"))

    def test_duplicates(self) -> None:
        """An option that is given twice would lose one of its values."""
        self.assertRaises(ConfigurationError, parse_options, "h/?w=1&w=2")
