"""Warm: `python -m fondaco.warm` compiles every kernel into the cache, once after an installation.

Compiled machine code is kept beside the sources; without this the first push and the first read of an installation compile for some
seconds. The way is the users' own: a store in a temporary directory is pushed to, written to in real time, read and folded.
"""

from __future__ import annotations

import tempfile

import numpy as np
import pyarrow as pa

from fondaco.dataplane.keys import checked
from fondaco.log import Log, Record, TopicConfig


def warm() -> None:
    """Push to, write to and read from a store of every kind of key, plain and compressed."""
    from fondaco.platform import Platform

    rows = 64
    table = pa.table(
        {
            "key": np.arange(rows),
            "text": ["text " * 20] * rows,
            "emb": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * 8, np.float32)), 8),
        }
    )
    value = pa.schema([table.schema.field("text"), table.schema.field("emb")])
    with tempfile.TemporaryDirectory(prefix="fondaco-warm-") as directory, Platform.open(directory) as platform:
        for kind in ("long", "string"):
            keyed = table.set_column(0, "key", table["key"].cast(pa.string() if kind == "string" else pa.int64()))
            for compression in ("none", "zstd"):
                store = platform.create_store(f"{kind}-{compression}", key=kind, value=value, partitions=2, compression=compression)
                store.push(keyed, progress=False)
                keys = keyed["key"].to_pylist()
                checked(store.key, np.empty(0, np.uint8), np.zeros(1, np.int64))  # what the data plane asks of keys
                with store.reader() as reader, store.writer() as writer:
                    writer.put_many(keyed)
                    writer.put(keys[0], {"text": "new", "emb": np.zeros(8, np.float32)})
                    writer.patch(keys[1], {"text": "patched"})
                    writer.delete(keys[2])
                    reader.get(keys[0], min_position=writer.flush(), timeout_s=300)
                    reader.get_many(keys)
                    reader.get_columns(keys)
                    reader.get_columns(np.arange(rows)) if kind == "long" else None
                    reader.compute(keys, "cosine", field="emb", vector=np.ones(8, np.float32))
                    reader.get_packed(keys)
                store.push_incremental(keyed.drop_columns(["emb"]), progress=False)
                store.repush(fold=True, progress=False)
        _use_log(platform.log)


def _use_log(log: Log) -> None:
    """What no store does with its topic: compaction, and the search for a time."""
    log.create_topic("warm", TopicConfig(1, cleanup="compact", segment_bytes=256))
    for _ in range(3):
        log.append("warm", 0, [Record(b"key", b"value")] * 3, durability="disk")
    log.read("warm", 0, 0)
    log.offset_for_time("warm", 0, 0)
    log.compact("warm", 0)


if __name__ == "__main__":
    warm()
