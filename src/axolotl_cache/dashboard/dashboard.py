"""What the pages show, as JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import axolotl_cache
from axolotl_cache.dashboard.overview import Overview
from axolotl_cache.dashboard.request_page import in_list, request_page
from axolotl_cache.observe import Observer, State
from axolotl_cache.observe.state import RUNNING

if TYPE_CHECKING:
    from axolotl_cache.pipeline import Pipeline

MOST_PREFIXES: Final = 200
MOST_LISTED: Final = 200
SPANS_SECONDS: Final = (900, 3600, 21600, 86400, 604800)
_STATE_SECONDS: Final = 1.0
"""For so long a state that was read is shown again: many who look are no more work than one."""


class Dashboard:
    """The data of all pages. Every method may be called from any thread.

    Args:
        observer: what was counted.
        pipeline: what it was counted of, for a request's blocks; None where answers come from upstream.
        others: returns the rows of the nodes page when there are other machines, this one's among them; an
            empty list while they are not known.
    """

    def __init__(
        self,
        observer: Observer,
        pipeline: Pipeline | None = None,
        *,
        others: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        self.observer = observer
        self._others = others
        self._pipeline = pipeline
        self._reading = threading.Lock()
        self._state: tuple[float, State] | None = None

    def overview(self, span_seconds: int = 3600) -> dict[str, Any]:
        """Return the front page over one of `SPANS_SECONDS`. Cost: 5 ms.

        Raises:
            ValueError: there is no such span.
        """
        if span_seconds not in SPANS_SECONDS:
            raise ValueError(
                f"span is one of {', '.join(map(str, SPANS_SECONDS))} seconds, not {span_seconds}"
            )
        return self._head() | Overview(self.observer, self.state(), span_seconds).json()

    def requests(
        self, *, served: str = "", tenant: str | None = None, limit: int = MOST_LISTED
    ) -> dict[str, Any]:
        """Return the last requests, newest first.

        Args:
            served: only those that were served so (`hit-prefix`, ...), or that failed (`failed`).
            tenant: only this tenant's; "" is those without one.
            limit: requests at the most.
        """
        with self.observer.reading():
            records = self.observer.recent.newest()
        found = [
            record
            for record in records
            if (not served or record.served == served or (served == "failed" and record.status != "ok"))
            and (tenant is None or record.tenant == tenant)
        ]
        return self._head() | {
            "kept": len(records),
            "found": len(found),
            "requests": [in_list(record) for record in found[: min(limit, MOST_LISTED)]],
        }

    def request(self, request_id: str) -> dict[str, Any] | None:
        """Return the page of one request; None if it is not among the last ones. Cost: renders its prompt."""
        with self.observer.reading():
            found = self.observer.recent.get(request_id)
            line = self.observer.baseline.line()
        if found is None:
            return None
        block_size = self.state().block_size
        page = request_page(*found, pipeline=self._pipeline, block_size=block_size, line=line)
        return self._head() | page | {"keeps_text": self.observer.recent.keeps_text}

    def prefixes(self) -> dict[str, Any]:
        """Return the prefix tree's largest and hottest runs. Cost: 0.5 us a block that is held."""
        shows_text = self.observer.recent.keeps_text
        tenants = self._tenants()
        found = []
        for view in self.observer.prefixes(MOST_PREFIXES):
            one = asdict(view) | {"tenant": tenants.get(view.namespace)}
            if not shows_text:
                one["text"] = ""
            found.append(one)
        return self._head() | {
            "block_size": self.state().block_size,
            "shows_text": shows_text,
            "prefixes": found,
            "tier": next((asdict(t) for t in self.state().tiers if t.name == "prefix_memory"), None),
        }

    def nodes(self) -> dict[str, Any]:
        """Return the machines and what they use."""
        return self._head() | {"nodes": self._others() or self.own_nodes()}

    def own_nodes(self) -> list[dict[str, Any]]:
        """Return this machine's row, with what each of its tiers holds, and served since the start."""
        with self.observer.reading():
            served = {name: tally.requests for name, tally in self.observer.series.totals().items()}
        requests = sum(served.values())
        rates = {
            name: count / requests for name, count in served.items() if name.startswith("hit-") and count
        }
        state = self.state()
        tiers = [
            {"title": tier.title, "held_bytes": tier.held_bytes if tier.is_up else None}
            for tier in state.tiers
            if tier.name != RUNNING
        ]
        return [asdict(node) | {"hit_rates": rates, "tiers": tiers} for node in state.nodes]

    def state(self) -> State:
        """Return what there is, at most a second old."""
        with self._reading:
            now = self.observer.clock()
            if self._state is None or not 0 <= now - self._state[0] < _STATE_SECONDS:
                self._state = (now, self.observer.state())
            return self._state[1]

    def _head(self) -> dict[str, Any]:
        return {
            "now": self.observer.clock(),
            "started_at": self.observer.started_at,
            "model": self.observer.model,
            "version": axolotl_cache.__version__,
        }

    def _tenants(self) -> dict[str, str]:
        """Return whose a namespace is, of the tenants that were seen and the model as it was loaded."""
        if self._pipeline is None:
            return {}
        with self.observer.reading():
            names = ["", *self.observer.counters.tenants]
        return {self._pipeline.namespace.for_tenant(name).digest: name for name in names}
