"""A Redis Cluster of three primaries and three replicas: a primary is killed or hangs, slots move."""

from __future__ import annotations

import os
import signal
from typing import Any

from redis.crc import key_slot

from models.redis_address import RedisAddress
from tests.chaos.on_redis import (
    DEADLINE_MS,
    LATE,
    MANY,
    PART,
    Crowd,
    concluded,
    process_of,
    role_of,
    serve,
)
from tests.chaos.rows import UNHINDERED, Goal, Outcome, row
from tests.chaos.stand import Service, Stand, eventually
from tests.chaos.traffic import LESS
from tests.servers import Cluster, Server, is_linked, running_cluster
from tests.service.tiny import Publisher


def clustered(stand: Stand) -> tuple[Cluster, Publisher, Service]:
    """A cluster with a release and users, stored through the client of the jobs, and a service on it. Interactions
    are accepted when a primary and its replica have them on their disks."""
    cluster = stand.stack.enter_context(running_cluster(stand.folder / "cluster", replicas=3))
    client: Any = stand.stack.enter_context(RedisAddress.parse(cluster.url).connected(socket_timeout=5.0))
    client.mget = client.mget_nonatomic  # as the jobs, which ask for no two owners at once
    publisher = stand.install(client)
    return cluster, publisher, serve(stand, cluster.url, feedback_fsyncs=2)


def pointer_shard(cluster: Cluster, publisher: Publisher) -> tuple[Server, Server]:
    """Primary and replica of the shard that has the release pointer."""
    primary = cluster.owner(key_slot(publisher.keys.live.encode()))
    return primary, cluster.replicas[cluster.primaries.index(primary)]


@row(PART, "a cluster's primary, which has the release pointer, is killed, and comes back as a replica of the next; "
     "LORANK_FEEDBACK_FSYNCS=2", Goal(words=LESS), short=True)  # fmt: skip
def cluster_primary_killed(stand: Stand) -> Outcome:
    cluster, publisher, service = clustered(stand)
    primary, replica = pointer_shard(cluster, publisher)
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service, MANY)
    with traffic.trouble():
        primary.kill()
        eventually(lambda: role_of(replica) == "master", "no replica took over")
        primary.start()
        eventually(lambda: is_linked(primary), "the killed primary never became a replica")
    return concluded(traffic, crowd, publisher)


@row(PART, "a cluster's primary hangs (SIGSTOP) until its replica has taken over, and 2 s more; "
     "LORANK_FEEDBACK_FSYNCS=2", Goal(words=LATE))  # fmt: skip
def cluster_primary_hangs(stand: Stand) -> Outcome:
    cluster, publisher, service = clustered(stand)
    primary, replica = pointer_shard(cluster, publisher)
    process = process_of(primary)
    traffic, crowd = stand.traffic(service, deadline_ms=1000.0), Crowd.of(stand, service, MANY)
    with traffic.trouble():
        os.kill(process, signal.SIGSTOP)
        try:
            eventually(lambda: role_of(replica) == "master", "no replica took over")
            stand.wait(2.0)
        finally:
            os.kill(process, signal.SIGCONT)
        eventually(lambda: is_linked(primary), "the primary that hung never became a replica")
    return concluded(traffic, crowd, publisher)


@row(
    PART,
    "all slots of users move to other primaries of the cluster, one after the other, and back",
    Goal(added=UNHINDERED),
)
def cluster_slots_moved(stand: Stand) -> Outcome:
    cluster, publisher, service = clustered(stand)
    traffic, crowd = stand.traffic(service, deadline_ms=DEADLINE_MS), Crowd.of(stand, service, MANY)
    names = [*(user.id for user in stand.users), *crowd.users]
    slots = sorted({key_slot(publisher.keys.user_history(name).encode()) for name in names})
    with traffic.trouble():
        for slot in slots:
            at = cluster.primaries.index(cluster.owner(slot))
            cluster.move_slot(slot, cluster.primaries[at], cluster.primaries[at - 1])
        for slot in slots:
            at = cluster.primaries.index(cluster.owner(slot))
            cluster.move_slot(slot, cluster.primaries[at - 1], cluster.primaries[at])
    return concluded(traffic, crowd, publisher, f"{2 * len(slots)} moves")
