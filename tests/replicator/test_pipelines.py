"""
Tests for L{txmongokit.replicator.pipelines}.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from txmongokit.replicator.pipelines import renamed_pipeline


def renamed(*stages: Any) -> Any:
    """A pipeline where each collection has a new name."""
    return renamed_pipeline(
        list(stages), lambda name: f"new_{name}", lambda namespace: f"to.{namespace}"
    )


class PipelineTests(SynchronousTestCase):
    """
    Names in stages.
    """

    def test_stages(self) -> None:
        """Each stage that reads another collection."""
        for stage, expected in (
            ({"$lookup": {"from": "a", "as": "a"}}, {"$lookup": {"from": "new_a", "as": "a"}}),
            ({"$graphLookup": {"from": "a"}}, {"$graphLookup": {"from": "new_a"}}),
            ({"$unionWith": "a"}, {"$unionWith": "new_a"}),
            ({"$unionWith": {"coll": "a"}}, {"$unionWith": {"coll": "new_a"}}),
            (
                {"$lookup": {"from": {"db": "x", "coll": "y"}}},
                {"$lookup": {"from": {"db": "to", "coll": "x.y"}}},
            ),
        ):
            self.assertEqual(renamed(stage), [expected])

    def test_nested(self) -> None:
        """Pipelines within stages."""
        inner = [{"$unionWith": {"coll": "a", "pipeline": [{"$unionWith": "b"}]}}]
        expected = [{"$unionWith": {"coll": "new_a", "pipeline": [{"$unionWith": "new_b"}]}}]
        self.assertEqual(renamed({"$facet": {"one": inner}}), [{"$facet": {"one": expected}}])
        self.assertEqual(
            renamed({"$lookup": {"as": "x", "pipeline": inner}}),
            [{"$lookup": {"as": "x", "pipeline": expected}}],
        )

    def test_others(self) -> None:
        """What names no collection stays as it is."""
        for stage in ({"$match": {"from": "a", "$lookup": 1}}, {"$lookup": 3}, "odd"):
            self.assertEqual(renamed(stage), [stage])
        self.assertEqual(renamed_pipeline({"not": "a list"}, str, str), {"not": "a list"})
