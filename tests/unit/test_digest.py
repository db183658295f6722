"""Digests of files and tensors, and the memo that saves reading."""

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from axolotl_cache.clock import ManualClock
from axolotl_cache.engine import digest as digests
from axolotl_cache.engine.digest import (
    CHUNK_BYTES,
    DigestMemo,
    FileStamp,
    combine,
    differing,
    digest_file,
    digest_tensors,
    stamps_of,
)
from axolotl_cache.errors import ModelLoadError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(100_000))
    return path


@pytest.fixture
def memo(tmp_path):
    """A memo for which every file written by a test was written long ago."""
    return DigestMemo(tmp_path / "memo", clock=lambda: time.time() + 60)


@pytest.fixture
def opened(monkeypatch):
    """The paths whose bytes were read for a digest."""
    paths = []
    real = digests._open
    monkeypatch.setattr(digests, "_open", lambda path: paths.append(path) or real(path))
    return paths


def rewrite(path, *, keep_mtime=False):
    """Change one byte in place: same path, size and inode."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(50)
        byte = file.read(1)[0]
        file.seek(50)
        file.write(bytes([byte ^ 1]))
    if keep_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_files_digest_is_the_tree_of_its_chunks(tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    root = hashlib.blake2b(size.to_bytes(8, "big"), digest_size=16, person=b"axc-bytes")
    for start in range(0, size, CHUNK_BYTES):
        chunk = data[start : start + CHUNK_BYTES]
        root.update(hashlib.blake2b(chunk, digest_size=32, person=b"axc-chunk").digest())
    assert digest_file(path).digest == root.hexdigest()


def test_digests_are_the_same_in_every_version_and_process(tmp_path):
    # Changing these starts every user's cache anew.
    path = tmp_path / "file"
    path.write_bytes(b"axolotl")
    assert digest_file(path).digest == "ee87b79f5f72f3b37ba26b0c04d0fbdf"
    assert combine("label", {"b": [1, None], "a": "é"}) == "a6e3ee56c484e76bc99f901c691b603f"
    tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    assert digest_tensors([("weight", tensor)]) == "f1bc4b407277228dd9d3d81e8a007bb7"


def test_a_label_keeps_equal_parts_apart():
    assert combine("weights", ["x"]) != combine("adapter", ["x"])


def test_a_name_is_no_part_of_a_files_digest_and_every_byte_is(file, tmp_path):
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    assert digest_file(copy).digest == digest_file(file).digest
    rewrite(copy)
    assert digest_file(copy).digest != digest_file(file).digest


def test_a_memo_hit_is_the_same_digest_and_reads_nothing(file, memo, opened):
    full = digest_file(file, memo=memo)
    assert opened == [file]
    again = digest_file(file, memo=DigestMemo(memo.folder))
    assert opened == [file]
    assert again.digest == full.digest == digest_file(file).digest
    assert (full.from_memo, again.from_memo) == (False, True)


@pytest.mark.parametrize("keep_mtime", [False, True])
def test_a_file_changed_in_place_is_read_again(file, memo, opened, keep_mtime):
    before = digest_file(file, memo=memo)
    rewrite(file, keep_mtime=keep_mtime)
    after = digest_file(file, memo=memo)
    assert len(opened) == 2
    assert after.digest != before.digest
    assert after.stamp.size_bytes == before.stamp.size_bytes
    assert after.stamp.inode == before.stamp.inode


def test_a_file_replaced_by_another_of_the_same_size_is_read_again(file, memo):
    before = digest_file(file, memo=memo)
    other = file.with_name("other")
    other.write_bytes(os.urandom(100_000))
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    assert digest_file(file, memo=memo).digest != before.digest


def test_a_file_changed_a_moment_ago_is_not_remembered(file, tmp_path, opened):
    clock = ManualClock(file.stat().st_ctime + 1)
    memo = DigestMemo(tmp_path / "memo", clock=clock)
    digest_file(file, memo=memo)
    digest_file(file, memo=memo)
    assert len(opened) == 2, "its time stamp may not show the next change yet"
    clock.advance(2)
    digest_file(file, memo=memo)
    digest_file(file, memo=memo)
    assert len(opened) == 3


def test_a_file_from_the_future_is_not_remembered(file, tmp_path):
    memo = DigestMemo(tmp_path / "memo", clock=ManualClock(file.stat().st_ctime - 3600))
    digest_file(file, memo=memo)
    assert not digest_file(file, memo=memo).from_memo


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: b"",
        lambda entry: b"\x00\xff\xfe",
        lambda entry: entry[: len(entry) // 2],
        lambda entry: b"[]",
        lambda entry: entry.replace(b'"format": 1', b'"format": 2'),
        lambda entry: json.dumps(json.loads(entry) | {"digest": "short"}).encode(),
        lambda entry: json.dumps(json.loads(entry) | {"digest": ["x"]}).encode(),
        lambda entry: json.dumps(json.loads(entry) | {"path": "/another"}).encode(),
    ],
)
def test_a_damaged_memo_is_ignored_and_mended(file, memo, damage):
    right = digest_file(file, memo=memo).digest
    (entry,) = memo.folder.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    read = digest_file(file, memo=memo)
    assert not read.from_memo
    assert read.digest == right
    assert digest_file(file, memo=memo).from_memo


def test_the_memo_is_its_users_alone(file, memo):
    digest_file(file, memo=memo)
    (entry,) = memo.folder.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert memo.folder.stat().st_mode & 0o777 == 0o700


def test_a_memo_that_cannot_be_written_costs_only_time(file, tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    memo = DigestMemo(tmp_path / "taken" / "memo", clock=lambda: time.time() + 60)
    assert digest_file(file, memo=memo).digest == digest_file(file, memo=memo).digest


def test_many_writers_leave_a_whole_memo(file, memo):
    digest = digest_file(file).digest
    stamp = FileStamp.of(file)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: DigestMemo(memo.folder, clock=memo._clock).set(stamp, digest), range(200)))
    assert [path.suffix for path in memo.folder.iterdir()] == [".json"]
    assert memo.get(stamp) == digest


def test_a_file_written_while_it_is_read_is_read_again(file, monkeypatch):
    real, changes = digests._open, iter([True])

    def open_and_change(path):
        if next(changes, False):
            rewrite(path)
        return real(path)

    monkeypatch.setattr(digests, "_open", open_and_change)
    read = digest_file(file)
    monkeypatch.undo()
    assert read == digest_file(file)


def test_a_file_that_never_rests_is_refused(file, monkeypatch):
    real = digests._open

    def open_and_change(path):
        path.write_bytes(path.read_bytes() + b"x")
        return real(path)

    monkeypatch.setattr(digests, "_open", open_and_change)
    with pytest.raises(ModelLoadError, match=r"model\.safetensors was written to while it was read"):
        digest_file(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="can't be read"):
        digest_file(tmp_path / "nothing")


def test_differing_names_what_was_written_made_and_removed(file, tmp_path):
    removed, made = tmp_path / "removed", tmp_path / "made"
    removed.write_text("x")
    stamps = stamps_of([file, removed, made])
    assert stamps[made] is None
    assert differing(stamps) == ()
    rewrite(file, keep_mtime=True)
    removed.unlink()
    made.write_text("x")
    assert differing(stamps) == (file, removed, made)


def test_tensors_differ_by_name_dtype_shape_and_every_byte():
    tensor = torch.arange(12, dtype=torch.float32)
    flipped = tensor.clone()
    flipped.view(torch.uint8)[7] ^= 1
    variants = [
        [("a", tensor)],
        [("b", tensor)],
        [("a", tensor.to(torch.bfloat16))],
        [("a", tensor.view(torch.int32))],
        [("a", tensor.reshape(3, 4))],
        [("a", flipped)],
        [("a", tensor[:0])],
        [("a", tensor), ("b", tensor)],
        [],
    ]
    assert len({digest_tensors(variant) for variant in variants}) == len(variants)


def test_the_order_and_layout_of_tensors_do_not_matter():
    one, two = torch.randn(5, 7), torch.randn(3).to(torch.bfloat16)
    assert digest_tensors([("one", one), ("two", two)]) == digest_tensors([("two", two), ("one", one)])
    assert digest_tensors([("x", one.t())]) == digest_tensors([("x", one.t().contiguous())])
    assert digest_tensors([("x", torch.tensor(1.5))]) != digest_tensors([("x", torch.tensor(2.5))])


def test_tied_tensors_are_read_once(monkeypatch):
    read = []
    real = digests._digest_tensor
    monkeypatch.setattr(digests, "_digest_tensor", lambda *given: read.append(1) or real(*given))
    tensor = torch.randn(4, 4)
    tied = digest_tensors([("in", tensor), ("out", tensor)])
    assert len(read) == 1
    assert tied == digest_tensors([("in", tensor), ("out", tensor.clone())])


def test_a_tensor_without_bytes_is_refused():
    with pytest.raises(ModelLoadError, match="not in memory"):
        digest_tensors([("x", torch.empty(2, device="meta"))])
