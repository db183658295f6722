"""`from axolotl.inference import SmartInferenceCache`: the cache under the name Axolotl's users look for.

`axolotl` is a namespace package here (no `__init__.py` above this folder), so that this lives beside the
real Axolotl without touching it.
"""

from axolotl_cache import SmartInferenceCache

__all__ = ["SmartInferenceCache"]
