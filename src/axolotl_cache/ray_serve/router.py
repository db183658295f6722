"""Ray's own interface for routing, over our choice."""

from __future__ import annotations

import time
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from axolotl_cache.ray_serve.calls import Call
from axolotl_cache.ray_serve.choice import rank
from axolotl_cache.ray_serve.holdings import read_told
from axolotl_cache.ray_serve.knowledge import Knowledge
from axolotl_cache.ray_serve.ticket import Ticket


class PrefixRouter(RequestRouter):  # type: ignore[misc]
    """Sends a request to the replica that holds most of its prompt, unless that has too much to do."""

    def initialize_state(self, **options: Any) -> None:
        """Begin knowing nothing. Called by Ray."""
        self._knowledge = Knowledge(**options)
        self._rounds: dict[str, int] = {}
        """The report of each replica that was read last."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas, best first, each in a rank of its own. Called by Ray.

        Ray asks them in this order, and takes the first that has room.
        """
        ticket = _ticket(pending_request)
        self._listen(candidate_replicas)
        loads = {each.replica_id.unique_id: self._load(each) for each in candidate_replicas}
        candidates = self._knowledge.candidates(ticket.chunks, ticket.conversation, loads, time.monotonic())
        if pending_request is not None:
            # Else Ray, with all replicas full, asks again at once, without end.
            pending_request.routing_context.should_backoff = True
        order = rank(ticket.chunks, candidates, chunks_a_request=self._knowledge.chunks_a_request)
        return [[candidate_replicas[place]] for place in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Note where a request went. Called by Ray."""
        ticket = _ticket(pending_request)
        numbers = ticket.chunks
        if ticket.conversation is not None:
            numbers = (*numbers, ticket.conversation)
        self._knowledge.sent(replica_id.unique_id, numbers, time.monotonic())

    def _listen(self, replicas: list[RunningReplica]) -> None:
        names = [each.replica_id.unique_id for each in replicas]
        if self._rounds.keys() - set(names):
            self._rounds = {name: self._rounds[name] for name in names if name in self._rounds}
        self._knowledge.keep_only(names)
        for name, replica in zip(names, replicas, strict=True):
            stats = replica.routing_stats
            said = stats.get("round")
            if said is not None and said != self._rounds.get(name):
                self._rounds[name] = said
                self._knowledge.told(name, read_told(stats["held"]))

    def _load(self, replica: RunningReplica) -> int:
        counted = self.replica_queue_len_cache.get(replica.replica_id)
        return int(replica.routing_stats.get("load", 0) if counted is None else counted)


def _ticket(pending_request: PendingRequest | None) -> Ticket:
    if pending_request is not None and pending_request.args and isinstance(pending_request.args[0], Call):
        return pending_request.args[0].ticket
    return Ticket()
