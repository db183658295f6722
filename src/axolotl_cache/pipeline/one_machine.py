"""One computation of an answer on all machines together: one computes, the others wait for what it stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Final, Protocol

from axolotl_cache.errors import RequestCancelled
from axolotl_cache.request import Answer, Delta
from axolotl_cache.streams.stop import Stop

Parts = Generator[Delta | Answer, None, None]

_FIRST_POLL_SECONDS: Final = 0.01
_LAST_POLL_SECONDS: Final = 0.1


class Leases(Protocol):
    """Says which machine computes."""

    def take_lease(self, key: str) -> bool | None:
        """Be the only machine to compute `key`; False if another is, None if nobody can tell now."""

    def free_lease(self, key: str) -> None:
        """Let others compute `key` again, once what was computed can be found."""


def on_one_machine(
    leases: Leases,
    key: str,
    find: Callable[[], Parts | None],
    compute: Callable[[Stop], Parts],
    stop: Stop,
) -> Parts:
    """Yield what this machine computes, or what another has computed meanwhile.

    A machine that dies lets the others wait for 10 seconds. Servers that can't be asked let nobody wait. If
    the answer is none to be stored, who waits computes it afterwards.

    Cost: two round trips where nobody else computes it.

    Args:
        leases: say which machine computes.
        key: of the answer.
        find: returns the stored answer's parts, if there is one.
        compute: returns the parts as they are computed.
        stop: set when nobody reads on.

    Raises:
        RequestCancelled: nobody reads on.
    """
    delay, is_mine = _FIRST_POLL_SECONDS, leases.take_lease(key)
    if is_mine is False:
        stopped = threading.Event()
        stop.tell(stopped.set)
        while is_mine is False:
            if stopped.wait(delay):
                raise RequestCancelled("its reader has left")
            found = find()
            if found is not None:
                yield from found
                return
            delay, is_mine = min(2 * delay, _LAST_POLL_SECONDS), leases.take_lease(key)
    try:
        # Who had it before may have stored the answer since this machine looked.
        found = find() if is_mine else None
        yield from compute(stop) if found is None else found
    finally:
        leases.free_lease(key)
