"""The dashboard: JSON for its pages, and the pages themselves in `static/`. Knows no web framework.

Everything here is for operators: it has all tenants' figures, and texts where they are kept.
"""

from axolotl_cache.dashboard.dashboard import Dashboard

__all__ = ["Dashboard"]
