"""`axolotl-cache doctor`: why the hit rate is low, memory high, answers inconsistent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.profile import bytes_bar
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.tokenizing import tokenizer_of
from axolotl_cache.config import Settings
from axolotl_cache.errors import ConfigError, Problem
from axolotl_cache.profiling.doctor.examine import Examination, Examiner
from axolotl_cache.profiling.doctor.finding import Finding
from axolotl_cache.profiling.explain import explain, lines_of
from axolotl_cache.profiling.reading import Reading, read_logs

FOUND: Final = 1
"""Exit status if something was found."""


@click.command(cls=CleanCommand)
@click.argument("logs", nargs=-1, required=True, metavar="URL|LOG...")
@click.option(
    "--config",
    "yaml_file",
    type=click.Path(path_type=Path),
    metavar="YOUR_CONFIG.YAML",
    help="What is in force: entry_timeout and max_cache_entries.",
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="With --request: name the first token that differs, by the tokenizer in there. Default: that of "
    "--config.",
)
@click.option("--request", type=click.IntRange(1), metavar="N", help="Explain the N-th request of the log.")
@click.option(
    "--check",
    type=click.IntRange(1),
    metavar="N",
    help="With --config: ask the model again for N stored answers of the log, and compare.",
)
@click.option("--api-key", envvar="AXOLOTL_CACHE_API_KEY", help="Of an operator, for a URL that wants one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def doctor(
    logs: tuple[str, ...],
    yaml_file: Path | None,
    tokenizer: Path | None,
    request: int | None,
    check: int | None,
    api_key: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say why the hit rate is low, memory high, or answers inconsistent: cause, evidence, fix and gain.

    LOG is any log that `axolotl-cache profile` reads; URL is a server of `axolotl-cache serve`. Exit
    status: 0 if nothing was found, 1 if something was, 2 for a mistake in the call or a log that can't be
    read.
    """
    urls = [each for each in logs if each.startswith(("http://", "https://"))]
    paths = [Path(each) for each in logs if each not in urls]
    settings = None if yaml_file is None else load_for_model(yaml_file, {})
    if urls and (paths or len(urls) > 1 or request or check):
        raise _refused("give one URL, or logs; --request and --check go with logs")
    if check and settings is None:
        raise _refused("--check asks the model: it needs --config")
    if request is not None:
        if "-" in logs:
            raise _refused("--request reads the log twice: give a file, not standard input")
        tokens = tokenizer_of(settings, tokenizer)
        found = explain(lambda: read_logs(paths, Reading()), request, tokenizer=tokens)
        click.echo(json.dumps(asdict(found), ensure_ascii=False) if as_json else "\n".join(lines_of(found)))
        return
    if urls:
        from axolotl_cache.profiling.doctor.server import examine_server

        status = examine_server(urls[0], api_key=api_key)
        click.echo(
            json.dumps({"findings": _json(status.findings), "facts": status.facts}, ensure_ascii=False)
            if as_json
            else "\n".join([*status.facts, "", *_findings(status.findings)])
        )
        raise SystemExit(FOUND if status.findings else 0)
    reading = Reading()
    examined = _examined(paths, reading, settings, quiet=quiet)
    checked = None
    if check and settings is not None:
        from axolotl_cache.cli.check_answers import check_answers

        checked = check_answers(settings, read_logs(paths, Reading()), check)
    findings = (*examined.findings, *(checked.findings if checked else ()))
    if as_json:
        content: dict[str, Any] = {
            "requests": examined.requests,
            "repeats": examined.repeats,
            "hits": examined.hits,
            "without_prompt": examined.without_prompt,
            "damaged": reading.damaged,
            "checked": None if checked is None else checked.compared,
            "findings": _json(findings),
        }
        click.echo(json.dumps(content, ensure_ascii=False))
    else:
        click.echo("\n".join([*_summary(examined, reading), *(checked.lines if checked else ())]))
        click.echo("\n".join(["", *_findings(findings)]))
    if findings:
        raise SystemExit(FOUND)


def _examined(
    paths: Sequence[Path], reading: Reading, settings: Settings | None, *, quiet: bool
) -> Examination:
    inference = settings.inference if settings else None
    entries = inference.max_cache_entries if inference else None
    examiner = Examiner(
        ttl_seconds=inference.entry_timeout if inference else None,
        entries=entries if isinstance(entries, int) else None,
    )
    with bytes_bar(paths, quiet=quiet) as progress:
        for record in read_logs(paths, reading, progress=progress):
            examiner.see(record)
    return examiner.result()


def _summary(examined: Examination, reading: Reading) -> Iterator[str]:
    kinds = ", ".join(reading.formats)
    again = f"{examined.repeats:,} of them asked before with the same key"
    yield f"{examined.requests:,} requests ({kinds}), {again}"
    if examined.without_prompt:
        yield f"{examined.without_prompt:,} more have lengths only: nothing can be said about them"
    if examined.hits is not None:
        yield f"{examined.hits:,} were answered by the response cache"
    if reading.damaged:
        yield f"{reading.damaged:,} damaged lines left out; first: {reading.examples[0]}"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield "nothing found"
        return
    symptoms = dict.fromkeys(finding.symptom for finding in findings)
    number = 0
    for symptom in symptoms:
        yield f"{symptom.value}:"
        for finding in findings:
            if finding.symptom is not symptom:
                continue
            number += 1
            yield f"  {number}. {finding.title} [{finding.cause.value}]"
            yield from (f"     seen: {line}" for line in finding.evidence)
            yield f"     fix:  {finding.fix}"
            if finding.gain:
                yield f"     gain: {finding.gain}"


def _json(findings: Sequence[Finding]) -> list[Mapping[str, Any]]:
    return [asdict(finding) for finding in findings]


def _refused(message: str) -> ConfigError:
    return ConfigError([Problem("command line", "doctor", message)])
