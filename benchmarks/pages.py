"""Fill the figures of the pages from the committed results, and tell which are out of step.

python benchmarks/pages.py            say which pages are out of step
python benchmarks/pages.py --write    put the figures in

A figure in a page stands in front of a comment that says where it is from: the result file, which of its rows
(where it has rows), what there, and how it is written, as in `4.0<!-- response memory_hit_p50_us:.1f -->` or
`224<!-- engine-bfloat16 [part=throughput, side=axolotl-cache] tokens_per_second:.0f -->`. A factor may stand
before the colon: `58<!-- semantic served_at_1_percent_wrong*100:.0f -->`. The first row that fits is taken.
Tables stand between two comments, and are made by `page_tables.py`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from page_tables import TABLES

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
SAID = r"[-\d][\d.,]*"
FIGURE = re.compile(
    rf"(?P<said>{SAID})<!-- (?P<file>[\w-]+)(?: \[(?P<where>[^\]]+)\])? (?P<key>[\w.]+)"
    r"(?:\*(?P<factor>[\d.e-]+))?:(?P<style>[,.\w]+) -->"
)
TABLE = re.compile(
    r"<!-- measured: (?P<name>[\w ]+), by benchmarks/pages\.py -->.*?<!-- end of (?P=name) -->", re.DOTALL
)


def pages() -> Iterator[Path]:
    """Yield what people read: every page but the generated one of commands, and what training has put out."""
    yield from sorted(REPOSITORY.glob("*.md"))
    for folder in ("docs", "examples", "benchmarks", "standalone"):
        yield from (
            path
            for path in sorted((REPOSITORY / folder).rglob("*.md"))
            if path.name != "cli.md" and "outputs" not in path.parts
        )


@cache
def result(name: str) -> dict[str, Any]:
    """Return a committed result.

    Raises:
        FileNotFoundError: it is not committed.
    """
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def figure(match: re.Match[str]) -> str:
    """Return a figure as the result has it, in the page's way of writing it.

    Raises:
        KeyError: no such figure, or no such row.
    """
    whole = result(match["file"])
    if match["where"]:
        wanted = dict(part.split("=", 1) for part in match["where"].split(", "))
        rows = (row for row in whole["rows"] if all(str(row.get(k)) == v for k, v in wanted.items()))
        found: Any = next(rows, None)
        if found is None:
            raise KeyError(match[0])
    else:
        found = whole["figures"]
    for key in match["key"].split("."):
        found = found[key]
    if match["factor"]:
        found *= float(match["factor"])
    return format(found, match["style"])


def filled(text: str) -> str:
    """Return a page with all its figures and tables as the results have them."""

    def number(match: re.Match[str]) -> str:
        return figure(match) + match[0][len(match["said"]) :]

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        begin, end = f"<!-- measured: {name}, by benchmarks/pages.py -->", f"<!-- end of {name} -->"
        try:
            made = TABLES[name](result)
        except FileNotFoundError as missing:
            made = f"`{Path(missing.filename).name}` is not committed: its benchmark prints this table."
        return f"{begin}\n\n{made}\n\n{end}"

    return FIGURE.sub(number, TABLE.sub(table, text))


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    behind = 0
    for path in pages():
        text = path.read_text(encoding="utf-8")
        made = filled(text)
        if made != text:
            behind += 1
            print(path.relative_to(REPOSITORY))
            if write:
                path.write_text(made, encoding="utf-8")
    raise SystemExit(0 if write or not behind else 1)


if __name__ == "__main__":
    main()
