"""
Tests for L{txmongokit.replicator.selection}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.selection import Selection, SelectionError


class ChoiceTests(SynchronousTestCase):
    """
    What is taken and what is left.
    """

    def test_everything(self) -> None:
        """Without options all is taken but what belongs to the server and to us."""
        selection = Selection()
        self.assertTrue(selection.selects("app.users"))
        for namespace in (
            "admin.system.users",
            "config.transactions",
            "local.oplog.rs",
            "txmongokit.mongosync",
            "app.system.profile",
        ):
            self.assertFalse(selection.selects(namespace), namespace)
            self.assertIsNone(selection.destination(namespace), namespace)

    def test_exact(self) -> None:
        """Names are never prefixes."""
        selection = Selection(["foo", "bar.baz"])
        chosen = {
            "foo.x": True,
            "foobar.x": False,
            "bar.baz": True,
            "bar.bazaar": False,
            "bar.baz.qux": False,
            "fo.o": False,
        }
        for namespace, expected in chosen.items():
            self.assertEqual(selection.selects(namespace), expected, namespace)

    def test_exclusion_wins(self) -> None:
        """What is excluded is left, even of what is included."""
        selection = Selection(["app"], ["app.log", "other"])
        self.assertTrue(selection.selects("app.users"))
        self.assertTrue(selection.selects("app.log2"))
        self.assertFalse(selection.selects("app.log"))
        self.assertFalse(selection.selects("other.x"))

    def test_databases(self) -> None:
        """A database is whole, or in part, or not at all selected."""
        selection = Selection(["whole", "part.x", "lessened"], ["lessened.y", "gone"])
        found = {
            name: (selection.selects_database(name), selection.selects_part(name))
            for name in ("whole", "part", "lessened", "gone", "admin")
        }
        self.assertEqual(
            found,
            {
                "whole": (True, True),
                "part": (False, True),
                "lessened": (False, True),
                "gone": (False, False),
                "admin": (False, False),
            },
        )

    def test_buckets(self) -> None:
        """A time series' buckets are selected and renamed as the series is."""
        selection = Selection(["app.weather"], renames=["app.weather=x.climate"])
        self.assertEqual(
            selection.destination("app.system.buckets.weather"), "x.system.buckets.climate"
        )
        self.assertIsNone(selection.destination("app.system.buckets.other"))

    def test_views(self) -> None:
        """Definitions of views are looked at wherever a part of the database is selected."""
        selection = Selection(["app.seen"])
        self.assertIsNotNone(selection.destination("app.system.views"))
        self.assertIsNone(selection.destination("other.system.views"))


class PatternTests(SynchronousTestCase):
    """
    Names with C{*}, and regular expressions.
    """

    def chosen(self, selection: Selection, *namespaces: str) -> list[str]:
        """Those that are selected."""
        return [each for each in namespaces if selection.selects(each)]

    def test_globs(self) -> None:
        """In a database's name C{*} is no dot, in a collection's it is anything."""
        self.assertEqual(
            self.chosen(
                Selection(["app_*.logs", "db.*", "x*"]),
                *("app_1.logs", "app_.logs", "app.logs", "app_1.logs2", "app_1.b.logs"),
                *("db.a", "db.a.b", "db2.a", "x.a", "xy.a.b", "yx.a"),
            ),
            ["app_1.logs", "app_.logs", "db.a", "db.a.b", "x.a", "xy.a.b"],
        )

    def test_regular_expressions(self) -> None:
        """They match the whole name; exclusion wins here, too."""
        self.assertEqual(
            self.chosen(
                Selection(["/app_[0-9]+\\.(logs|users)/"], ["*.logs"]),
                *("app_1.users", "app_1.logs", "app_1.users2", "app_x.users"),
            ),
            ["app_1.users"],
        )

    def test_databases(self) -> None:
        """Whole, in part, or not: a regular expression leaves it open."""
        found = {
            name: (selection.selects_database(name), selection.selects_part(name))
            for name, selection in (
                ("a1", Selection(["a*"])),
                ("a2", Selection(["a2.*"])),
                ("a3", Selection(["a*.x*"])),
                ("a4", Selection(["/a4.*/"])),
                ("a5", Selection([], ["a*.x"])),
                ("a6", Selection([], ["a6.*"])),
                ("a7", Selection([], ["/a7\\..*/"])),
                ("a8", Selection(["b*"], ["b*.x"])),
            )
        }
        whole, part, none = (True, True), (False, True), (False, False)
        self.assertEqual(list(found.values()), [whole, whole, part, part, part, none, part, none])

    def test_renames(self) -> None:
        """What was matched goes into the new name; exact names win."""
        selection = Selection(
            renames=[
                "app_*=copy_*",
                "app_*.log*=logs.l*_*",
                "app_1.logs=x.y",
                "/z(.)\\.(.*)/=\\1.\\2",
            ]
        )
        expected = {
            "app_1.logs": "x.y",
            "app_2.logs": "logs.l2_s",
            "app_2.users": "copy_2.users",
            "zq.a.b": "q.a.b",
            "other.x": "other.x",
        }
        self.assertEqual({name: selection.destination(name) for name in expected}, expected)
        self.assertTrue(selection.may_share("logs"))

    def test_refused(self) -> None:
        """What makes no sense is named."""
        for renames in (
            ["a*=b*c*"],
            ["a*=b.c"],
            ["/a(.)/=b\\2.c"],
            ["/a(/=b.c"],
            ["a*=local"],
            ["/(.*)\\.x/=admin.\\1"],
        ):
            error = self.assertRaises(SelectionError, Selection, renames=renames)
            self.assertIn("--rename", str(error))
        for name in ("a$*", "*.", "/(/"):
            self.assertIn("--ns", str(self.assertRaises(SelectionError, Selection, [name])))

    def test_two_into_one(self) -> None:
        """Two collections that would be one are found out when the second one comes."""
        selection = Selection(renames=["a*=same"])
        self.assertEqual(selection.destination("a1.x"), "same.x")
        self.assertEqual(selection.destination("a2.y"), "same.y")
        error = self.assertRaises(SelectionError, selection.destination, "a2.x")
        for name in ("a1.x", "a2.x", "same.x"):
            self.assertIn(name, str(error))

    def test_same_deployment(self) -> None:
        """A pattern is renamed where a rename has the very same one."""
        self.assertTrue(Selection(["a*"], renames=["a*=b*"]).covers_renames())
        self.assertFalse(Selection(["a*"], renames=["a*=a*"]).covers_renames())
        self.assertFalse(Selection(["a*"], renames=["a1=b1"]).covers_renames())

    def test_temporary(self) -> None:
        """Temporaries are followed wherever a part of their database is selected."""
        selection = Selection(["app.x"])
        for name in ("tmp.agg_out.1-2", "tmpaB3xY.convertToCapped.x", "tmpaB3xY.renameCollection"):
            self.assertTrue(selection.is_temporary(f"app.{name}"))
            self.assertEqual(selection.destination(f"app.{name}"), f"app.{name}")
            self.assertIsNone(selection.destination(f"other.{name}"))
        self.assertIsNone(selection.destination("app.tmp.mine"))

    def test_users(self) -> None:
        """Users and roles are a choice of their own."""
        selection = Selection(["app"], users=True)
        self.assertEqual(selection.destination("admin.system.users"), "admin.system.users")
        self.assertIsNone(selection.destination("admin.other"))
        self.assertNotEqual(selection.fingerprint(), Selection(["app"]).fingerprint())


class RenameTests(SynchronousTestCase):
    """
    Other names in the destination.
    """

    def test_database(self) -> None:
        """A database's collections keep their names in it."""
        selection = Selection(renames=["a=b"])
        self.assertEqual(selection.destination("a.x.y"), "b.x.y")
        self.assertEqual(selection.destination("ab.x"), "ab.x")

    def test_collection_wins(self) -> None:
        """Of two renames that match the more specific one is taken, whatever the order."""
        for renames in (["a=b", "a.x=c.y"], ["a.x=c.y", "a=b"]):
            selection = Selection(renames=renames)
            self.assertEqual(selection.destination("a.x"), "c.y")
            self.assertEqual(selection.destination("a.z"), "b.z")

    def test_not_chained(self) -> None:
        """Names may be swapped: a renamed name is not renamed again."""
        selection = Selection(renames=["a=b", "b=a"])
        self.assertEqual(selection.destination("a.x"), "b.x")
        self.assertEqual(selection.destination("b.x"), "a.x")

    def test_refused(self) -> None:
        """What makes no sense is named."""
        for renames in (
            ["a"],
            ["a=b=c"],
            ["a=b.c"],
            ["a.b=c"],
            ["=b"],
            ["a="],
            ["a.=b.c"],
            ["a=local"],
            ["a.x=txmongokit.y"],
            ["a=b", "a=c"],
            ["a=c", "b=c"],
            ["a b=c"],
        ):
            error = self.assertRaises(SelectionError, Selection, renames=renames)
            self.assertIn("--rename", str(error))
        self.assertIn("--ns", str(self.assertRaises(SelectionError, Selection, ["x."])))
        self.assertIn("--exclude", str(self.assertRaises(SelectionError, Selection, [], ["$x"])))

    def test_repeated(self) -> None:
        """The same rename twice is one."""
        self.assertEqual(Selection(renames=["a=b", "a=b"]).destination("a.x"), "b.x")

    def test_same_deployment(self) -> None:
        """Source and destination may be the same if everything gets another name."""
        self.assertTrue(Selection(["a", "b.x"], renames=["a=c", "b=d"]).covers_renames())
        self.assertFalse(Selection(["a", "b"], renames=["a=c"]).covers_renames())
        self.assertFalse(Selection(["a"], renames=["a=a"]).covers_renames())
        self.assertFalse(Selection(renames=["a=c"]).covers_renames())
        self.assertFalse(Selection().covers_renames())


class FingerprintTests(SynchronousTestCase):
    """
    What the checkpoint is kept by.
    """

    def test_order(self) -> None:
        """The order of the options does not matter."""
        one = Selection(["a", "b"], ["c.x", "d"], ["a=e", "b=f"])
        other = Selection(["b", "a", "a"], ["d", "c.x"], ["b=f", "a=e"])
        self.assertEqual(one.fingerprint(), other.fingerprint())

    def test_stable(self) -> None:
        """Checkpoints of earlier releases are found."""
        self.assertEqual(Selection().fingerprint(), "all")
        self.assertEqual(Selection(["a"], ["a.b"], ["a=c"]).fingerprint(), "49b427262bfde23c")

    def test_meaning(self) -> None:
        """Everything else does."""
        selections = [
            Selection(),
            Selection(["a"]),
            Selection([], ["a"]),
            Selection(renames=["a=b"]),
            Selection(["a", "b"]),
        ]
        self.assertEqual(len({each.fingerprint() for each in selections}), len(selections))
