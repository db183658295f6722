"""What a server counts, and the routes that show it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import BaseRoute

from axolotl_cache.dashboard import Dashboard
from axolotl_cache.observe import Observer, RequestLog, open_traces, pipeline_source
from axolotl_cache.observe.request_log import Cutter
from axolotl_cache.pipeline import Pipeline
from axolotl_cache.server.observability import observability_routes
from axolotl_cache.server.service import Service


@dataclass(frozen=True, slots=True)
class Watching:
    """What of requests is kept."""

    keeps_text: bool = False
    """Whether the dashboard shows the last prompts."""
    log: Path | None = None
    """Where each request gets a line."""
    log_has_text: bool = False
    otlp_endpoint: str | None = None
    """Where traces go."""

    def open(
        self, stack: ExitStack, model: str, pipeline: Pipeline | None, report: Callable[[str], None]
    ) -> Observer:
        """Return what counts; `stack` closes it.

        Args:
            stack: closes it.
            model: what is served, by name.
            pipeline: cuts prompts into tokens for the log; None has their text hashed.
            report: gets one line when the log can't be written.

        Raises:
            StoreError: the log can't be made.
            AxolotlCacheError: traces are wanted, and the extra `otel` is not installed.
        """
        log = None
        if self.log is not None:
            cutter = None
            if pipeline is not None:
                cutter = Cutter(pipeline.tokens, pipeline.namespace_of, pipeline.engine.block_size)
            log = RequestLog(self.log, with_text=self.log_has_text, cutter=cutter, report=report)
        traces = open_traces(self.otlp_endpoint) if self.otlp_endpoint else None
        observer = Observer(model=model, keeps_text=self.keeps_text, log=log, traces=traces)
        return stack.enter_context(closing(observer))


def operator_routes(
    service: Service, pipeline: Pipeline | None, dashboard: Dashboard | None = None
) -> list[BaseRoute]:
    """Return the routes of the metrics and the dashboard, their gauges read from what runs.

    Args:
        service: whose requests are counted.
        pipeline: of our own engine; None in front of upstreams.
        dashboard: what the pages show; made, if it is not given.
    """
    observer, admission = service.observer, service.admission
    if pipeline is not None:
        observer.watch(
            pipeline_source(pipeline, running=lambda: admission.running, waiting=lambda: admission.waiting)
        )
    return [*observability_routes(dashboard or Dashboard(observer, pipeline), service.doors.operator)]
