"""`axolotl-cache inference`, and `python -m axolotl.cli.inference` where Axolotl is not installed."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from axolotl_cache.cli.errors import CleanCommand
from axolotl_cache.cli.flags import cache_options
from axolotl_cache.cli.prompts import Named, fit, from_file, from_text
from axolotl_cache.cli.session import session_json, session_lines, session_options
from axolotl_cache.cli.settings import load_for_model
from axolotl_cache.cli.terminal import print_summary, say, steps_bar
from axolotl_cache.config import Flag, Settings
from axolotl_cache.errors import ConfigError, Problem, RequestError
from axolotl_cache.request import Answer, CacheControl, Delta, Message, Request, Sampling

if TYPE_CHECKING:
    from axolotl_cache.engine.loader import LoadedModel
    from axolotl_cache.pipeline import Pipeline

_RULE: Final = "=" * 80
_INTERRUPTED: Final = 130
_REFUSED: Final = 2


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose tokens; the command gets the given ones as a dict, `sampling`."""
    names = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")

    @click.option(
        "--max-new-tokens",
        type=int,
        help="Longest answer, in tokens.  [default: 512, or what the context leaves]",
    )
    @click.option(
        "--temperature",
        type=float,
        help="0 is greedy.  [default: what the model's generation_config says; for bench, 0]",
    )
    @click.option("--top-p", type=float, help="Nucleus sampling; 1 is off.")
    @click.option("--top-k", type=int, help="Only the k likeliest tokens; 0 is off.")
    @click.option("--min-p", type=float, help="Only tokens at least this likely against the best; 0 is off.")
    @click.option("--repetition-penalty", type=float, help="Above 1 discourages repetition; 1 is off.")
    @click.option("--seed", type=int, help="Makes sampled answers repeatable, and so cacheable.")
    @click.option("--stop", multiple=True, help="End the answer before this text; may be given again.")
    @wraps(command)
    def with_sampling(*args: Any, **options: Any) -> Any:
        given = {n: options.pop(n) for n in names}
        return command(*args, sampling={n: v for n, v in given.items() if v not in (None, ())}, **options)

    return with_sampling


cache_truncated_option = click.option(
    "--cache-truncated",
    is_flag=True,
    help="Store answers, too, that --max-new-tokens cut off.",
)


def choose_sampling(from_model: dict[str, Any], given: dict[str, Any]) -> Sampling:
    """Return how tokens are chosen: what the user gave, else what the model's own configuration says.

    Args:
        from_model: the model's generation_config.
        given: the user's options; a temperature of 0 is greedy, whatever the model says.
    """
    known = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
    own = {k: v for k, v in from_model.items() if k in known and v is not None}
    if not from_model.get("do_sample", False):
        own = {k: v for k, v in own.items() if k == "repetition_penalty"}
    else:
        # What transformers takes where the file is silent.
        own = {"temperature": 1.0, "top_k": 50} | own
    return Sampling(**(own | given))


def _command(name: str, *, caches_by_default: bool) -> click.Command:
    @click.command(name, cls=CleanCommand)
    @click.argument("yaml_file", type=click.Path(path_type=Path), metavar="YOUR_CONFIG.YAML")
    @cache_options
    @click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="Answer this; may be repeated.")
    @click.option(
        "--prompts-file",
        type=click.Path(path_type=Path),
        metavar="FILE.JSONL",
        help="Answer each line: a JSON string, or an object with user, messages or prompt. Implies --json.",
    )
    @click.option(
        "--concurrency",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="With --prompts-file: answer so many at once. Answers come out in the file's order.",
    )
    @click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="NAME=FOLDER",
        help="Load another LoRA adapter, for lines of the prompts file with `adapter`; may be repeated.",
    )
    @click.option(
        "--chat", is_flag=True, help="A conversation: a line is a turn, and what was said is known."
    )
    @click.option(
        "--system",
        metavar="TEXT",
        help="System message.  [default: the first of model_config.system_prompts; '' for none of them]",
    )
    @session_options
    @sampling_options
    @click.option(
        "--json", "as_json", is_flag=True, help="One JSON object an answer, with where it came from."
    )
    @click.option(
        "--cache-sampled",
        is_flag=True,
        help="Serve stored answers again even if they were sampled without a seed.",
    )
    @cache_truncated_option
    @click.option("--quiet", is_flag=True, help="Nothing on standard error but warnings and errors.")
    def command(yaml_file: Path, flags: dict[str, Flag], **options: Any) -> None:
        settings = load_for_model(yaml_file, flags)
        caching = caches_by_default or bool(flags) or settings.cache_blocks_present
        answer_prompts(settings, caching=caching, **options)

    when = "" if caches_by_default else "Nothing is cached unless the YAML has cache blocks or a flag asks."
    command.help = f"""Answer prompts with the model that YOUR_CONFIG.YAML describes, through the caches.

    Prompts come from --prompt, --prompts-file, a pipe, or the terminal. Standard output holds the answers
    and nothing else. {when}
    """
    return command


inference = _command("inference", caches_by_default=True)
axolotl_inference = _command("python -m axolotl.cli.inference", caches_by_default=False)
"""The same under Axolotl's name, where nothing is cached unless it is asked for."""


def answer_prompts(
    settings: Settings,
    *,
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    chat: bool,
    system: str | None,
    sampling: dict[str, Any],
    as_json: bool,
    cache_sampled: bool,
    cache_truncated: bool,
    quiet: bool,
    concurrency: int = 1,
    adapters: Sequence[str] = (),
    session: str = "",
    principal: str = "",
    caching: bool = True,
) -> None:
    """Run the command on settings that are in force.

    Args:
        settings: what is in force.
        prompts: texts to answer.
        prompts_file: a JSON Lines file of requests to answer.
        chat: hold a conversation on the terminal.
        system: the system message; None for the first of `system_prompts`, "" for none of ours.
        sampling: the options given on the command line.
        as_json: print objects.
        cache_sampled: store and serve answers that were sampled without a seed.
        cache_truncated: store answers that were cut off.
        quiet: say nothing on standard error but warnings.
        concurrency: requests of a file that are computed at once.
        adapters: further adapters, each as NAME=FOLDER.
        session: of all requests that name none themselves.
        principal: who asks, where a request does not say so itself.
        caching: False answers as if this library were not there.
    """
    if sum([bool(prompts), prompts_file is not None, chat]) > 1:
        raise ConfigError([Problem("command line", "--prompt, --prompts-file, --chat", "give one of them")])
    chosen_system = next(iter(settings.model.system_prompts), None) if system is None else system or None
    # What can be wrong in a file is said before the model is loaded.
    control = CacheControl(sampled=cache_sampled, truncated=cache_truncated)
    asked = Request(cache_control=control, session=session, principal=principal)
    named = from_file(prompts_file, asked, chosen_system) if prompts_file else None
    folders = adapter_folders(adapters)
    pipeline, loaded = _open(settings, quiet=quiet, caching=caching, adapters=folders)
    template = replace(asked, sampling=choose_sampling(loaded.default_sampling, sampling))
    desk = _Desk(pipeline, loaded, template, chosen_system, as_json=as_json or named is not None)
    with closing(pipeline):
        try:
            if named is not None:
                desk.answer_many([desk.with_sampling(n) for n in named], concurrency)
            elif prompts:
                desk.answer_all(desk.named(i, text) for i, text in enumerate(prompts, 1))
            elif chat:
                desk.chat()
            elif sys.stdin.isatty():
                desk.terminal()
            else:
                text = sys.stdin.read().strip()
                if not text:
                    raise RequestError("standard input is empty; pipe a prompt in, or use --prompt")
                desk.answer_all([desk.named(1, text)])
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            sys.exit(_INTERRUPTED)
        finally:
            if not quiet:
                print_summary(pipeline.totals, pipeline.semantic)
                for line in session_lines(pipeline):
                    say(line)
    if desk.refused:
        sys.exit(_REFUSED)


def adapter_folders(given: Sequence[str]) -> dict[str, Path]:
    """Return the folders of adapters given as NAME=FOLDER, by name."""
    folders: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ConfigError([Problem("command line", "--adapter", f"{text!r} is not NAME=FOLDER")])
        folders[name] = Path(folder)
    return folders


def _open(
    settings: Settings, *, quiet: bool, caching: bool, adapters: dict[str, Path]
) -> tuple[Pipeline, LoadedModel]:
    from axolotl_cache.assembly import hide_progress, load, open_pipeline, open_response_cache

    def report(line: str) -> None:
        if not quiet or line.startswith("warning"):
            say(line)

    if quiet:
        hide_progress()
    loaded = load(settings, report)
    with ExitStack() as undo:
        response = (
            undo.enter_context(closing(open_response_cache(settings, report=report))) if caching else None
        )
        progress = undo.enter_context(steps_bar("computing system prompts", quiet=quiet))
        pipeline = open_pipeline(
            settings,
            loaded,
            report,
            response=response,
            use_prefix_cache=caching and settings.model.enable_prefix_cache,
            adapters=adapters,
            progress=progress,
        )
        undo.pop_all()
    return pipeline, loaded


class _Desk:
    """Answers on standard output, one after another."""

    def __init__(
        self,
        pipeline: Pipeline,
        loaded: LoadedModel,
        template: Request,
        system: str | None,
        *,
        as_json: bool,
    ) -> None:
        self._pipeline = pipeline
        self._loaded = loaded
        self._told: set[Path] = set()
        self.refused = 0
        self._template = template
        self._system = system
        self._as_json = as_json

    def named(self, number: int, text: str) -> Named:
        return Named(str(number), self._request(text))

    def with_sampling(self, named: Named) -> Named:
        """Return a request of a file with the command line's way of choosing tokens."""
        return Named(named.name, replace(named.request, sampling=self._template.sampling))

    def answer_all(self, requests: Iterable[Named]) -> None:
        for named in requests:
            self._answer(named)

    def answer_many(self, requests: list[Named], concurrency: int) -> None:
        """Answer many at once, as objects, in their order."""
        engine = self._pipeline.engine
        with engine.in_background(), ThreadPoolExecutor(concurrency) as threads:
            try:
                for named, outcome in zip(requests, threads.map(self._outcome, requests), strict=True):
                    self._tell_of_changed_files()
                    self._tell(named, outcome)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                engine.cancel_all()
                raise

    def _outcome(self, named: Named) -> Answer | RequestError:
        try:
            return self._pipeline.answer(
                fit(named.request, takes_messages=self._pipeline.renderer.takes_messages)
            )
        except RequestError as error:
            return error

    def _tell(self, named: Named, outcome: Answer | RequestError) -> None:
        if isinstance(outcome, RequestError):
            self._refuse(named, outcome)
        else:
            click.echo(json.dumps(_as_json(named.name, outcome), ensure_ascii=False))

    def terminal(self) -> None:
        """Ask for instructions until an empty one, as Axolotl does."""
        while True:
            click.echo(f"{_RULE}\nGive me an instruction (Ctrl + D to submit, nothing to leave):", err=True)
            text = sys.stdin.read().strip()
            if not text:
                return
            click.echo(_RULE, err=True)
            self._answer(Named("", self._request(text)))

    def chat(self) -> None:
        """Hold a conversation: a line is a turn."""
        if not self._pipeline.renderer.takes_messages:
            raise RequestError("this model has no chat template; --chat needs one (set chat_template)")
        click.echo("A line is a turn; /clear starts over, Ctrl + D leaves.", err=True)
        head = [Message("system", self._system)] if self._system else []
        said: list[Message] = []
        template = self._in_session()
        while True:
            click.echo("> ", nl=False, err=True)
            line = sys.stdin.readline()
            text = line.strip()
            if (not line or text == "/clear") and not self._template.session:
                self._pipeline.end_session(template.session)
            if not line:
                return
            if text == "/clear":
                said, template = [], self._in_session()
            elif text:
                turn = [*said, Message("user", text)]
                answer = self._answer(Named("", replace(template, messages=(*head, *turn))))
                if answer:
                    said = [*turn, Message("assistant", answer.text)]

    def _in_session(self) -> Request:
        """Return the template for a conversation: in the session that was named, or in one of its own."""
        return replace(self._template, session=self._template.session or f"chat-{uuid.uuid4().hex}")

    def _request(self, text: str) -> Request:
        return from_text(text, self._template, self._system)

    def _tell_of_changed_files(self) -> None:
        changed = set(self._loaded.changed_files()) - self._told
        self._told |= changed
        for file in sorted(changed):
            say(f"warning: {file} was changed since it was loaded; start again to use what it holds now")

    def _answer(self, named: Named) -> Answer | None:
        """Answer one request; one that can't be served says why and leaves the others alone."""
        self._tell_of_changed_files()
        try:
            return self._write(named)
        except RequestError as error:
            self._refuse(named, error)
            return None

    def _refuse(self, named: Named, error: RequestError) -> None:
        self.refused += 1
        say(f"request {named.name}: {error}" if named.name else str(error))
        if self._as_json:
            click.echo(json.dumps({"id": named.name, "error": str(error)}, ensure_ascii=False))

    def _write(self, named: Named) -> Answer:
        done: Answer | None = None
        request = fit(named.request, takes_messages=self._pipeline.renderer.takes_messages)
        with closing(self._pipeline.stream(request)) as stream:
            for part in stream:
                if isinstance(part, Delta):
                    if not self._as_json:
                        click.echo(part.text, nl=False)
                        sys.stdout.flush()
                else:
                    done = part
        if done is None:
            raise RuntimeError("the stream ended without an answer")
        click.echo(json.dumps(_as_json(named.name, done), ensure_ascii=False) if self._as_json else "")
        return done


def _as_json(name: str, answer: Answer) -> dict[str, Any]:
    misses = {
        "response": answer.response_miss,
        "semantic": answer.semantic_miss,
        "prefix": answer.prefix_miss,
    }
    return {
        "id": name,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "served": answer.served.value,
        "prompt_tokens": answer.usage.prompt_tokens,
        "cached_tokens": answer.usage.cached_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "ttft_seconds": round(answer.ttft_seconds, 6),
        "total_seconds": round(answer.total_seconds, 6),
        "age_seconds": round(answer.age_seconds, 3),
        "saved": {
            "tokens": answer.saved.tokens,
            "seconds": round(answer.saved.seconds, 6),
            "money": None if answer.saved.money is None else f"{answer.saved.money:f}",
            "currency": answer.saved.currency,
        },
        "key": answer.key,
        "match": answer.match
        and {
            "question": answer.match.question,
            "key": answer.match.key,
            "probability": round(answer.match.probability, 4),
        },
        "ttl": answer.ttl
        and {"seconds": answer.ttl.ttl_seconds, "kind": answer.ttl.kind, "why": answer.ttl.why},
        "misses": {
            tier: {
                "reason": miss.reason,
                "first_difference_tokens": miss.first_difference_tokens,
                "expected_text": miss.expected_text,
                "found_text": miss.found_text,
            }
            for tier, miss in misses.items()
            if miss
        },
        "not_stored": answer.not_stored,
        "session": session_json(answer),
    }
