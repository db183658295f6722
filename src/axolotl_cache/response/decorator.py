"""`@cache.cached(...)`: a function whose answers are kept."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axolotl_cache.response.cache import SmartInferenceCache


def cached_function(
    cache: SmartInferenceCache,
    function: Callable[..., Any],
    *,
    ttl: float | None,
    tags: Iterable[str],
    version: str,
    sliding: bool | None,
) -> Callable[..., Any]:
    """Return `function` with its answers kept in `cache`; a coroutine function stays one.

    The wrapper has `cache_key(*args, **kwargs)`, for `cache.invalidate(...)` and `cache.why_missing(...)`.

    Raises:
        TypeError: its name would not tell it from others: a bound method without `version`, or something
            without a name, as `functools.partial`.
    """
    name = _name_of(function, version)
    signature = inspect.signature(function)
    tags = tuple(tags)

    def cache_key(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = {
            # the one tuple here that is ours: as a list it can't be mistaken for another argument
            parameter: list(value)
            if signature.parameters[parameter].kind is inspect.Parameter.VAR_POSITIONAL
            else value
            for parameter, value in bound.arguments.items()
        }
        try:
            return cache.generate_key({"function": name, "version": version, "arguments": arguments})
        except TypeError as error:
            raise TypeError(
                f"{name}: a cached function takes JSON-like arguments, and here {error}. Cache an inner "
                "function, of what decides the answer."
            ) from None

    wrapper: Callable[..., Any]
    if inspect.iscoroutinefunction(function):

        async def in_task(*args: Any, **kwargs: Any) -> Any:
            key = cache_key(*args, **kwargs)
            return await cache.aget_or_compute(
                key, lambda: function(*args, **kwargs), ttl=ttl, tags=tags, sliding=sliding
            )

        wrapper = in_task
    else:

        def in_thread(*args: Any, **kwargs: Any) -> Any:
            key = cache_key(*args, **kwargs)
            return cache.get_or_compute(
                key, lambda: function(*args, **kwargs), ttl=ttl, tags=tags, sliding=sliding
            )

        wrapper = in_thread
    update_wrapper(wrapper, function)
    wrapper.__dict__["cache_key"] = cache_key
    return wrapper


def _name_of(function: Callable[..., Any], version: str) -> str:
    """Return what stands for the function in its keys."""
    owner = getattr(function, "__self__", None)  # a built-in function's is its module
    bound = owner is not None and not inspect.ismodule(owner)
    if not hasattr(function, "__qualname__") or (bound and not version):
        raise TypeError(
            f"{function!r}: its answers can't be told from those of another object or partial, as the key "
            "has the function's name and arguments alone. Decorate a function whose arguments decide the "
            "answer; a bound method may say in version= what its object is."
        )
    name = f"{function.__module__}.{function.__qualname__}"
    if function.__module__ == "__main__":  # every script is that: two may share a folder
        code = getattr(inspect.unwrap(function), "__code__", None)
        name = f"{getattr(code, 'co_filename', '')}:{name}"
    return name
