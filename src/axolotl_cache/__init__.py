"""An exact inference cache for causal language models.

The package itself imports nothing heavy: names are loaded when they are first used, so that a response
cache works, fast, on a machine without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axolotl_cache.integrations.axolotl import AxolotlCachePlugin as AxolotlCachePlugin
    from axolotl_cache.response import SmartInferenceCache

__version__ = "0.1.0"

_HOMES = {
    "AxolotlCachePlugin": "axolotl_cache.integrations.axolotl",
    "SmartInferenceCache": "axolotl_cache.response",
}

# Not AxolotlCachePlugin: it is there only beside Axolotl, and `import *` must work without.
__all__ = ["SmartInferenceCache", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
