"""
Tests for L{txmongokit.options}.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.son import SON
from pymongo import common
from pymongo.auth_oidc import OIDCCallback, OIDCCallbackContext, OIDCCallbackResult
from pymongo.driver_info import DriverInfo
from pymongo.monitoring import ServerListener
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Nearest, ReadPreference, Secondary
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern
from twisted.trial.unittest import SynchronousTestCase

from txmongokit._pymongo import is_public_suffix
from txmongokit.errors import ConfigurationError, InvalidURI
from txmongokit.options import (
    ClientOptions,
    Credentials,
    ProxyOptions,
    SrvOptions,
    TLSOptions,
    apply_srv,
    parse_options,
    read_client_options,
)

REFUSED = (ConfigurationError, InvalidURI)

TLS_FIELDS: Mapping[str, str] = {
    "tlsAllowInvalidCertificates": "allow_invalid_certificates",
    "tlsAllowInvalidHostnames": "allow_invalid_hostnames",
    "tlsCAFile": "ca_file",
    "tlsCRLFile": "crl_file",
    "tlsCertificateKeyFile": "certificate_key_file",
    "tlsCertificateKeyFilePassword": "certificate_key_file_password",
    "tlsDisableCertificateRevocationCheck": "disable_certificate_revocation_check",
    "tlsDisableOCSPEndpointCheck": "disable_ocsp_endpoint_check",
}


class OptionsTestCase(SynchronousTestCase):
    """
    What is warned of.
    """

    def warned(self, uri: str, **kwargs: Any) -> tuple[ClientOptions, list[str]]:
        """The options, and the warnings that they gave."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            options = parse_options(uri, **kwargs)
        for each in caught:
            self.assertIs(each.category, UserWarning)
            self.assertEqual(each.filename, __file__)
        return options, [str(each.message) for each in caught]


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
        options = parse_options("h", socketTimeoutMS=0, connectTimeoutMS=0, maxIdleTimeMS=0)
        self.assertIsNone(options.socket_timeout)
        self.assertIsNone(options.connect_timeout)
        self.assertIsNone(options.max_idle_time)

    def test_operation_timeout(self) -> None:
        """No C{timeoutMS} is another thing than one of 0, which sets its rules into force."""
        self.assertIsNone(parse_options("h").timeout)
        self.assertEqual(parse_options("h", timeoutMS=0).timeout, 0.0)
        self.assertEqual(parse_options("h/?timeoutMS=1500").timeout, 1.5)


class KeywordTests(OptionsTestCase):
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

    def test_names(self) -> None:
        """Keyword arguments have the URI's names, in any case, or PyMongo's."""
        for keywords, field, value in (
            ({"MAXPOOLSIZE": 3}, "max_pool_size", 3),
            ({"max_pool_size": 3}, "max_pool_size", 3),
            ({"app_name": "x"}, "app_name", "x"),
            ({"appname": "x"}, "app_name", "x"),
            ({"max_adaptive_retries": 5}, "max_adaptive_retries", 5),
            ({"enable_overload_retargeting": True}, "enable_overload_retargeting", True),
            ({"server_monitoring_mode": "poll"}, "server_monitoring_mode", "poll"),
            ({"wait_queue_timeout_ms": 70}, "wait_queue_timeout", 0.07),
            ({"maxPoolSize": float("inf")}, "max_pool_size", 0),
            ({"maxPoolSize": 5.0}, "max_pool_size", 5),
            ({"w": "2"}, "write_concern", WriteConcern(2)),
            ({"w": "mine"}, "write_concern", WriteConcern("mine")),
        ):
            options, notes = self.warned("h", **keywords)
            self.assertEqual((getattr(options, field), notes), (value, []), keywords)

    def test_driver(self) -> None:
        """A driver on top of this one names itself, and selects servers as it likes."""
        driver = DriverInfo("mine", "1")
        options = parse_options("h", driver=driver, server_selector=list)
        self.assertEqual(options.driver, driver)
        self.assertIs(options.server_selector, list)
        self.assertRaises(ConfigurationError, parse_options, "h", driver="mine")
        self.assertRaises(TypeError, parse_options, "h", server_selector=3)

    def test_listeners(self) -> None:
        """Listeners are instances of PyMongo's classes, and nothing else."""
        listener = ServerListener()
        self.assertEqual(
            parse_options("h", event_listeners=[listener]).event_listeners, (listener,)
        )
        self.assertEqual(parse_options("h", event_listeners=()).event_listeners, ())
        for wrong in (listener, [object()], [ServerListener], "x"):
            error = self.assertRaises(TypeError, parse_options, "h", event_listeners=wrong)
            self.assertIn("listener", str(error))

    def test_sharing(self) -> None:
        """An explicit size of the pool turns sharing off, unless it is asked for."""
        for keywords, depth in (
            ({}, None),
            ({"maxPoolSize": 100}, 1),
            ({"maxPoolSize": 100, "connection_sharing": 4}, 4),
            ({"connection_sharing": 1}, 1),
        ):
            self.assertEqual(parse_options("h", **keywords).connection_sharing, depth, keywords)
        self.assertEqual(parse_options("h/?maxPoolSize=3").connection_sharing, 1)

    def test_time_zone(self) -> None:
        """Dates may be wanted in a time zone."""
        zone = datetime.timezone(datetime.timedelta(hours=1))
        options = parse_options("h", tz_aware=True, tzinfo=zone).codec_options
        self.assertEqual(options.tzinfo, zone)
        self.assertRaises(ConfigurationError, parse_options, "h", tzinfo="UTC", tz_aware=True)

    def test_datetime_conversion(self) -> None:
        """By name, number or member."""
        for value in ("DATETIME_MS", 3, "3", DatetimeConversion.DATETIME_MS):
            options = parse_options("h", datetime_conversion=value).codec_options
            self.assertIs(options.datetime_conversion, DatetimeConversion.DATETIME_MS)


class CompressorTests(OptionsTestCase):
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
        """Others are warned of and left out."""
        for uri, keywords in (
            ("h/?compressors=zlib,lz4", {}),
            ("h", {"compressors": ["lz4", "zlib"]}),
        ):
            options, (text,) = self.warned(uri, **keywords)
            self.assertEqual(options.compressors, ("zlib",))
            self.assertIn("lz4", text)


class CredentialTests(OptionsTestCase):
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
            "mongodb://:hunter2@h/",
            "mongodb://u:hunter2@h/?authMechanism=MONGODB-X509",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2&tls=false",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2&tlsCertificateKeyFilePassword=2",
            "mongodb+srv://u:hunter2@h:27017/",
            "mongodb+srv://u:pa@hunter2@h/",
            "mongodb://h/?proxyHost=p&proxyPassword=hunter2",
            "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
            "mongodb://h/?authMechanismProperties=hunter2&authMechanism=GSSAPI",
            "mongodb://u@h/?authMechanism=GSSAPI&authMechanismProperties=hunter2:hunter2",
        ):
            error = self.assertRaises(REFUSED, parse_options, uri)
            self.assertNotIn("ter2", str(error), uri)
            self.assertIsNone(error.__cause__)

    def test_secrets_in_warnings(self) -> None:
        """No warning shows any of a password, either."""
        for uri in (
            "mongodb://u:hunter2@h/?w=1&hunter2=1",
            "mongodb://u:hunter%32@h/?hunter2=1",
            "mongodb://u:hunter2@h/?journal=hunter2",
            "mongodb://h/?tlsCertificateKeyFilePassword=hunter2&hunter2=3",
        ):
            _, (text,) = self.warned(uri)
            self.assertNotIn("ter2", text, uri)
            self.assertIn("escape", text, uri)

    def test_supported_mechanisms(self) -> None:
        """Every mechanism of the specification is there, and no other."""
        for name in ("GSSAPI", "MONGODB-AWS", "SCRAM-SHA-1", "PLAIN", "MONGODB-CR"):
            credentials = parse_options(f"mongodb://u:p@h/?authMechanism={name}").credentials
            assert credentials is not None
            self.assertEqual(credentials.mechanism, name)
        error = self.assertRaises(REFUSED, parse_options, "mongodb://u:p@h/?authMechanism=OTHER")
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

    def test_mechanisms(self) -> None:
        """What each mechanism takes."""
        for uri, wanted in (
            (
                "u@h/?authMechanism=GSSAPI",
                Credentials("u", None, "$external", "GSSAPI", {"SERVICE_NAME": "mongodb"}),
            ),
            ("h/?authMechanism=MONGODB-AWS", Credentials(None, None, "$external", "MONGODB-AWS")),
            (
                "h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:k8s",
                Credentials(None, None, "$external", "MONGODB-OIDC", {"ENVIRONMENT": "k8s"}),
            ),
            ("u:p@h/d?authMechanism=PLAIN", Credentials("u", "p", "d", "PLAIN")),
            ("u@h", Credentials("u", None, "admin", "DEFAULT")),
        ):
            self.assertEqual(read_client_options(uri).credentials, wanted, uri)
        for uri in (
            "h/?authMechanism=GSSAPI",
            "h/?authMechanism=SCRAM-SHA-1",
            "u@h/?authMechanism=GSSAPI&authSource=x",
            "u@h/?authMechanism=GSSAPI&authMechanismProperties=CANONICALIZE_HOST_NAME:x",
            "u:p@h/?authMechanism=SCRAM-SHA-1&authMechanismProperties=SERVICE_NAME:x",
            "u:p@h/?authMechanismProperties=SERVICE_NAME:x",
            "u@h/?authMechanism=MONGODB-AWS",
            "h/?authMechanism=MONGODB-AWS&authMechanismProperties=AWS_SESSION_TOKEN:x",
            "h/?authMechanism=MONGODB-OIDC",
            "h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:azure",
            "h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:other",
            "u@h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:k8s",
            "u:p@h/?authMechanism=MONGODB-OIDC&authMechanismProperties=ENVIRONMENT:test",
            "u:p@h/?authMechanism=MONGODB-X509",
        ):
            self.assertRaises(ConfigurationError, read_client_options, uri)

    def test_tokens(self) -> None:
        """MONGODB-OIDC takes one callback or an environment; a human's, hosts and time."""
        uri = "mongodb://h/?authMechanism=MONGODB-OIDC"

        class Callback(OIDCCallback):
            """A user's."""

            def fetch(self, context: OIDCCallbackContext) -> OIDCCallbackResult:
                """Give a token."""
                return OIDCCallbackResult("t")

        callback = Callback()
        options = parse_options(uri, authMechanismProperties={"OIDC_CALLBACK": callback})
        assert options.credentials is not None
        self.assertIs(options.credentials.properties["OIDC_CALLBACK"], callback)
        self.assertEqual(options.wait_queue_timeout, 30.0)
        human = {"OIDC_HUMAN_CALLBACK": callback}
        self.assertEqual(
            parse_options(uri, authMechanismProperties=human).wait_queue_timeout, 330.0
        )
        self.assertEqual(
            parse_options(
                uri, authMechanismProperties=human, waitQueueTimeoutMS=9
            ).wait_queue_timeout,
            0.009,
        )
        for options in (
            parse_options(uri, authMechanismProperties={**human, "ALLOWED_HOSTS": ["a"]}),
            parse_options(uri, authMechanismProperties=human, authoidcallowedhosts=["a"]),
        ):
            assert options.credentials is not None
            self.assertEqual(options.credentials.properties["ALLOWED_HOSTS"], ["a"])
        for properties, more in (
            ({"OIDC_CALLBACK": print}, {}),
            ({"OIDC_CALLBACK": Callback}, {}),
            ({"OIDC_CALLBACK": callback, **human}, {}),
            ({"OIDC_CALLBACK": callback, "ENVIRONMENT": "k8s"}, {}),
            ({"OIDC_CALLBACK": callback, "ALLOWED_HOSTS": ["a"]}, {}),
            ({**human, "ALLOWED_HOSTS": "a"}, {}),
            ({**human, "ALLOWED_HOSTS": [1]}, {}),
            ({**human, "ALLOWED_HOSTS": ["a"]}, {"authoidcallowedhosts": ["a"]}),
            (human, {"authoidcallowedhosts": "a"}),
            ({"ENVIRONMENT": "k8s"}, {"authoidcallowedhosts": ["a"]}),
            ({"ENVIRONMENT": "k8s", "TOKEN_RESOURCE": "a"}, {}),
        ):
            self.assertRaises(
                ConfigurationError, parse_options, uri, authMechanismProperties=properties, **more
            )

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


class TLSTests(OptionsTestCase):
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
            value: Any = (
                str(path) if name.endswith("File") else "secret" if "Pass" in name else True
            )
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
        """A revocation list goes with nothing that would leave it unread."""
        path = Path(self.mktemp())
        path.touch()
        for name in (
            "tlsInsecure",
            "tlsAllowInvalidCertificates",
            "tlsDisableCertificateRevocationCheck",
        ):
            error = self.assertRaises(
                ConfigurationError, parse_options, "h", tlsCRLFile=str(path), **{name: True}
            )
            self.assertIn("tlsCRLFile", str(error))

    def test_wrong_values(self) -> None:
        """What security, or acknowledgement, depends on is never left at a warning."""
        for option in (
            "tls=perhaps",
            "w=-1",
            "w=1&w=2",
            "ssl=1",
            "tls=",
            "tlsInsecure=yes",
            "tlsCAfile2=/ca.pem",
            "ssl_ca_certs=/ca.pem",
            "authMechanism=NONE",
            "authSource=",
            "authenticationDatabase=admin",
            "authMechanismProperties=x",
            "tls=true&tls=false",
            "authSource=a&authSource=b",
            "proxyPort=-1&proxyHost=p",
            "proxyhosts=p",
        ):
            error = self.assertRaises(ConfigurationError, parse_options, f"h/?{option}")
            name = option.partition("=")[0].lower()
            self.assertIn("tls" if name == "ssl" else name, str(error).lower())

    def test_same_twice(self) -> None:
        """The same value twice is no contradiction; both names of an option are not even odd."""
        options, notes = self.warned("h/?tls=true&ssl=true")
        self.assertEqual((options.tls, notes), (TLSOptions(), []))
        options, notes = self.warned("h/?tls=true&tls=true")
        self.assertEqual((options.tls, len(notes)), (TLSOptions(), 1))


class RefusalTests(OptionsTestCase):
    """
    Nothing is silently dropped.
    """

    def test_nothing_is_dropped(self) -> None:
        """
        Every option that PyMongo's URIs may have changes what is parsed, or
        is warned of, or is known to have no effect.
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
            "srvallowedhostssuffix": "x.example", "servermonitoringmode": "poll",
            "maxadaptiveretries": "1", "timeoutms": "7",
        }  # fmt: skip
        companions = {
            "readpreferencetags": "readPreference=nearest&",
            "maxstalenessseconds": "readPreference=nearest&",
        }
        numbers = {"wtimeoutms", "srvmaxhosts", "maxstalenessseconds", "waitqueuemultiple"}
        refused, ignored, without_effect = set(), set(), set()
        for option in common.URI_OPTIONS_VALIDATOR_MAP:
            default = "120" if option.endswith("ms") or option in numbers else "true"
            companion = companions.get(option, "")
            scheme = "mongodb+srv" if option.startswith("srv") else "mongodb"
            base = f"{scheme}://h/?{companion}"
            try:
                parsed, notes = self.warned(f"{base}{option}={values.get(option, default)}")
            except REFUSED:
                refused.add(option)
                continue
            if notes:
                ignored.add(option)
            elif parsed == parse_options(base.rstrip("?&")):
                without_effect.add(option)
        # Of no use without a mechanism; objects and what PyMongo itself forgot.
        known = set(common.URI_OPTIONS_VALIDATOR_MAP)
        self.assertEqual(refused, {"authmechanismproperties"} & known)
        self.assertEqual(ignored, {"driver", "server_api"} & known)
        self.assertEqual(without_effect, {"connect"} & known)

    def test_names(self) -> None:
        """A wrong value of a keyword argument is an error that names both."""
        for name, value in (
            ("connectTimeoutMS", -5),
            ("connectTimeoutMS", float("inf")),
            ("maxConnecting", 0),
            ("maxPoolSize", True),
            ("heartbeatFrequencyMS", float("nan")),
            ("max_pool_size", 1.5),
            ("tls", "perhaps"),
            ("journal", 1),
            ("serverMonitoringMode", "never"),
            ("connection_sharing", 0),
            ("connection_sharing", True),
            ("readPreferenceTags", "x"),
            ("uuidRepresentation", "new"),
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **{name: value})
            self.assertIn(f"{name}={value!r}", str(error))

    def test_wrong_values_in_uri(self) -> None:
        """A wrong value in the URI is warned of, with what it must be, and ignored."""
        for option, what in (
            ("connectTimeoutMS=-5", "at least 0"),
            ("connectTimeoutMS=nan", "at least 0"),
            ("maxConnecting=0", "at least 1"),
            ("maxPoolSize=many", "whole number"),
            ("maxIdleTimeMS=", "at least 0"),
            ("journal=", "true or false"),
            ("readPreference=any", "one of primary"),
            ("zlibCompressionLevel=10", "-1 to 9"),
            ("zlibCompressionLevel=-2", "-1 to 9"),
            ("serverMonitoringMode=never", "one of auto"),
            ("appName=" + 129 * "a", "128 bytes"),
            ("heartbeatFrequencyMS=-2", "at least 0"),
            ("datetime_conversion=zz", "DATETIME_AUTO"),
            ("maxStalenessSeconds=0", "at least 90"),
            ("fsync=ifPossible", "true or false"),
        ):
            options, (text,) = self.warned(f"h/?{option}")
            self.assertEqual(options, parse_options("h"), option)
            self.assertTrue(text.startswith(option.partition("=")[0]), text)
            self.assertIn(what, text)
            self.assertIn("ignored", text)

    def test_unknown(self) -> None:
        """An option that is not known is warned of, with the nearest that is."""
        for uri, keywords, name, near in (
            ("h/?maxPoolSise=3", {}, "maxPoolSise", "maxPoolSize"),
            ("h/?max_pool_size=3", {}, "max_pool_size", "maxPoolSize"),
            ("h", {"connectTimeout": 3}, "connectTimeout", "connectTimeoutMS"),
            ("h", {"retry_write": True}, "retry_write", "retryWrites"),
            ("h", {"qqq": 3}, "qqq", "check its name"),
        ):
            options, (text,) = self.warned(uri, **keywords)
            self.assertEqual(options, parse_options("h"))
            self.assertIn(f"option {name} ", text)
            self.assertIn(near, text)

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
            ({"compressors": ("zlib", 3)}, "compressors=('zlib', 3)"),
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **options)
            self.assertIn(part, str(error))

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
        """Load balancing goes with one host, and with no set."""
        self.assertTrue(parse_options("h/?loadBalanced=true").load_balanced)
        self.assertEqual(parse_options("h/?loadBalanced=false"), parse_options("h"))
        for uri in (
            "a,b/?loadBalanced=true",
            "a/?loadBalanced=true&replicaSet=x",
            "a/?loadBalanced=true&directConnection=true",
            "mongodb+srv://a/?loadBalanced=true&srvMaxHosts=1",
        ):
            error = self.assertRaises(ConfigurationError, parse_options, uri)
            self.assertIn("loadBalanced", str(error))

    def test_duplicates(self) -> None:
        """An option that is given twice loses one of its values, which is said."""
        options, (text,) = self.warned("h/?maxPoolSize=1&maxPoolSize=2")
        self.assertEqual(options.max_pool_size, 2)
        self.assertIn("maxPoolSize is given 2 times", text)

    def test_deprecated(self) -> None:
        """A name of old is as good as the new one, but does not win over it."""
        options, (text,) = self.warned("h/?wtimeout=5")
        self.assertEqual(options.write_concern.document, {"wtimeout": 5})
        self.assertIn("wTimeoutMS", text)
        for uri in ("h/?wtimeout=5&wTimeoutMS=10", "h/?wTimeoutMS=10&wtimeout=5"):
            options, notes = self.warned(uri)
            self.assertEqual(options.write_concern.document, {"wtimeout": 10})
            self.assertEqual(len(notes), 2)

    def test_single_threaded(self) -> None:
        """What is for drivers with one thread is said to have no effect."""
        _, (text,) = self.warned("h/?serverSelectionTryOnce=true")
        self.assertIn("serverSelectionTimeoutMS", text)
        self.assertEqual(self.warned("h/?serverSelectionTryOnce=false")[1], [])

    def test_separators(self) -> None:
        """Options are separated by one of two characters."""
        self.assertEqual(parse_options("h/?w=2;retryReads=false").write_concern, WriteConcern(2))
        self.assertRaises(InvalidURI, parse_options, "h/?w=2;retryReads=false&j=true")

    def test_unsupported(self) -> None:
        """What this version cannot do is refused by name."""
        for keywords in (
            {"auto_encryption_opts": object()},
            {"authOIDCAllowedHosts": ["h"]},
        ):
            error = self.assertRaises(ConfigurationError, parse_options, "h", **keywords)
            self.assertIn(next(iter(keywords)), str(error))

    def test_proxy(self) -> None:
        """A proxy's options are checked together (SOCKS5 specification)."""
        for options in (
            "proxyPort=1080",
            "proxyUsername=u&proxyPassword=p",
            "proxyHost=",
            "proxyHost=p&proxyUsername=u",
            "proxyHost=p&proxyPassword=p",
            "proxyHost=p&proxyHost=q",
            f"proxyHost=p&proxyUsername=u&proxyPassword={'hunter2' * 40}",
        ):
            error = self.assertRaises(ConfigurationError, parse_options, f"h/?{options}")
            self.assertIn("proxy", str(error))
            self.assertNotIn("hunter2", str(error))
        self.assertEqual(parse_options("h/?proxyHost=p").proxy, ProxyOptions("p"))
        self.assertEqual(
            parse_options("h/?proxyHost=p&proxyPort=9&proxyUsername=u&proxyPassword=w").proxy,
            ProxyOptions("p", 9, "u", "w"),
        )
        self.assertNotIn("hunter2", repr(ProxyOptions("p", 9, "u", "hunter2")))


class SrvTests(OptionsTestCase):
    """
    C{mongodb+srv}, as far as it goes without DNS, and what DNS then adds.
    """

    def resolved(
        self, uri: str, *hosts: str, txt: Sequence[str] = (), **kwargs: Any
    ) -> ClientOptions:
        """The options after DNS gave hosts and TXT records."""
        options = parse_options(uri, **kwargs)
        return apply_srv(options, [(host, 27017) for host in hosts], txt, Random(1))

    def test_parsed(self) -> None:
        """The name is kept for DNS, and TLS is on."""
        options = parse_options(
            "mongodb+srv://u:p@Cluster.Example.com/db?srvServiceName=x&srvMaxHosts=2"
        )
        self.assertEqual(options.srv, SrvOptions("cluster.example.com", "x", 2))
        self.assertEqual(options.seeds, ())
        self.assertEqual(options.tls, TLSOptions())
        self.assertEqual(options.default_database, "db")
        self.assertIsNone(parse_options("mongodb+srv://h/", tls=False).tls)
        self.assertIsNone(parse_options("h").srv)

    def test_refused(self) -> None:
        """What is wrong without asking anybody."""
        for uri in (
            "mongodb+srv://a.example:27017/",
            "mongodb+srv://a.example,b.example/",
            "mongodb+srv://[::1]/",
            "mongodb+srv://127.0.0.1/",
            "mongodb+srv://%2Ftmp%2Fm.sock/",
            "mongodb+srv://./",
            "mongodb+srv:///",
            "mongodb+srv://a.example/?directConnection=true",
            "mongodb+srv://a.example/?srvServiceName=a_b",
            "mongodb+srv://a.example/?srvServiceName=" + 63 * "a",
            "mongodb+srv://a.example/?srvMaxHosts=1&replicaSet=x",
            "mongodb+srv://a.example/?srvAllowedHostsSuffix=com",
            "mongodb+srv://a.example/?srvAllowedHostsSuffix=.",
            "mongodb://a.example/?srvMaxHosts=0",
            "mongodb://a.example/?srvServiceName=x",
            "mongodb://a.example/?srvAllowedHostsSuffix=x.example",
        ):
            self.assertRaises(REFUSED, parse_options, uri)
        if is_public_suffix("co.uk"):  # PyMongo 4.17 has no list of them.
            public = "mongodb+srv://a.example/?srvAllowedHostsSuffix=co.uk"
            self.assertRaises(REFUSED, parse_options, public)
        self.assertFalse(parse_options("mongodb+srv://a/?directConnection=false").direct_connection)

    def test_short_names(self) -> None:
        """Names of one or two parts are whole domains (prose tests 1 to 4)."""
        for name, good, bad in (
            (
                "localhost",
                "db.localhost",
                ("localhost", "localhost.mongodb", "test_1.cluster_1localhost"),
            ),
            (
                "mongo.local",
                "db.mongo.local",
                ("mongo.local", "test_1.evil.local", "test_1.my_hostmongo.local"),
            ),
            (
                "blogs.mongodb.com",
                "blogs.mongodb.com",
                ("blogs.evil.com", "cluster.testmongodb.com", "mongodb.com"),
            ),
        ):
            uri = f"mongodb+srv://{name}"
            self.assertEqual(self.resolved(uri, good).seeds, ((good, 27017),))
            for host in bad:
                error = self.assertRaises(ConfigurationError, self.resolved, uri, good, host)
                self.assertIn(host, str(error))

    def test_suffix(self) -> None:
        """Another domain may be allowed by name, if not everybody's (prose tests 10 and 12)."""
        for suffix in (".mongodb.com", "MongoDB.com"):
            options = self.resolved(
                "mongodb+srv://blogs.example.com",
                "CLUSTER.MONGODB.COM.",
                srvAllowedHostsSuffix=suffix,
            )
            self.assertEqual(options.seeds, (("cluster.mongodb.com", 27017),))
        uri = "mongodb+srv://cluster.localhost/?srvAllowedHostsSuffix=localhost"
        self.assertEqual(self.resolved(uri, "a.b.localhost").seeds, (("a.b.localhost", 27017),))
        self.assertRaises(ConfigurationError, self.resolved, uri, "a.cluster.other")

    def test_validator(self) -> None:
        """A function may judge instead (prose tests 5 to 9, 11 and 13)."""
        seen: list[str] = []

        def judge(host: str) -> bool:
            seen.append(host)
            return host != "no.example.com"

        uri = "mongodb+srv://blogs.mongodb.com"
        options = self.resolved(uri, "BLOGS.evil.com.", srv_host_validator=judge)
        self.assertEqual(options.seeds, (("blogs.evil.com", 27017),))
        self.assertEqual(seen, ["blogs.evil.com"])
        for judge_badly in (judge, lambda host: 1, lambda host: 1 / 0):
            error = self.assertRaises(
                ConfigurationError,
                self.resolved,
                uri,
                "no.example.com",
                srv_host_validator=judge_badly,
            )
            self.assertIn("srv_host_validator", str(error))
        self.assertIsInstance(error.__cause__, ZeroDivisionError)
        for other, keywords in (
            (uri, {"srvAllowedHostsSuffix": ".mongodb.com"}),
            ("mongodb://localhost", {}),
        ):
            self.assertRaises(
                ConfigurationError, parse_options, other, srv_host_validator=judge, **keywords
            )
        self.assertRaises(TypeError, parse_options, uri, srv_host_validator="notacallable")

    def test_hosts(self) -> None:
        """All hosts, or as many as are wanted, drawn with the given randomness."""
        hosts = [f"h{number}.a.example" for number in range(9)]
        self.assertEqual(len(self.resolved("mongodb+srv://x.a.example", *hosts).seeds), 9)
        uri = "mongodb+srv://x.a.example/?srvMaxHosts=4"
        options = parse_options(uri)
        pairs = [(host, 27017) for host in hosts]
        drawn = {apply_srv(options, pairs, (), Random(seed)).seeds for seed in range(20)}
        self.assertGreater(len(drawn), 15)
        for seeds in drawn:
            self.assertEqual(len(set(seeds)), 4)
            self.assertLessEqual(set(seeds), set(pairs))
        error = self.assertRaises(ConfigurationError, self.resolved, uri)
        self.assertIn("_mongodb._tcp", str(error))

    def test_no_srv(self) -> None:
        """Options without a name for DNS cannot be completed by it."""
        self.assertRaises(ConfigurationError, apply_srv, parse_options("h"), [], (), Random(1))

    def test_text(self) -> None:
        """The TXT record's options count where nothing else was said."""
        txt = ["authSource=x&replicaSet=rs"]
        uri = "mongodb+srv://u:p@c.a.example/"
        options = self.resolved(uri, "h.a.example", txt=txt)
        assert options.credentials is not None
        self.assertEqual((options.replica_set, options.credentials.source), ("rs", "x"))
        options = self.resolved(
            uri, "h.a.example", txt=txt, authSource="y", replicaSet="other", tls=False
        )
        assert options.credentials is not None
        self.assertEqual((options.replica_set, options.credentials.source), ("other", "y"))
        self.assertIsNone(options.tls)
        balanced = self.resolved(uri, "h.a.example", txt=["loadBalanced=true"])
        self.assertTrue(balanced.load_balanced)
        plain = self.resolved(uri, "h.a.example", txt=["loadBalanced=true"], loadBalanced=False)
        self.assertFalse(plain.load_balanced)

    def test_bad_text(self) -> None:
        """Any other TXT record is refused, as it may be anybody's."""
        uri = "mongodb+srv://u:p@c.a.example/?authMechanism=MONGODB-X509".replace(":p", "")
        for txt in (
            ["authSource=x", "replicaSet=y"],
            ["tls=false"],
            ["ssl=false"],
            ["readPreference=nearest"],
            ["authMechanism=PLAIN"],
            ["nonsense=1"],
            ["loadBalanced=perhaps"],
            ["authSource"],
            ["authSource="],
            ["authSource=$external&authSource=admin"],
            ["authSource=admin"],
            ["replicaSet="],
            ["loadBalanced=true&replicaSet=x"],
        ):
            self.assertRaises(ConfigurationError, self.resolved, uri, "h.a.example", txt=txt)
        for txt in ([], [""], ["authSource=$external"]):
            self.assertTrue(self.resolved(uri, "h.a.example", txt=txt).seeds)
