"""The report as one HTML page: nothing is loaded from elsewhere, and what the log says is only ever text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from axolotl_cache.config import format_duration
from axolotl_cache.profiling.pictures import Axis, bar_chart, line_chart
from axolotl_cache.profiling.predict import Curve
from axolotl_cache.profiling.report import Report
from axolotl_cache.profiling.report_text import FIRST, TABLES, sections, shorten, size_text

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2833; --paper: #fff; --soft: #5b6873; --line: #d7dde2;
  --box: #f4f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ed; --paper: #14191d; --soft: #9aa7b1; --line: #36414a; --box: #1c2329 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1000px;
  margin: 0 auto; padding: 1.5rem }
h1 { font-size: 1.6rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
.soft { color: var(--soft); overflow-wrap: anywhere }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.figures div { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem 1rem; flex: 1 1 9rem }
.figures b { display: block; font-size: 1.5rem }
.charts { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
figure { margin: 0 } figcaption { color: var(--soft); font-size: .92rem }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: var(--ink) }
svg .grid { stroke: var(--line) }
.legend { display: flex; flex-wrap: wrap; gap: 1rem; margin: .2rem 0; font-size: .9rem }
.legend .key { width: 30px; height: 8px; margin-right: .4rem }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .9rem;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .86rem }
pre.table { white-space: pre; overflow-wrap: normal }
table { border-collapse: collapse; width: 100%; font-size: .92rem }
td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top }
td { overflow-wrap: anywhere }
td.n { text-align: right; white-space: nowrap }
@media (max-width: 600px) {
  table, tbody { display: block }
  tr { display: grid; grid-template-columns: 5.5rem 1fr 1fr; border-bottom: 1px solid var(--line) }
  td, th { border: 0 } td:last-child, th:last-child { grid-column: 1 / -1 } }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def html_report(report: Report) -> str:
    """Return the page. Texts of the log are in it, as in the terminal's report."""
    body = "".join(_body(report))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What a cache would do</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f'<h1>What a cache would do</h1><p class="soft">{escape(", ".join(report.logs))}</p>'
    yield _figures(report)
    written = {title: lines for title, lines in sections(report) if lines}
    if FIRST in written:
        yield _section(FIRST, written.pop(FIRST))
    yield '<h2>Hit rates</h2><div class="charts">'
    prefix, response = report.prediction.prefix, report.prediction.response
    yield _capacity_chart(prefix, "Prefix cache: prompt tokens found, by capacity")
    yield _capacity_chart(response, "Response cache: requests answered, by entries")
    yield _ttl_chart([prefix, response])
    yield _turns_chart(report)
    yield "</div>"
    yield "<h2>The YAML to use, and why</h2>"
    yield f"<pre>{escape(report.advice.yaml(report.kv.model if report.kv else ''))}</pre>"
    yield _shared_table(report)
    for title, lines in written.items():
        yield _section(title, lines)


def _section(title: str, lines: Sequence[str]) -> str:
    kind = ' class="table"' if title in TABLES else ""  # columns that a narrow page must not break
    return f"<h2>{escape(title)}</h2><pre{kind}>{escape(chr(10).join(lines))}</pre>"


def _figures(report: Report) -> str:
    totals, outlook = report.profile.totals, report.outlook
    busy = report.profile.concurrency.p95
    cards = [
        (f"{totals.requests:,}", "requests"),
        (f"{outlook.prefill_tokens_saved_share:.1%}", "of the prompt tokens need not be computed"),
        (f"{report.prediction.prefix.most:.1%}", "of the prompt tokens: prefix cache, alone"),
        (f"{report.prediction.response.most:.1%}", "of the requests: response cache, alone"),
        (f"{report.profile.sessions.sessions:,}", "conversations"),
        *([(f"{busy}", "under way at a time (95 %)")] if busy else []),
    ]
    found = "".join(f"<div><b>{escape(value)}</b>{escape(label)}</div>" for value, label in cards)
    return f'<div class="figures">{found}</div>'


def _capacity_chart(curve: Curve, title: str) -> str:
    if not curve.points or not curve.most:
        return _figure(title, "<p>Nothing repeats here.</p>")
    names = list(curve.points[0].hit_rates)
    labels = [size_text(p.size_bytes) if p.size_bytes else f"{p.capacity:,}" for p in curve.points]
    unit = "memory" if curve.points[0].size_bytes else ("blocks" if curve.tier == "prefix" else "entries")
    lines = {name: [point.hit_rates[name] for point in curve.points] for name in names}
    note = f"{title}. {curve.most:.1%} if nothing is forgotten."
    if curve.error:
        note += f" From a sample, give or take {curve.error:.1%}."
    return _figure(note, line_chart(title, Axis(unit, labels), lines))


def _ttl_chart(curves: Sequence[Curve]) -> str:
    known = [curve for curve in curves if curve.ttls]
    if not known:
        return ""
    labels = [format_duration(point.ttl_seconds) for point in known[0].ttls]
    lines = {curve.tier: [point.hit_rate for point in curve.ttls] for curve in known}
    title = "Hit rate by TTL, with no bound on the capacity"
    return _figure(title, line_chart(title, Axis("TTL", labels), lines))


def _turns_chart(report: Report) -> str:
    turns = report.profile.sessions.by_turns
    if not report.profile.sessions.sessions:
        return ""
    bars = [
        (f"{label} turn{'s' * (label != '1')}", float(count), f"{count:,}") for label, count in turns.items()
    ]
    title = "Conversations by their number of turns (length of bars: square root)"
    return _figure(title, bar_chart(title, bars))


def _figure(caption: str, picture: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _shared_table(report: Report) -> str:
    rows = "".join(
        f'<tr><td class="n">{each.requests:,}</td><td class="n">{each.tokens:,}</td>'
        f'<td class="n">{each.saved_tokens:,}</td><td>{escape(shorten(each.example, 140))}</td></tr>'
        for each in report.profile.shared
    )
    if not rows:
        return ""
    return (
        "<h2>Beginnings that prompts share</h2><table><tr><th>requests</th><th>tokens, at least</th>"
        f"<th>tokens saved</th><th>begins with</th></tr>{rows}</table>"
    )
