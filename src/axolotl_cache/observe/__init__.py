"""What was served, from where and how fast: counters, time series, recent requests, traces and a log.

Loads neither torch nor a web framework. prometheus_client and opentelemetry only where they are asked for.
"""

from axolotl_cache.observe.observer import Observer
from axolotl_cache.observe.pipeline_source import pipeline_source
from axolotl_cache.observe.record import Call, Failure, Record
from axolotl_cache.observe.request_log import RequestLog
from axolotl_cache.observe.state import PrefixView, Source, State, TierState
from axolotl_cache.observe.traces import open_traces

__all__ = [
    "Call",
    "Failure",
    "Observer",
    "PrefixView",
    "Record",
    "RequestLog",
    "Source",
    "State",
    "TierState",
    "open_traces",
    "pipeline_source",
]
