"""Who the primary is, found out from the servers themselves: single, Sentinel or Cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis import exceptions
from redis.crc import key_slot

from axolotl_cache.errors import StoreError
from axolotl_cache.stores.redis.address import Address, Host
from axolotl_cache.stores.redis.client import make_client

ASK_SECONDS: Final = 1.0
"""Most that one server is waited for when it is asked who is who."""
_SLOTS: Final = 16_384

Kind = Literal["single", "sentinel", "cluster"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The servers as they stand now."""

    kind: Kind
    primaries: tuple[Host, ...]
    owners: tuple[int, ...] = ()
    """Of each of the 16,384 slots, the index of its primary; empty where there is no Cluster."""
    others: tuple[Host, ...] = ()
    """Whom else to ask: sentinels, replicas, nodes."""
    server: str = ""
    """As `valkey 9.1.2`."""
    version: tuple[int, ...] = ()
    is_valkey: bool = False

    def primary(self, key: bytes) -> Host:
        """Return who holds `key`."""
        return self.primaries[self.owners[key_slot(key)] if self.owners else 0]


def discover(address: Address, known: Layout | None = None, *, turn: int = 0) -> Layout:
    """Ask the servers who is who. Cost: a few round trips.

    Args:
        address: where to ask.
        known: the layout so far; who is in it is asked, too.
        turn: another one each time, so that one server's old view is not all that is ever heard.

    Raises:
        StoreError: nobody answered, or what they say makes no sense; the message says what each said.
    """
    told: list[str] = []
    hosts = list(dict.fromkeys((*address.hosts, *(known.others if known else ()))))
    turn %= len(hosts)
    for host in (*hosts[turn:], *hosts[:turn]):
        try:
            return _ask(address, host)
        except (exceptions.RedisError, OSError, _Unusable) as error:
            told.append(f"{host}: {_plain(error)}")
    raise StoreError("; ".join(told))


def _ask(address: Address, host: Host) -> Layout:
    if address.kind == "sentinel":
        return _by_sentinel(address, host)
    info = _info(address, host)
    mode = info.get("server_mode") or info.get("redis_mode") or "standalone"
    if mode == "sentinel":
        return _by_sentinel(address, host)
    if mode == "cluster":
        return _by_cluster(address, host, info)
    if address.kind == "cluster":
        raise _Unusable("is no node of a Cluster: write redis:// and not redis+cluster://")
    if info.get("role") != "master":
        host = Host(str(info.get("master_host")), int(info.get("master_port") or 0))
        info = _info(address, host)
        if info.get("role") != "master":
            raise _Unusable("is the primary by its replica's account, and says that it is none")
    return _with_server(info, "single", (host,), others=tuple(_replicas(info)))


def _by_sentinel(address: Address, host: Host) -> Layout:
    with _asking(address, host, sentinel=True) as client:
        name = address.name or _only_name(client.execute_command("SENTINEL", "MASTERS"))
        found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
        if not found:
            raise _Unusable(f"is a sentinel and watches nothing by the name {name!r}")
        peers = client.execute_command("SENTINEL", "SENTINELS", name)
    primary = Host(_text(found[0]), int(found[1]))
    info = _info(address, primary)
    if info.get("role") != "master":
        raise _Unusable(f"names {primary}, which is no primary (yet)")
    sentinels = [_pairs(peer) for peer in peers]
    others = (host, *(Host(each["ip"], int(each["port"])) for each in sentinels))
    return _with_server(info, "sentinel", (primary,), others=others)


def _by_cluster(address: Address, host: Host, info: Mapping[str, Any]) -> Layout:
    with _asking(address, host) as client:
        ranges = client.execute_command("CLUSTER", "SLOTS")
    places: dict[Host, int] = {}
    owners, others = [-1] * _SLOTS, [host]
    for first, last, primary, *replicas in ranges:
        place = places.setdefault(_node(primary, host), len(places))
        owners[first : last + 1] = [place] * (last + 1 - first)
        others += [_node(replica, host) for replica in replicas]
    if -1 in owners:
        raise _Unusable("is of a Cluster with slots that nobody serves")
    primaries = tuple(places)
    everybody = tuple(dict.fromkeys((*primaries, *others)))
    return _with_server(info, "cluster", primaries, owners=tuple(owners), others=everybody)


def _info(address: Address, host: Host) -> Mapping[str, Any]:
    with _asking(address, host) as client:
        info: Mapping[str, Any] = client.info()
    return info


def _asking(address: Address, host: Host, *, sentinel: bool = False) -> Any:
    login, database = (address.sentinel_login, 0) if sentinel else (None, None)
    return make_client(
        address,
        host,
        timeout_seconds=ASK_SECONDS,
        connect_seconds=ASK_SECONDS,
        login=login,
        database=database,
    )


def _with_server(
    info: Mapping[str, Any],
    kind: Kind,
    primaries: tuple[Host, ...],
    *,
    owners: tuple[int, ...] = (),
    others: tuple[Host, ...] = (),
) -> Layout:
    is_valkey = "valkey_version" in info
    number = str(info.get("valkey_version") or info.get("redis_version") or "0")
    version = tuple(int(part) for part in number.split(".") if part.isdigit())
    server = f"{'valkey' if is_valkey else 'redis'} {number}"
    return Layout(kind, primaries, owners, others, server, version, is_valkey)


def _replicas(info: Mapping[str, Any]) -> Iterator[Host]:
    for number in range(int(info.get("connected_slaves", 0))):
        replica = info.get(f"slave{number}")
        if isinstance(replica, dict):
            yield Host(str(replica["ip"]), int(replica["port"]))


def _node(told: Any, asked: Host) -> Host:
    name = _text(told[0]) if told[0] else ""
    return Host(asked.name if name in ("", "?") else name, int(told[1]))


def _only_name(primaries: Iterable[Any]) -> str:
    names = [_pairs(each)["name"] for each in primaries]
    if len(names) != 1:
        watched = ", ".join(names) or "nothing"
        raise _Unusable(f"is a sentinel and watches {watched}: name one, as redis+sentinel://HOSTS/NAME")
    return names[0]


def _pairs(flat: Any) -> dict[str, str]:
    if isinstance(flat, dict):
        return {_text(key): _text(value) for key, value in flat.items()}
    texts = [_text(each) for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _plain(error: BaseException) -> str:
    """Return an error's first line: redis-py's hold no credentials, and may hold a whole reply."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Unusable(Exception):
    """A server answered, and is not what is needed."""
