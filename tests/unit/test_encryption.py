"""Encrypted, nothing on disk can be read, moved about or changed unnoticed; and nothing is mixed or lost."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from axolotl_cache import SmartInferenceCache
from axolotl_cache.clock import ManualClock
from axolotl_cache.encryption_key import read_key
from axolotl_cache.errors import StoreError, StoreFormatError
from axolotl_cache.response.key import scope_of
from axolotl_cache.stores import rows

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
NAMESPACE = "tenant-of-canaries"
CANARIES = {
    "answer": "canary-in-the-answer",
    "large": "canary-in-the-large-answer",
    "key": "canary-in-the-key",
    "tag": "canary-in-the-tag",
    "kind": "dynamic",
    "cost": "canary-in-the-cost",
    "json": "canary-in-the-json",
}


@pytest.fixture(autouse=True)
def _needs_cryptography(request):
    if not request.node.name.startswith("test_bare"):
        pytest.importorskip("cryptography")


def opened(folder, key=KEY, **options):
    return SmartInferenceCache(100, None, folder, encryption_key=key, **options)


def database(folder) -> sqlite3.Connection:
    return sqlite3.connect(folder / "encrypted" / "cache.sqlite3", isolation_level=None)


def everything(folder) -> bytes:
    """All bytes of all files, and their names."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in files)


def fill(cache):
    c = CANARIES
    cache.set(c["key"], c["answer"] * 20, tags=[c["tag"]], kind=c["kind"], cost={"model": c["cost"]})
    cache.set("large", c["large"] * 10_000, tags=[c["tag"]])
    cache.set("json", {c["json"]: [c["answer"]]})
    cache.set("wrong", c["answer"])
    cache.report_wrong("wrong")
    cache.set("gone", c["answer"], tags=["gone"])
    assert cache.invalidate(tag="gone") == 1
    assert cache.get_or_compute("computed", lambda: c["answer"]) == c["answer"]


@pytest.mark.parametrize("namespace", [None, NAMESPACE])
def test_no_byte_of_the_folder_tells_of_what_is_cached(tmp_path, namespace):
    cache = opened(tmp_path, namespace=namespace)
    fill(cache)
    while_open = everything(tmp_path)
    cache.close()
    for content in (while_open, everything(tmp_path)):
        assert len(content) > 200_000
        for canary in CANARIES.values():
            assert canary.encode() not in content, canary
            assert base64.b64encode(canary.encode())[:16] not in content
        assert KEY not in content
        assert KEY.hex().encode() not in content


def test_the_digest_of_a_namespace_is_on_disk_with_the_key_s_mark_only(tmp_path):
    """Else whoever guesses a tenant's name can find out whether it is there."""
    digest = scope_of(NAMESPACE)
    for folder, key, is_found in ((tmp_path / "sealed", KEY, False), (tmp_path / "control", None, True)):
        with opened(folder, key, namespace=NAMESPACE) as cache:
            fill(cache)
            assert (digest in everything(folder)) is is_found


def test_bare_control_without_a_key_every_canary_is_found(tmp_path):
    with opened(tmp_path, None) as cache:
        fill(cache)
        content = everything(tmp_path)
    for canary in CANARIES.values():
        assert canary.encode() in content, canary


def test_what_was_stored_comes_back_after_a_restart(tmp_path):
    with opened(tmp_path) as cache:
        fill(cache)
        before = {key: cache[key] for key in cache}
    with opened(tmp_path) as cache:
        assert {key: cache[key] for key in cache} == before
        entry = cache.lookup(CANARIES["key"])
        assert (entry.tags, entry.kind, entry.cost) == (
            (CANARIES["tag"],),
            "dynamic",
            {"model": CANARIES["cost"]},
        )
        assert cache.set("wrong", CANARIES["answer"]) is False, "what was reported is known after a restart"
        assert cache.invalidate(tag=CANARIES["tag"]) == 2
        assert sorted(cache) == ["computed", "json"]
        assert cache.stats().damaged == 0


def test_digests_of_reported_answers_are_of_use_with_the_key_only(tmp_path):
    told = []
    for number, key in enumerate([KEY, OTHER, None]):
        with opened(tmp_path / str(number), key) as cache:
            cache.set("q", "wrong")
            cache.report_wrong("q")
        folder = tmp_path / str(number) / ("" if key is None else "encrypted")
        told.append((folder / "reported_wrong").read_text().split())
    assert len({digest for _, *digests in told for digest in digests}) == 6


def test_two_namespaces_share_a_folder_and_see_nothing_of_each_other(tmp_path):
    with opened(tmp_path, namespace="a") as a, opened(tmp_path, namespace="b") as b:
        a["k"] = "of a"
        b["k"] = "of b"
        assert (a["k"], b["k"]) == ("of a", "of b")
        assert b.cache_clear() == 1
        assert a["k"] == "of a"


# Changed on disk


def flip(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8 % len(content)] ^= 1 << bit % 8
    return bytes(changed)


def with_new_checksum(db, change):
    """Change a row as somebody would who knows the format and not the key."""
    for scope, key in db.execute("SELECT scope, key FROM entries").fetchall():
        row = rows.select(db, scope, key)
        row = change(row)
        digest = rows._digest(row.payload)
        record = row._replace(payload_digest=digest, checksum=b"").head(scope, key) or None
        assert record is None, "its checksum was emptied"
        values = (row.codec, row.created_at, row.expires_at, row.sliding, row.tags, row.kind, row.cost)
        told = rows.Record(
            b"", row.codec, row.created_at, row.expires_at, tuple(rows.json.loads(row.tags)),
            row.version, row.sliding, row.kind, row.cost,
        )  # fmt: skip
        db.execute(
            "UPDATE entries SET codec=?, created_at=?, expires_at=?, sliding=?, tags=?, kind=?, cost=?,"
            " version=?, payload=?, payload_digest=?, checksum=? WHERE scope=? AND key=?",
            (*values, row.version, row.payload, digest, rows.checksum(scope, key, told, digest), scope, key),
        )


CHANGES = {
    "the version": lambda row: row._replace(version=row.version ^ 1),
    "the codec": lambda row: row._replace(codec="text"),
    "stored later": lambda row: row._replace(created_at=row.created_at + 1),
    "expires later": lambda row: row._replace(expires_at=row.expires_at + 1),
    "never expires": lambda row: row._replace(expires_at=None),
    "slides": lambda row: row._replace(sliding=100.0),
    "no tags": lambda row: row._replace(tags="[]"),
    "cut off": lambda row: row._replace(payload=row.payload[:-1]),
    "longer": lambda row: row._replace(payload=row.payload + b"\0"),
    "nearly empty": lambda row: row._replace(payload=row.payload[:20]),
    "empty": lambda row: row._replace(payload=b""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_row_that_was_changed_with_its_checksum_is_a_miss_and_counted(tmp_path, change):
    with opened(tmp_path) as cache:
        cache.set("k", "value", ttl=1000, tags=["t"])
    with database(tmp_path) as db:
        with_new_checksum(db, change)
    db.close()
    with opened(tmp_path) as cache:
        assert cache.get("k") is None
        assert cache.stats().damaged == 1
        assert len(cache) == 0


def test_control_a_row_that_was_written_as_it_was_is_served(tmp_path):
    with opened(tmp_path) as cache:
        cache.set("k", "value", ttl=1000, tags=["t"])
    with database(tmp_path) as db:
        with_new_checksum(db, lambda row: row)
    db.close()
    with opened(tmp_path) as cache:
        assert (cache.get("k"), cache.stats().damaged) == ("value", 0)


def test_a_flipped_bit_anywhere_in_a_record_is_a_miss_and_counted(tmp_path):
    with opened(tmp_path) as cache:
        cache.set("k", "v")
        sealed = cache._tiers._disk._inner.get(cache._tiers._disk._name("k"))
        store = cache._tiers._disk
        for bit in range(8 * len(sealed.payload)):
            changed = replace(sealed, payload=flip(sealed.payload, bit))
            store._inner.put(store._name("k"), changed, 0.0)
            assert store.get("k") is None, bit
            assert store.damaged == bit + 1
        store._inner.put(store._name("k"), sealed, 0.0)
        assert store.get("k").payload == b"v", "the control"


def test_a_flipped_bit_in_a_large_value_s_file_is_a_miss_and_counted(tmp_path):
    with opened(tmp_path) as cache:
        cache.set("k", "v" * 150_000)
    (blob,) = (tmp_path / "encrypted" / "blobs").iterdir()
    blob.write_bytes(flip(blob.read_bytes(), 700_001))
    with opened(tmp_path) as cache:
        assert cache.get("k") is None
        assert cache.stats().damaged == 1


def test_records_that_changed_places_are_misses(tmp_path):
    with opened(tmp_path, clock=ManualClock(1000.0)) as cache:
        cache.set("a", "of a")
        cache.set("b", "of b")
        store = cache._tiers._disk
        a, b = store._name("a"), store._name("b")
        of_a, of_b = store._inner.get(a), store._inner.get(b)
        store._inner.put(a, of_b, 0.0)
        store._inner.put(b, of_a, 0.0)
        assert store.get("a") is None
        assert store.get("b") is None
        assert store.damaged == 2
        store._inner.put(a, of_a, 0.0)
        assert store.get("a").payload == b"of a", "the control"


def test_records_are_not_served_in_another_namespace(tmp_path):
    with opened(tmp_path, namespace="a") as a, opened(tmp_path, namespace="b") as b:
        a["k"] = "of a"
        mine, theirs = a._tiers._disk, b._tiers._disk
        theirs._inner.put(theirs._name("k"), mine._inner.get(mine._name("k")), 0.0)
        assert theirs.get("k") is None
        assert theirs.damaged == 1


def test_what_slides_is_served_after_its_date_was_moved(tmp_path):
    clock = ManualClock(1000.0)
    with opened(tmp_path, sliding=True, clock=clock) as cache:
        cache.set("k", "v", ttl=100)
        for _ in range(4):
            clock.advance(80)
            assert cache.get("k") == "v"
    with opened(tmp_path, clock=clock) as cache:
        assert cache.get("k") == "v"
        assert cache.stats().damaged == 0


def test_a_name_that_is_none_of_ours_is_passed_over(tmp_path):
    with opened(tmp_path) as cache:
        cache["k"] = "v"
        cache._tiers._disk._inner.put(
            "no name", cache._tiers._disk._inner.get(cache._tiers._disk._name("k")), 0
        )
        assert list(cache) == ["k"]


# Keys that are wrong, missing, or given for what is not encrypted


def test_another_key_is_refused_and_nothing_is_touched(tmp_path):
    with opened(tmp_path) as cache:
        fill(cache)
    before = everything(tmp_path)
    with pytest.raises(StoreError, match="is not the key that this cache was made with") as caught:
        opened(tmp_path, OTHER)
    assert not isinstance(caught.value, StoreFormatError)
    assert everything(tmp_path) == before
    with opened(tmp_path) as cache:
        assert cache["large"] == CANARIES["large"] * 10_000


def test_an_encrypted_folder_is_refused_without_a_key_and_nothing_is_touched(tmp_path):
    with opened(tmp_path) as cache:
        cache["k"] = "v"
    before = everything(tmp_path)
    with pytest.raises(StoreError, match=r"this cache is encrypted\. Give its encryption_key"):
        opened(tmp_path, None)
    assert everything(tmp_path) == before


def test_a_folder_that_is_not_encrypted_is_refused_with_a_key_and_nothing_is_touched(tmp_path):
    with opened(tmp_path, None) as cache:
        cache["k"] = "v"
    before = everything(tmp_path)
    with pytest.raises(StoreError, match=r"is not encrypted .* Choose another persistence_path"):
        opened(tmp_path)
    assert everything(tmp_path) == before
    with opened(tmp_path, None) as cache:
        assert cache["k"] == "v"


def test_without_its_key_check_a_folder_is_refused(tmp_path):
    with opened(tmp_path) as cache:
        cache["k"] = "v"
    (tmp_path / "encrypted" / "key-check").unlink()
    with pytest.raises(StoreError, match="key-check: is missing"):
        opened(tmp_path)


def test_a_folder_of_a_later_form_is_refused(tmp_path):
    opened(tmp_path).close()
    (tmp_path / "encrypted" / "key-check").write_text("seal2 00\n")
    with pytest.raises(StoreFormatError, match="sealed as seal2"):
        opened(tmp_path)


def test_a_folder_deleted_under_a_running_cache_can_be_opened_again(tmp_path):
    cache = opened(tmp_path)
    cache["k"] = "v"
    shutil.rmtree(tmp_path / "encrypted")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in range(3):
            cache._tiers._disk._inner._recheck_at = 0.0
            cache[f"k{n}"] = "v"
    cache.close()
    with opened(tmp_path) as again:
        assert again["k2"] == "v"


def test_the_files_are_their_owners_alone(tmp_path):
    folder = tmp_path / "made"
    with opened(folder) as cache:
        fill(cache)
        for path in [folder, *folder.rglob("*")]:
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_in_memory_a_key_has_nothing_to_encrypt():
    with SmartInferenceCache(encryption_key=KEY) as cache:
        cache["k"] = "v"
        assert cache["k"] == "v"


def test_the_key_is_in_no_repr(tmp_path):
    with opened(tmp_path) as cache:
        said = repr(cache) + repr(cache._tiers._disk) + repr(cache._tiers._disk._sealer)
        assert repr(KEY)[2:20] not in said
        assert KEY.hex() not in said


# Keys as they are given


@pytest.mark.parametrize(
    "given",
    [
        KEY,
        KEY.hex(),
        KEY.hex().upper(),
        base64.b64encode(KEY).decode(),
        base64.urlsafe_b64encode(bytes(KEY)).decode().rstrip("=") + "\n",
        lambda: KEY,
        lambda: KEY.hex(),
    ],
)
def test_bare_a_key_may_be_given_as(given):
    assert read_key(given) == KEY


@pytest.mark.parametrize("given", [b"too short", "secret passphrase", "ab" * 31, "ä" * 64, b"x" * 64, ""])
def test_bare_what_is_no_key_is_refused_and_not_repeated(given):
    with pytest.raises(ValueError, match="openssl rand -hex 32") as caught:
        read_key(given)
    assert not given or str(given)[:8] not in str(caught.value)
    with pytest.raises(TypeError, match="not int"):
        read_key(42)


def test_bare_without_the_package_the_error_names_the_extra(tmp_path):
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from axolotl_cache import SmartInferenceCache as C\n"
        f"C(persistence_path={str(tmp_path / 'plain')!r}).set('k', 1)\n"
        "try: C(persistence_path=sys.argv[1], encryption_key=bytes(32))\n"
        "except ImportError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "sealed")], capture_output=True, text=True, check=True
    )
    assert "pip install 'axolotl-cache[encryption]'" in said.stdout
    assert not (tmp_path / "sealed").exists()


def test_a_cache_without_a_key_never_loads_cryptography(tmp_path):
    program = (
        "import sys; from axolotl_cache import SmartInferenceCache as C\n"
        "C(persistence_path=sys.argv[1]).set('k', 1); print('cryptography' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "False"


def test_an_owner_is_erased_from_encrypted_files_too(tmp_path):
    from axolotl_cache.response import owner_tags

    with opened(tmp_path) as cache, opened(tmp_path, namespace="another") as other:
        for each in (cache, other):
            each.set("theirs", "gone" * 20, tags=owner_tags(user="ada"))
            each.set("theirs, large", "gone" * 50_000, tags=owner_tags(user="ada"))
            each.set("others", "stays", tags=owner_tags(user="bob"))
        before = everything(tmp_path)
        with database(tmp_path) as db:
            sealed = [row[0] for row in db.execute("SELECT payload FROM entries") if row[0]]
        assert all(part in before for part in sealed)  # the control
        report = cache.erase(user="ada")
        assert report.entries == 4
        assert [*cache] == [*other] == ["others"]
        assert cache["others"] == other["others"] == "stays"
        left = [part for part in sealed if part in everything(tmp_path)]
        assert len(left) == 2  # those of the others
        assert not any("theirs" in name for name in cache._tiers._disk._names)
        assert not any("theirs" in name for name in other._tiers._disk._names)
    with opened(tmp_path) as again:
        assert [*again] == ["others"]
