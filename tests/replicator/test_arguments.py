"""
Tests for L{txmongokit.replicator.arguments}.
"""

from __future__ import annotations

import io
import sys
from dataclasses import FrozenInstanceError
from math import inf
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pymongo.uri_parser import parse_uri
from twisted.application import app
from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]
from twisted.trial.unittest import SynchronousTestCase

import txmongokit
from txmongokit.replicator.arguments import (
    Arguments,
    ArgumentsError,
    Options,
    parse,
    parse_reverse,
    parse_verify,
    redacted,
)

FROM = ["--from", "prod.example"]


class ArgumentsCase(SynchronousTestCase):
    """
    Command lines that are accepted, and such that are not.
    """

    def parsed(self, *argv: str) -> Arguments:
        """
        Parse a command line with a source.
        """
        return parse([*FROM, *argv])

    def refused(self, *argv: str) -> str:
        """
        The sentence about a command line with a source.
        """
        message = str(self.assertRaises(ArgumentsError, parse, [*FROM, *argv]))
        self.assertNotIn("\n", message)
        return message


class ParseTests(ArgumentsCase):
    """
    All options but addresses and times.
    """

    def test_defaults(self) -> None:
        """
        With a source alone everything else is as the seed says.
        """
        found = self.parsed()
        self.assertEqual(found.selection.describe(), {"ns": [], "exclude": [], "rename": []})
        self.assertEqual(
            found,
            Arguments(
                source="mongodb://prod.example/",
                destination="mongodb://localhost/",
                seconds_back=None,
                seconds_option=None,
                follow=False,
                selection=found.selection,
                resume_file=Path("mongooplog.ts"),
                dry_run=False,
                oplog_namespace="local.oplog.rs",
                force_start=False,
                at_least_once=False,
                log_level="info",
            ),
        )
        self.assertRaises(FrozenInstanceError, setattr, found, "follow", True)

    def test_seed_line(self) -> None:
        """
        The seed's example works word for word.
        """
        line = (
            "--from prod.example.com:28000 --to dev.example.com:28500 "
            "-f --exclude logdb data.transactions --seconds 600"
        )
        found = parse(line.split())
        self.assertEqual(found.source, "mongodb://prod.example.com:28000/")
        self.assertEqual(found.destination, "mongodb://dev.example.com:28500/")
        self.assertTrue(found.follow)
        self.assertEqual(found.selection.exclude, ("logdb", "data.transactions"))
        self.assertEqual((found.seconds_back, found.seconds_option), (600.0, "--seconds"))

    def test_no_source(self) -> None:
        """
        A source must be named.
        """
        message = str(self.assertRaises(ArgumentsError, parse, []))
        self.assertIn("required: --from/--source", message)
        self.assertIn("--help", message)

    def test_several_values(self) -> None:
        """
        Options of several values take none, one or more, and repeat.
        """
        found = self.parsed(
            *["--ns", "a", "b.c", "-f", "--ns", "d", "--ns"],
            *["-x", "a.x", "--exclude", "b.c.d", "d.y", "--dry-run"],
            *["--rename", "a=e", "b.c=b.f", "--rename", "d=g", "--at-least-once"],
        )
        self.assertEqual(found.selection.include, ("a", "b.c", "d"))
        self.assertEqual(found.selection.exclude, ("a.x", "b.c.d", "d.y"))
        self.assertEqual(found.selection.renames, ("a=e", "b.c=b.f", "d=g"))
        self.assertTrue(found.follow and found.dry_run and found.at_least_once)

    def test_users(self) -> None:
        """
        Users are replicated on request.
        """
        self.assertFalse(self.parsed().selection.users)
        self.assertTrue(self.parsed("--users").selection.users)

    def test_split(self) -> None:
        """
        Large transactions are split on request, above 256 MB or a size.
        """
        option = "--split-large-transactions"
        found = [self.parsed(*more).split_bytes for more in ((), (option,), (option, "16"))]
        self.assertEqual(found, [None, 256 << 20, 16 << 20])
        for wrong in ("8", "x", "-1", "1e3"):
            self.assertIn(option, self.refused(f"{option}={wrong}"))

    def test_defaults_are_not_shared(self) -> None:
        """
        What one command line names is not in the next.
        """
        self.parsed("--ns", "a", "--rename", "a=b", "-x", "a.c")
        self.assertEqual(self.parsed().selection.fingerprint(), "all")

    def test_bad_selection(self) -> None:
        """
        A rename or namespace that makes no sense is an error of the command
        line.
        """
        self.assertEqual(
            self.refused("--rename", "a=b=c"), "--rename 'a=b=c' must have the form old=new"
        )
        self.assertIn("--ns 'a.'", self.refused("--ns", "a."))

    def test_resume_file(self) -> None:
        """
        An empty name or none, in any case, turns the file off.
        """
        self.assertEqual(self.parsed("--resume-file", "a/b.ts").resume_file, Path("a/b.ts"))
        for off in ("", " ", "none", "None", "NONE"):
            self.assertIsNone(self.parsed("--resume-file", off).resume_file, off)

    def test_oplog_namespace(self) -> None:
        """
        The oplog is a collection of a database.
        """
        found = self.parsed("--oplogns", "local.oplog.$main")
        self.assertEqual(found.oplog_namespace, "local.oplog.$main")
        for wrong in ("", "local", "local.", ".oplog.rs"):
            self.assertEqual(
                self.refused("--oplogns", wrong),
                f"--oplogns {wrong!r} must have the form database.collection",
            )

    def test_log_level(self) -> None:
        """
        Levels are those of Twisted, in any case; others are refused with
        the list.
        """
        for level in ("debug", "info", "warn", "error"):
            self.assertEqual(self.parsed("-l", level.upper()).log_level, level)
        message = self.refused("--log-level", "loud")
        self.assertIn("--log-level", message)
        self.assertIn("'loud'", message)
        self.assertIn("'debug', 'info', 'warn', 'error'", message)

    def test_flags(self) -> None:
        """
        Flags are off unless given, and short ones can be joined.
        """
        self.assertTrue(self.parsed("--force-start").force_start)
        found = self.parsed("-fs", "5", "--follow")
        self.assertEqual((found.follow, found.seconds_back), (True, 5.0))
        self.assertIn("--dry-run", self.refused("--dry-run=yes"))

    def test_unknown(self) -> None:
        """
        Unknown, shortened and stray arguments are errors, not guesses.
        """
        self.assertIn("unrecognized arguments: --folow", self.refused("--folow"))
        self.assertIn("unrecognized arguments: --win", self.refused("--win", "1h"))
        self.assertIn("unrecognized arguments: stray", self.refused("-f", "stray"))

    def test_missing_value(self) -> None:
        """
        An option without its value is named.
        """
        for option in ("--to", "--port", "--seconds", "--window", "--resume-file"):
            message = self.refused(option)
            self.assertIn(option, message)
            self.assertIn("expected one argument", message)

    def test_no_secret_is_shown(self) -> None:
        """
        A URI with a password in the wrong place does not show it.
        """
        uri = "mongodb://me:pass@word@db.example/?tlsCertificateKeyFilePassword=secret,key"
        for argv in (
            ["-f", uri],
            ["-f", uri[10:]],
            ["-f", uri.replace("me", "me@corp")],
            [f"--dry-run={uri}"],
            ["-x", "logdb", uri],
            ["--rename", f"a={uri}"],
            ["-l", uri],
            ["-s", uri],
            ["-w", uri],
            ["--port", uri],
            ["--to", "set/" + uri],
            ["--to", "mongodb+srv" + uri[7:]],
            ["--to", uri[10:]],
            ["--port", "1", "--to", uri],
        ):
            message = self.refused(*argv)
            for secret in ("pass", "word@", "secret", ",key"):
                self.assertNotIn(secret, message.lower().replace("filepassword=***", ""), message)


class StartTests(ArgumentsCase):
    """
    C{--seconds} and C{--window}.
    """

    def test_seconds(self) -> None:
        """
        Seconds are a number above 0.
        """
        for text, seconds in (("600", 600.0), ("0.5", 0.5), ("86400", 86_400.0)):
            found = self.parsed("-s", text)
            self.assertEqual((found.seconds_back, found.seconds_option), (seconds, "--seconds"))

    def test_bad_seconds(self) -> None:
        """
        Zero, negative and endless times, and what is no number, are refused.
        """
        for text in ("0", "-5", "-0.0", "nan", "inf", "-inf", "1h", "", "1e300"):
            self.assertEqual(
                self.refused(f"--seconds={text}"), f"--seconds {text!r} must be a number above 0"
            )
        self.assertIn("'-5' must be", self.refused("-s", "-5"))

    def test_both(self) -> None:
        """
        Two starts contradict each other.
        """
        self.assertEqual(
            self.refused("-s", "60", "-w", "1m"),
            "--seconds '60' and --window '1m' exclude one another: give one of them",
        )

    def test_window(self) -> None:
        """
        Windows are read as jaraco.mongodb reads them.
        """
        for text, seconds in (
            ("3 days", 259_200),
            ("1 day", 86_400),
            ("1day", 86_400),
            ("1 day, 2 hours", 93_600),
            ("1 day / 2 hours", 93_600),
            ("1h30m", 5_400),
            ("1H 30MIN", 5_400),
            ("1 hr 5 mins, 3 secs", 3_903),
            ("90s", 90),
            ("90 seconds", 90),
            ("2w", 1_209_600),
            ("1 wk 1 dy", 691_200),
            ("2 weeks 3 days 4 hours 5 minutes 6 seconds", 1_483_506),
            ("1.5h", 5_400),
            (".5 d", 43_200),
            ("1.25 seconds", 1.25),
            (" + 1 minute ", 60),
            ("1:02:03", 3_723),
            ("1:02:03.5", 3_723.5),
            ("1 day, 2:03:04", 93_784),
            ("1w 1:00:00", 608_400),
            ("2:01:02:03", 176_523),
            ("2-01:02:03", 176_523),
            ("5:30.5", 330.5),
            (":22", 22),
        ):
            found = self.parsed("-w", text)
            self.assertEqual(
                (found.seconds_back, found.seconds_option), (seconds, "--window"), text
            )

    def test_window_of_hours_and_minutes(self) -> None:
        """
        Two numbers with a colon are hours and minutes, as the option's help
        has always said.
        """
        for text, seconds in (
            ("24:00", 86_400),
            ("1:30", 5_400),
            ("100:00", 360_000),
            ("1 day, 2:30", 95_400),
        ):
            self.assertEqual(self.parsed("--window", text).seconds_back, seconds, text)

    def test_bad_window(self) -> None:
        """
        Anything else is refused with examples: nothing is guessed.
        """
        for text in (
            *("", " ", "soon", "10", "1 fortnight", "1 month", "1mo", "3 days ago", "1.2.3s"),
            *("0s", "0:00", "-1h", "- 1 minute", "1h1h", "1m 1h", "1:2", "1:2:3", ".", "1 . s"),
            *("9" * 400 + "d", "99999999999s", "\N{ARABIC-INDIC DIGIT ONE}h"),
        ):
            self.assertEqual(
                self.refused(f"--window={text}"),
                f"--window {text!r} must be a time above 0 such as '3 days', '1 day, 2 hours', "
                "'1h30m', '90s' or '24:00' (hours and minutes)",
            )

    def test_end_of_options(self) -> None:
        """
        What argparse takes for the end of the options is no option's value.
        """
        for option in ("--window", "--seconds", "--from", "--ns", "--lanes"):
            self.assertIn(f"{option} cannot be '--'", self.refused(f"{option}=--"))

    @given(st.text(alphabet="0123456789.:-,/ wdhms+", max_size=20) | st.text(max_size=20))
    def test_any_window(self, text: str) -> None:
        """
        Whatever stands there, it is a time above 0 or one sentence.
        """
        try:
            found = self.parsed(f"--window={text}")
        except ArgumentsError as error:
            self.assertIn("--window", str(error))
        else:
            self.assertGreater(found.seconds_back or 0, 0)

    @given(st.lists(st.integers(0, 999), min_size=5, max_size=5))
    def test_units_add_up(self, counts: list[int]) -> None:
        """
        Units add up, with any left out.
        """
        units = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
        pairs = list(zip(counts, units, strict=True))
        text = "".join(f"{count}{name}" for count, (name, _) in pairs if count)
        if text:
            total = sum(count * factor for count, (_, factor) in pairs)
            self.assertEqual(self.parsed("-w", text).seconds_back, total)


class AddressTests(ArgumentsCase):
    """
    C{--from}, C{--to} and C{--port}.
    """

    def test_forms(self) -> None:
        """
        Every form becomes a connection string that PyMongo reads.
        """
        for text, uri, nodes in (
            ("db", "mongodb://db/", [("db", 27017)]),
            ("db:27018", "mongodb://db:27018/", [("db", 27018)]),
            ("10.0.0.1:1", "mongodb://10.0.0.1:1/", [("10.0.0.1", 1)]),
            ("a,b:2", "mongodb://a,b:2/", [("a", 27017), ("b", 2)]),
            ("a, b", "mongodb://a,b/", [("a", 27017), ("b", 27017)]),
            ("rs0/a,b:2", "mongodb://a,b:2/?replicaSet=rs0", [("a", 27017), ("b", 2)]),
            ("my-set+/a", "mongodb://a/?replicaSet=my-set%2B", [("a", 27017)]),
            ("::1", "mongodb://[::1]/", [("::1", 27017)]),
            ("[::1]", "mongodb://[::1]/", [("::1", 27017)]),
            ("[fe80::2]:5", "mongodb://[fe80::2]:5/", [("fe80::2", 5)]),
            ("rs/[::1]:5,b", "mongodb://[::1]:5,b/?replicaSet=rs", [("::1", 5), ("b", 27017)]),
        ):
            self.assertEqual(self.parsed("--to", text).destination, uri)
            self.assertEqual(parse(["--source", text]).source, uri)
            self.assertEqual(parse_uri(uri)["nodelist"], nodes)
        self.assertEqual(
            parse_uri(self.parsed("--to", "s+t/a").destination)["options"]["replicaSet"], "s+t"
        )

    def test_names_of_the_options(self) -> None:
        """
        Every name of the two options works.
        """
        for option in ("--to", "--dest", "--host", "-h"):
            self.assertEqual(self.parsed(option, "db").destination, "mongodb://db/")
        for option in ("--from", "--source"):
            self.assertEqual(parse([option, "db"]).source, "mongodb://db/")

    def test_uri(self) -> None:
        """
        Connection strings are kept as they are.
        """
        for uri in (
            "mongodb://u:p%40@a:1,b/db?replicaSet=rs&tls=true",
            "mongodb://localhost",
            "mongodb://%2Ftmp%2Fmongodb-27017.sock",
        ):
            self.assertEqual(self.parsed("--to", uri).destination, uri)
            self.assertEqual(parse(["--from", uri]).source, uri)

    def test_port(self) -> None:
        """
        C{--port} goes to every host of the destination that has none.
        """
        for text, uri in (
            ("db", "mongodb://db:28/"),
            ("db:27018", "mongodb://db:27018/"),
            ("a,b:2", "mongodb://a:28,b:2/"),
            ("rs/a,b", "mongodb://a:28,b:28/?replicaSet=rs"),
            ("::1", "mongodb://[::1]:28/"),
            ("[::1]", "mongodb://[::1]:28/"),
            ("[::1]:5", "mongodb://[::1]:5/"),
            ("mongodb://u:p@a:1,[::1]:2/db", "mongodb://u:p@a:1,[::1]:2/db"),
        ):
            found = self.parsed("--port", "28", "--to", text)
            self.assertEqual(found.destination, uri)
            self.assertEqual(found.source, "mongodb://prod.example/")
        self.assertEqual(self.parsed("--port", "28").destination, "mongodb://localhost:28/")

    def test_port_beside_a_uri(self) -> None:
        """
        Where C{--port} would be ignored, and another server be written to,
        it is refused.
        """
        for uri in (
            "mongodb://db",
            "mongodb://a:1,b/?x=:1",
            "mongodb://u:1@db/",
            "mongodb://[::1]",
        ):
            message = self.refused("--port", "28", "--to", uri)
            self.assertIn("--port 28 does not go into --to 'mongodb://", message)
            self.assertIn("write host:28 there", message)

    def test_bad_port(self) -> None:
        """
        A port is a number from 1 to 65535.
        """
        for text in ("0", "-1", "65536", "http", "", "1.0", "\N{SUPERSCRIPT TWO}"):
            self.assertEqual(
                self.refused(f"--port={text}"), f"--port {text!r} must be a number from 1 to 65535"
            )

    def test_bad_port_of_a_host(self) -> None:
        """
        So is a host's own.
        """
        self.assertEqual(
            self.refused("--to", "a,b:70000"),
            "--to 'a,b:70000' has the port 70000, which must be from 1 to 65535",
        )

    def test_service_records(self) -> None:
        """
        mongodb+srv:// is refused, with what to write.
        """
        self.assertEqual(
            self.refused("--to", "mongodb+srv://u:p@cluster.example/"),
            "--to 'mongodb+srv://u:***@cluster.example/' is not supported by this version: list "
            "the hosts, as in mongodb://host1,host2/?tls=true",
        )

    def test_bad_addresses(self) -> None:
        """
        Whatever is no address is refused by the option's name and value.
        """
        for text in (
            *(
                "",
                "http://db",
                "MONGODB://db",
                "a,,b",
                ",a",
                "a,",
                "rs/",
                "/a",
                "a/b/c",
                "/tmp/x.sock",
            ),
            *(
                "db:",
                "db:http",
                ":1",
                "a b",
                "1:2:3",
                "[::1",
                "::1]",
                "[db]",
                "[::1]:x",
                "db?tls=true",
            ),
            *("r s/a", "a=b/c", "a\nb"),
        ):
            for option in ("--from", "--to"):
                self.assertEqual(
                    self.refused(f"{option}={text}"),
                    f"{option} {text!r} must be a mongodb:// URI, host, host:port or "
                    "set/host1,host2",
                )

    def test_user_without_a_scheme(self) -> None:
        """
        Credentials belong into a URI.
        """
        self.assertEqual(
            self.refused("--to", "me:secret@db:1"),
            "--to 'me:***@db:1' has a user: give it as a mongodb:// URI",
        )


class RedactedTests(SynchronousTestCase):
    """
    Connection strings for messages.
    """

    def test_secrets(self) -> None:
        """
        Passwords and tokens are taken out, the rest is kept.
        """
        for uri, shown in (
            ("mongodb://db:27017/x?tls=true", "mongodb://db:27017/x?tls=true"),
            ("mongodb://me@db/", "mongodb://me@db/"),
            ("mongodb://me:secret@db:1,b/?w=1", "mongodb://me:***@db:1,b/?w=1"),
            ("mongodb://me:@db/", "mongodb://me:***@db/"),
            ("mongodb://me:se/cr@et:x@db/", "mongodb://me:***@db/"),
            ("mongodb+srv://me:secret@db", "mongodb+srv://me:***@db"),
            ("me:secret@db", "me:***@db"),
            ("mongodb://me@corp:secret@db", "mongodb://me@corp:***@db"),
            ("mongodb://mongodb:secret@db", "mongodb://mongodb:***@db"),
            (
                "mongodb://db/?tlsCertificateKeyFilePassword=se,cret&w=1",
                "mongodb://db/?tlsCertificateKeyFilePassword=***&w=1",
            ),
            (
                "mongodb://db/?authMechanismProperties=AWS_SESSION_TOKEN:secret&w=1",
                "mongodb://db/?authMechanismProperties=AWS_SESSION_TOKEN:***&w=1",
            ),
            (
                "mongodb://db/?authMechanismProperties=AWS_SESSION_TOKEN%3Asecret",
                "mongodb://db/?authMechanismProperties=AWS_SESSION_TOKEN%3A***",
            ),
        ):
            self.assertEqual(redacted(uri), shown)

    @given(st.text(alphabet="u@:/+.", max_size=6), st.text(alphabet="pw@:/?%&,\n", max_size=8))
    def test_any_password(self, user: str, password: str) -> None:
        """
        No part of a password is shown, however badly user and password are
        escaped.
        """
        shown = redacted(f"mongodb://{user}:X{password}X@db/")
        self.assertNotIn("X", shown)
        self.assertTrue(shown.endswith("@db/"), shown)


class OptionsTests(SynchronousTestCase):
    """
    The same parser in twistd's machinery.
    """

    def run_twistd(self, *argv: str) -> tuple[ServerOptions | None, object, str]:
        """
        Do what C{twistd} does with its command line.

        @return: what it would run, its exit status and its output.
        """
        runs: list[ServerOptions] = []
        output = io.StringIO()
        self.patch(sys, "argv", ["twistd", *argv])
        self.patch(sys, "stdout", output)
        self.patch(sys, "stderr", output)
        status: object = None
        try:
            app.run(runs.append, ServerOptions)
        except SystemExit as stop:
            status = stop.code
        return (runs[0] if runs else None), status, output.getvalue()

    def test_seed_line(self) -> None:
        """
        The seed's options work behind C{twistd mongosync}, several values
        and repeats included.
        """
        line = "--from a --to b -f --exclude logdb data.transactions --seconds 600 -x other"
        config, status, _ = self.run_twistd("-n", "mongosync", *line.split())
        assert config is not None
        self.assertIsNone(status)
        options = config.subOptions
        self.assertIsInstance(options, Options)
        self.assertIs(options.parent, config)
        self.assertEqual(config.subCommand, "mongosync")
        self.assertEqual(
            options.arguments.selection.exclude, ("logdb", "data.transactions", "other")
        )
        self.assertEqual(options.arguments.seconds_back, 600.0)

    def test_help(self) -> None:
        """
        C{twistd mongosync --help} shows every option, and succeeds.
        """
        config, status, output = self.run_twistd("mongosync", "--help")
        self.assertEqual((config, status), (None, 0))
        self.assertTrue(output.startswith("usage: twistd mongosync "), output)
        for option in (
            *("--from", "--source", "--to", "--dest", "--host", "-h", "--port", "-s", "--seconds"),
            *("-w", "--window", "-f", "--follow", "-x", "--exclude", "--ns", "--rename"),
            *("--resume-file", "--dry-run", "--oplogns", "--force-start", "--at-least-once"),
            *("-l", "--log-level", "--version", "--help", "--users"),
            *("--split-large-transactions", "--lanes"),
        ):
            self.assertRegex(output, rf"(?m)^  (.*, )?{option}\b", option)

    def test_version(self) -> None:
        """
        C{--version} is ours, not Twisted's.
        """
        config, status, output = self.run_twistd("mongosync", "--version")
        self.assertEqual((config, status), (None, 0))
        self.assertEqual(output, f"txmongokit {txmongokit.__version__}\n")

    def test_wrong(self) -> None:
        """
        Wrong arguments end twistd with a status, and our sentence is the last
        thing to read, behind a short synopsis.
        """
        config, status, output = self.run_twistd("-n", "mongosync", "--from", "a", "-s", "0")
        self.assertEqual((config, status), (None, 1))
        lines = output.splitlines()
        self.assertEqual(lines[-1], "twistd mongosync: --seconds '0' must be a number above 0")
        self.assertLess(len(lines), 13, output)
        self.assertIn("usage: twistd mongosync ", output)

    def test_command_line_of_the_process(self) -> None:
        """
        Without a list the arguments of the process are taken.
        """
        self.patch(sys, "argv", ["mongosync", "--from", "a"])
        options = Options()
        options.parseOptions()
        self.assertEqual(options.arguments.source, "mongodb://a/")

    def test_text(self) -> None:
        """
        The options as text are their help.
        """
        self.assertIn("--at-least-once", str(Options()))
        self.assertIn("exactly once", " ".join(str(Options()).split()))


class WatchingTests(ArgumentsCase):
    """
    The status page, the headroom and the verification.
    """

    def test_defaults(self) -> None:
        """
        Nothing is watched but the headroom.
        """
        found = self.parsed()
        self.assertEqual(
            (found.status, found.status_token_file, found.verify, found.headroom_warning),
            (None, None, False, 900.0),
        )

    def test_given(self) -> None:
        """
        Where it listens is this machine alone, unless a token protects it.
        """
        found = self.parsed("--status", "8080", "--verify", "--headroom-warning", "60")
        self.assertEqual(found.status, "tcp:8080:interface=127.0.0.1")
        self.assertEqual((found.verify, found.headroom_warning), (True, 60.0))
        found = self.parsed("--status", "tcp:8080", "--status-token-file", "token")
        self.assertEqual((found.status, found.status_token_file), ("tcp:8080", Path("token")))

    def test_refused(self) -> None:
        """
        What makes no sense, or lets others in.
        """
        for argv in (
            ["--status", "tcp:8080:interface=0.0.0.0"],
            ["--status", "tcp"],
            ["--status-token-file", "token"],
            ["--verify", "--dry-run"],
            ["--headroom-warning", "soon"],
            ["--headroom-warning", "-1"],
        ):
            self.assertIn(argv[0], self.refused(*argv))

    def test_patience(self) -> None:
        """
        Ten minutes, or what is asked for; 0 is for ever, also in a
        verification.
        """
        self.assertEqual(self.parsed().patience, 600.0)
        self.assertEqual(self.parsed("--patience", "1.5").patience, 1.5)
        self.assertEqual(self.parsed("--patience", "0").patience, inf)
        self.assertEqual(parse_verify(["--from", "a", "--patience", "9"]).patience, 9.0)
        for wrong in ("-1", "long", "nan", "inf", "1e11"):
            self.assertIn(f"--patience {wrong!r}", self.refused("--patience", wrong))

    def test_limits(self) -> None:
        """
        There is none, unless one is asked for.
        """
        found = self.parsed()
        self.assertEqual((found.limit, found.limit_bytes), (inf, inf))
        found = self.parsed("--limit", "500", "--limit-bytes", "1e6")
        self.assertEqual((found.limit, found.limit_bytes), (500.0, 1e6))
        for option in ("--limit", "--limit-bytes"):
            self.assertIn(option, self.refused(option, "-1"))

    def test_subcommands(self) -> None:
        """
        A verification and a reversal take where and what, and nothing of when.
        """
        where = ["--from", "a", "--to", "b:1", "--ns", "app", "--rename", "app=copy"]
        for read in (parse_verify, parse_reverse):
            found = read(where)
            self.assertEqual(found.destination, "mongodb://b:1/")
            self.assertEqual(found.selection.destination("app.x"), "copy.x")
            for wrong in (["--follow"], ["--clone"], ["--status", "1"], ["--resume-file", "x"]):
                error = self.assertRaises(ArgumentsError, read, [*where, *wrong])
                self.assertIn(wrong[0], str(error))
            self.assertRaises(ArgumentsError, read, [])
        found = parse_verify([*where, "--generations", "3", "--settle", "0.5"])
        self.assertEqual((found.generations, found.settle), (3, 0.5))
        for wrong in (["--generations", "1"], ["--settle", "-1"]):
            self.assertRaises(ArgumentsError, parse_verify, [*where, *wrong])


class CloneTests(SynchronousTestCase):
    """
    C{--clone} and what belongs to it.
    """

    def parsed(self, *arguments: str) -> Arguments:
        """What a command line asks for."""
        return parse(["--from", "h", *arguments])

    def test_given(self) -> None:
        """All of them are understood."""
        found = self.parsed("--clone", "--clone-tasks", "7", "--drop")
        self.assertEqual((found.clone, found.clone_tasks, found.drop), (True, 7, True))

    def test_alone(self) -> None:
        """What belongs to C{--clone} is no use without it."""
        for arguments in (["--drop"], ["--clone-tasks", "2"]):
            error = self.assertRaises(ArgumentsError, self.parsed, *arguments)
            self.assertIn("--clone", str(error))

    def test_number_of_tasks(self) -> None:
        """There are from 1 to 64 tasks."""
        for text in ("0", "65", "x", "-1", "\u0663"):
            error = self.assertRaises(ArgumentsError, self.parsed, "--clone", "--clone-tasks", text)
            self.assertIn("1 to 64", str(error))

    def test_no_other_start(self) -> None:
        """A clone begins now, and not some time ago."""
        for option in (["--seconds", "5"], ["--window", "1h"]):
            error = self.assertRaises(ArgumentsError, self.parsed, "--clone", *option)
            self.assertIn(option[0], str(error))


class LaneArgumentsTests(ArgumentsCase):
    """
    C{--lanes}.
    """

    def test_given(self) -> None:
        """The number is taken; without it there is one."""
        self.assertEqual(self.parsed("--lanes", "8").lanes, 8)
        self.assertEqual(self.parsed().lanes, 1)

    def test_number(self) -> None:
        """There are from 1 to 64 lanes."""
        for text in ("0", "65", "x", "-1", "\u0663"):
            error = self.assertRaises(ArgumentsError, self.parsed, "--lanes", text)
            self.assertIn("1 to 64", str(error))

    def test_without_transactions(self) -> None:
        """Where nothing is written in transactions, there is one lane."""
        for option in ("--dry-run", "--at-least-once"):
            error = self.assertRaises(ArgumentsError, self.parsed, "--lanes", "2", option)
            self.assertIn(option, str(error))
            self.assertEqual(self.parsed("--lanes", "1", option).lanes, 1)
