"""How long does the profile of a million requests take, and how much memory?

`figures(folder)` writes a Mooncake trace of conversations and profiles it, prediction included, in a process
of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import REPOSITORY

REQUESTS = 1_000_000
_BLOCK_TOKENS = 512
_OPEN = 3_000

_MEASURED = """
import resource, sys, time
from axolotl_cache.cli.main import main
started = time.time()
try:
    main(["profile", "--quiet", "--json", sys.argv[1]], standalone_mode=False)
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF)
    print(time.time() - started, peak.ru_maxrss / 1024, peak.ru_utime + peak.ru_stime, file=sys.stderr)
"""


def write(path: Path, *, requests: int = REQUESTS, seed: int = 0) -> int:
    """Write a trace; return how many blocks its prompts have.

    Half of the requests go on with a conversation, each turn adding 2 to 20 blocks behind the first block
    that all share; a conversation ends at 60 blocks. Mooncake's own have 24 blocks a request.
    """
    rng = random.Random(seed)  # noqa: S311 a made-up trace, no secrets
    conversations: list[list[int]] = []
    fresh, at, blocks = 1, 0.0, 0
    with path.open("w", encoding="utf-8") as file:
        for _ in range(requests):
            at += rng.expovariate(3) * 1000
            place = rng.randrange(_OPEN)
            if place < len(conversations) and rng.random() < 0.5:
                ids = conversations[place]
            else:
                ids = [0]
                if len(conversations) < _OPEN:
                    place = len(conversations)
                    conversations.append(ids)
            added = rng.randint(2, 20)
            ids = [*ids, *range(fresh, fresh + added)]
            fresh += added
            blocks += len(ids)
            conversations[place] = ids if len(ids) <= 60 else [0]
            tokens = len(ids) * _BLOCK_TOKENS - rng.randrange(_BLOCK_TOKENS)
            line = {
                "timestamp": int(at),
                "input_length": tokens,
                "output_length": rng.randint(1, 800),
                "hash_ids": ids,
            }
            file.write(json.dumps(line) + "\n")
    return blocks


def figures(folder: Path, *, requests: int = REQUESTS, seed: int = 0) -> dict[str, Any]:
    """Return `million_requests_seconds`, `million_requests_mib`, and what they are of."""
    path = folder / "million.jsonl"
    blocks = write(path, requests=requests, seed=seed)
    # -c with a constant text and our own path: nothing of it comes from outside.
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(REPOSITORY / "src"), "PATH": ""},
    )
    path.unlink()
    if done.returncode:
        raise SystemExit(f"the profile failed:\n{done.stderr}")
    seconds, mib, cpu = map(float, done.stderr.split()[-3:])
    found = json.loads(done.stdout)
    return {
        "million_requests_seconds": round(seconds * REQUESTS / requests, 1),
        "million_requests_mib": round(mib),
        "requests": found["profile"]["totals"]["requests"],
        "blocks": blocks,
        "cpu_seconds": round(cpu, 1),
        "sample_rate": found["prediction"]["prefix"]["sample_rate"],
        "error_points": round(100 * found["prediction"]["prefix"]["error"], 2),
    }
