"""A request's way through the tiers."""

from axolotl_cache.pipeline.pipeline import Pipeline
from axolotl_cache.pipeline.totals import Kept, Totals

__all__ = ["Kept", "Pipeline", "Totals"]
