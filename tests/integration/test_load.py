"""
The main job's load and comparison against real servers: what is equal is
found equal, and each kind of difference is found.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.load import Client, Load, checkpoint_gaps, differences, finish
from txmongokit.testing import replica_set

_OPERATIONS = 2000


def _checkpoint(client: Client, old: int, new: int) -> None:
    """
    Move a checkpoint in a transaction, as the replicator does.
    """
    checkpoints = client["txmongokit"]["mongosync"]
    with client.start_session() as session, session.start_transaction():
        update = {"$set": {"seq": new}}
        checkpoints.update_one({"_id": "k", "seq": old}, update, upsert=not old, session=session)


class LoadTests(SynchronousTestCase):
    """
    One load written to two sets.
    """

    def test_same_seed_is_equal_and_changes_are_found(self) -> None:
        """
        The same seed writes equal data, of which a changed document, index,
        option or database is told apart; and the oplog holds what was asked.
        """
        with (
            replica_set() as one,
            replica_set() as other,
            one.client() as source,
            other.client() as destination,
        ):
            Load(_OPERATIONS).write(source)
            Load(_OPERATIONS).write(destination)
            self.assertEqual(list(differences(source, destination)), [])

            oplog = source["local"]["oplog.rs"]
            self.assertGreater(oplog.count_documents({"o.applyOps": {"$exists": True}}), 0)
            kinds = {name for entry in oplog.find({"op": "c"}) for name in entry["o"]}
            wanted = {"create", "collMod", "renameCollection", "drop", "dropDatabase", "applyOps"}
            self.assertLessEqual(wanted, kinds)
            last = finish(source)
            self.assertIsNotNone(oplog.find_one({"ts": last, "op": "i", "ns": "app.finished"}))
            source["app"].drop_collection("finished")

            destination["shop"]["again"].update_one({"_id": 3}, {"$set": {"w": "weed"}})
            (found,) = differences(source, destination)
            self.assertRegex(found, r"^shop\.again: hash \w+ here, \w+ there$")
            destination["shop"]["again"].update_one({"_id": 3}, {"$set": {"w": "elm"}})

            destination["app"]["d"].drop_index("nested.deep.word_1")
            (found,) = differences(source, destination)
            self.assertIn("app.d:", found)
            source["app"]["d"].drop_index("nested.deep.word_1")

            destination["app"].command("collMod", "a", validationLevel="strict")
            (found,) = differences(source, destination)
            self.assertIn("'validationLevel': 'strict'", found)
            source["app"].command("collMod", "a", validationLevel="strict")

            destination["more"]["x"].insert_one({})
            self.assertIn("databases:", next(differences(source, destination)))


class CheckpointGapTests(SynchronousTestCase):
    """
    Reading exactly-once off the oplog.
    """

    def test_gaps_and_repeats(self) -> None:
        """
        Steps of one are in order; none at all, a gap and a repeat are not.
        """
        with replica_set() as deployment, deployment.client() as client:
            (nothing,) = checkpoint_gaps(client)
            self.assertIn("no checkpoint", nothing)
            for seq in range(4):
                _checkpoint(client, seq, seq + 1)
            self.assertEqual(list(checkpoint_gaps(client)), [])
            _checkpoint(client, 4, 6)
            (gap,) = checkpoint_gaps(client)
            self.assertIn("from 4 to 6", gap)
            _checkpoint(client, 6, 5)
            self.assertEqual(len(list(checkpoint_gaps(client))), 2)
