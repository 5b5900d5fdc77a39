"""Compression: what it chooses, that it loses nothing, and what hostile frames do."""

from __future__ import annotations

import ctypes
import os
import threading

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import CorruptFileError, InputError
from fondaco.store import compression
from fondaco.store.basefile import address_of
from fondaco.store.compression import VALUE_BYTES_MAX, Compressor, Decompressor, choose

WORDS = ["alpha", "beta", "gamma", "delta", "engineer", "manager", "senior", "new york", "london", "python", "data", "science"]


def packed(parts: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def texts(count: int, seed: int = 1) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 20)).encode() for _ in range(count)]


def embeddings(count: int) -> list[bytes]:
    return list(np.random.default_rng(2).standard_normal((count, 64)).astype("f4").view("V256").reshape(-1).tolist())


def decompressed(decompressor: Decompressor, data: np.ndarray, offsets: np.ndarray, compressed: np.ndarray) -> list[bytes]:
    starts, ends = offsets[:-1] + address_of(data), offsets[1:] + address_of(data)
    keep = decompressor.many(starts, ends, compressed, int(compressed.sum())) if compressed.any() else None
    values = [ctypes.string_at(start, end - start) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    del keep
    return values


@given(values=st.lists(st.binary(max_size=50) | st.sampled_from(texts(40)), max_size=40), batch_bytes=st.sampled_from([1, 500, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_values_survive_compression_in_any_mixture_and_batch_size(values, batch_bytes):
    dictionary = choose(*packed(texts(2000)), requested="zstd").dictionary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "BATCH_BYTES", batch_bytes)
        data, offsets, compressed = Compressor(dictionary).compress(*packed(values))
    assert decompressed(Decompressor(dictionary, "x"), data, offsets, compressed) == values
    for i, value in enumerate(values):
        stored = memoryview(data)[offsets[i] : offsets[i + 1]]
        assert len(stored) <= len(value)
        assert (Decompressor(dictionary, "x").one(stored) if compressed[i] else bytes(stored)) == value


def test_equal_values_give_equal_frames_wherever_they_stand():
    compressor = Compressor(choose(*packed(texts(2000))).dictionary)
    value = texts(1, seed=9)[0]
    data, offsets, _ = compressor.compress(*packed([value, *texts(50), value]))
    alone = Compressor(compressor.dictionary).compress(*packed([value]))[0]
    first, last = data[: offsets[1]].tobytes(), data[offsets[-2] :].tobytes()
    assert first == last == alone.tobytes()


def test_auto_takes_zstd_for_text_and_none_for_embeddings_and_says_what_each_gives():
    text = choose(*packed(texts(4000)))
    assert (text.report.chosen, text.report.requested, text.report.sample_rows) == ("zstd", "auto", 4000)
    assert text.report.ratio_zstd > 2
    assert text.report.ratio_zstd > text.report.ratio_zstd_plain
    assert text.report.dictionary_bytes == len(text.dictionary) > 0
    assert len(text.dictionary_checksum) == 64
    vectors = choose(*packed(embeddings(2000)))
    assert (vectors.report.chosen, vectors.compressor, vectors.dictionary, vectors.dictionary_checksum) == ("none", None, b"", None)
    assert 1 <= vectors.report.ratio_zstd < 1.11


def test_the_ratio_is_measured_on_rows_that_did_not_train_the_dictionary():
    """Every row is unique noise: a dictionary made of the very rows would halve them, and an honest measurement shows nothing."""
    report = choose(*packed([os.urandom(200) for _ in range(1000)])).report
    assert report.ratio_zstd < 1.02
    assert report.chosen == "none"


def test_none_and_zstd_are_taken_as_asked():
    assert choose(*packed(texts(500)), requested="none").compressor is None
    assert choose(*packed(embeddings(500)), requested="zstd").report.chosen == "zstd"
    with pytest.raises(InputError, match="lz4"):
        choose(*packed(texts(5)), requested="lz4")  # type: ignore[arg-type]


def test_a_small_store_is_not_filled_with_copies_of_a_dictionary():
    sample = texts(400)
    for partition_count in (1, 8, 64):
        choice = choose(*packed(sample), partition_count=partition_count, whole=True)
        raw = sum(map(len, sample))
        stored = (choice.compressor.compress(*packed(sample))[0].nbytes if choice.compressor else raw) + len(
            choice.dictionary
        ) * partition_count
        assert stored <= raw * 0.91


@pytest.mark.parametrize("sample", [[], [b""], [b"", b""], [b"a"], [b"same"] * 1000, [b"ab", b"c"], [b"x" * 100_000]])
def test_a_sample_of_any_size_is_enough(sample):
    for requested in ("auto", "zstd"):
        choice = choose(*packed(sample), requested=requested)
        if choice.compressor is not None:
            assert decompressed(Decompressor(choice.dictionary, "x"), *choice.compressor.compress(*packed(sample))) == sample


HOSTILE = {
    "no frame": b"this is no frame at all",
    "empty": b"",
    "no size": b"\x28\xb5\x2f\xfd\x00\x58" + b"\x00" * 10,
    "claims an exabyte": b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00",
    "claims one byte too many": b"\x28\xb5\x2f\xfd\xa0" + (VALUE_BYTES_MAX + 1).to_bytes(4, "little") + b"\x01\x00\x00",
    "claims nothing": b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00",
    "cut off": zstandard.compress(b"a value" * 30)[:-3],
    "wrong size": b"\x28\xb5\x2f\xfd\x20\x50" + zstandard.compress(b"b" * 20)[6:],
    "another dictionary": zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(b" ".join(texts(30)))
    ).compress(texts(1)[0]),
}  # fmt: skip


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_frame_is_refused_as_damage_of_the_heap(frame):
    decompressor = Decompressor(b"", "some/part.base")
    data, offsets = packed([b"fine", frame, b"fine"])
    calls = [
        lambda: decompressor.one(memoryview(frame)),
        lambda: decompressed(decompressor, data, offsets, np.array([0, 1, 0], np.uint8)),
    ]
    for call in calls:
        with pytest.raises(CorruptFileError) as caught:
            call()
        assert (caught.value.section, caught.value.path) == ("heap", "some/part.base")


def test_threads_share_a_decompressor():
    values = texts(300)
    choice = choose(*packed(texts(2000)))
    data, offsets, compressed = choice.compressor.compress(*packed(values))
    decompressor, wrong = Decompressor(choice.dictionary, "x"), []

    def read() -> None:
        wrong.extend(1 for _ in range(30) if decompressed(decompressor, data, offsets, compressed) != values)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
