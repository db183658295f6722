"""What all benchmarks share: the model, the traces, and the form of the result."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "models" / "SmolLM2-135M-Instruct"
TRACES = Path(os.environ.get("AXOLOTL_CACHE_TRACES") or REPOSITORY.parent / "shared" / "traces")
BANKING77 = (
    "banking77_train.csv.gz",
    "https://github.com/PolyAI-LDN/task-specific-datasets, banking_data/train.csv, gzipped (CC BY 4.0; "
    "Casanueva et al. 2020)",
)


def say(line: str = "") -> None:
    """Write a line for people."""
    print(line, file=sys.stderr, flush=True)


def arguments(page: str | None) -> argparse.Namespace:
    """Read the options that these benchmarks share: `quick` and `dtype`.

    Args:
        page: the benchmark's docstring.
    """
    parser = argparse.ArgumentParser(description=page, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same on less work: a few minutes")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    return parser.parse_args()


def banking77() -> list[str]:
    """Return Banking77's 10,003 customers' questions; end the benchmark, visibly, where they are missing."""
    name, source = BANKING77
    path = TRACES / name
    if not path.exists():
        say(f"SKIPPED: {path} is missing. Put it there, or set AXOLOTL_CACHE_TRACES. It is public: {source}.")
        raise SystemExit(0)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return [row["text"].strip() for row in csv.DictReader(file)]


def arrivals(count: int) -> list[float] | None:
    """Return when the first `count` requests of Azure's conversation trace arrived, in seconds, ascending.

    Returns:
        None where the trace is missing: `azure2023_conv.csv.gz`, which is AzureLLMInferenceTrace_conv.csv of
        https://github.com/Azure/AzurePublicDataset, gzipped (CC BY 4.0; Patel et al. 2024).
    """
    path = TRACES / "azure2023_conv.csv.gz"
    if not path.exists():
        return None
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = islice(csv.DictReader(file), count)
        # Seven digits behind the point are one more than datetime knows.
        return [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows]


def machine() -> dict[str, Any]:
    """Return what this ran on."""
    cpu = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for package in ("axolotl-cache", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def emit(
    benchmark: str,
    *,
    figures: Mapping[str, float],
    rows: Sequence[Mapping[str, Any]],
    seed: int,
    started: float,
    packages: Sequence[str],
    **settings: Any,
) -> None:
    """Print the result as the last line of standard output.

    Args:
        benchmark: its name.
        figures: name to number, medians measured in this run.
        rows: the measurements behind them.
        seed: of everything random.
        started: `time.time()` at the start.
        packages: whose versions matter.
        settings: what was chosen for this run.
    """
    result = {
        "benchmark": benchmark,
        "figures": figures,
        "rows": rows,
        "settings": settings,
        "machine": machine(),
        "versions": versions(*packages),
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.time() - started, 1),
    }
    print(json.dumps(result))


def load(dtype: str, *, packed: bool = True) -> Any:
    """Load the bundled model in `bfloat16` or `float32`; not `packed` is as transformers loads it."""
    from axolotl_cache.engine.loader import load_model

    if not MODEL.exists():
        raise SystemExit(f"{MODEL} is missing: run scripts/install")
    axolotl = {"base_model": str(MODEL), "bf16": dtype == "bfloat16", "chat_template": "tokenizer_default"}
    return load_model(axolotl, config_path=REPOSITORY / "benchmarks", report=say, packed=packed)


def make_engine(
    loaded: Any, *, max_cache_bytes: int, ignore_end: bool = False, kind: Any = None, **options: Any
) -> Any:
    """Return an engine over the loaded model.

    Args:
        loaded: the model.
        max_cache_bytes: bound on the KV held for reuse.
        ignore_end: answers are as long as they may be.
        kind: a class of engines; None is the ordinary one.
        options: of the engine.
    """
    from axolotl_cache.engine.engine import Engine
    from axolotl_cache.paths import cache_home

    engine = (kind or Engine)(
        loaded.model,
        device=loaded.device,
        context_length_tokens=loaded.context_length_tokens,
        end_tokens=frozenset() if ignore_end else loaded.end_tokens,
        max_cache_bytes=max_cache_bytes,
        memo=cache_home() / "exactness",
        **options,
    )
    say(f"exactness: {engine.exactness}")
    return engine


def build(loaded: Any, *, max_cache_bytes: int, response: Any = None) -> Any:
    """Return a pipeline over the loaded model."""
    from axolotl_cache.engine.prompt import PromptRenderer
    from axolotl_cache.pipeline import Pipeline

    engine = make_engine(loaded, max_cache_bytes=max_cache_bytes)
    renderer = PromptRenderer(loaded.tokenizer, loaded.chat_template)
    return Pipeline(engine, renderer, loaded.namespace, response)
