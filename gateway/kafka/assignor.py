"""Partition p of every topic goes to the same member, and stays with it as long as it can.

The sticky assignment is made for the first topic alone; the others follow it. What one member knows of its batches
(their progress, their ordering keys, both classes) is then all there is to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class TogetherAssignor(StickyPartitionAssignor):  # type: ignore[misc]
    """The first topic by name leads: all members see the same one."""

    name = "carillon-together"

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        topics = sorted({topic for member in members.values() for topic in member.subscription})
        leader = topics[0]
        leading = {
            name: ConsumerProtocolMemberMetadata(member.version, [leader], member.user_data)
            for name, member in members.items()
        }
        assigned = super().assign(cluster, leading)
        return {name: _followed(one, topics, cluster) for name, one in assigned.items()}

    @classmethod
    def _metadata(cls, topics: Iterable[str], former, generation: int = -1):  # type: ignore[no-untyped-def]
        if former is not None:
            leader = min(topics)
            former = [each for each in former if each.topic == leader]
        return super()._metadata(topics, former, generation)


def _followed(
    assignment: ConsumerProtocolMemberAssignment, topics: list[str], cluster: ClusterMetadata
) -> ConsumerProtocolMemberAssignment:
    """The same partitions of every topic, as far as it has them."""
    partitions = [partition for _, chosen in assignment.assignment for partition in chosen]
    shared = [
        (topic, kept)
        for topic in topics
        if (kept := sorted(set(partitions) & (cluster.partitions_for_topic(topic) or set())))
    ]
    return ConsumerProtocolMemberAssignment(assignment.version, shared, b"")
