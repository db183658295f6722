"""A profile, its prediction and the advice together, and the same as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from axolotl_cache.profiling.advice import Advice, advise
from axolotl_cache.profiling.kv_bytes import KvSize
from axolotl_cache.profiling.outlook import Outlook, TokenPrices, expect
from axolotl_cache.profiling.predict import Prediction, predict
from axolotl_cache.profiling.profile import Profile
from axolotl_cache.profiling.reading import Reading
from axolotl_cache.profiling.speeds import Speeds


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that `axolotl-cache profile` says."""

    logs: tuple[str, ...]
    reading: Reading
    profile: Profile
    prediction: Prediction
    advice: Advice
    outlook: Outlook
    kv: KvSize | None
    speeds: Speeds

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        profile = {
            name: _plain(getattr(self.profile, name))
            for name in self.profile.__slots__
            if name not in {"prefix_trace", "response_trace"}
        }
        kv = None if self.kv is None else {**asdict(self.kv), "token_bytes": self.kv.token_bytes}
        return {
            "logs": list(self.logs),
            "reading": asdict(self.reading),
            "profile": profile,
            "prediction": asdict(self.prediction),
            "advice": {**asdict(self.advice), "yaml": self.advice.yaml(self.kv.model if self.kv else "")},
            "outlook": asdict(self.outlook),
            "kv": kv,
            "speeds": asdict(self.speeds),
        }


def make_report(
    logs: tuple[str, ...],
    reading: Reading,
    profile: Profile,
    *,
    kv: KvSize | None = None,
    speeds: Speeds | None = None,
    prices: TokenPrices | None = None,
    memory_bytes: int | None = None,
) -> Report:
    """Return the report of a profile.

    Args:
        logs: their names.
        reading: what was read.
        profile: what was found.
        kv: of the model at hand, if it is known.
        speeds: where the user knows better than the log.
        prices: of the model, if they are known.
        memory_bytes: of the device that will serve, if it is known.
    """
    block_bytes = None if kv is None else kv.token_bytes * max(1, profile.totals.block_tokens)
    prediction = predict(profile, block_bytes=block_bytes)
    used = speeds or profile.speeds
    outlook = expect(profile, prediction, speeds=used, prices=prices)
    advice = advise(profile, prediction, kv, memory_bytes=memory_bytes)
    return Report(logs, reading, profile, prediction, advice, outlook, kv, used)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value
