"""The settings of a YAML, with the model's own keys known where the model is at hand."""

from axolotl_cache.model_settings import load_for_model

__all__ = ["load_for_model"]
