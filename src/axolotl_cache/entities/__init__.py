"""What a conversation is about: orders, cards, dates and the like. Chinese and English, no model."""

from axolotl_cache.entities.extract import Extractor, extract
from axolotl_cache.entities.model import BUILT_IN, Entity, Reference, Resolution
from axolotl_cache.entities.own import OwnKind
from axolotl_cache.entities.tracker import Tracker

__all__ = [
    "BUILT_IN",
    "Entity",
    "Extractor",
    "OwnKind",
    "Reference",
    "Resolution",
    "Tracker",
    "extract",
]
