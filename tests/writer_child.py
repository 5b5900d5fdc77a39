"""A process that writes until it is killed: says on stdout which numbers its writer acknowledged. Run by tests/store/test_writer.py."""

from __future__ import annotations

import sys
from pathlib import Path

from fondaco.log import EmbeddedLog
from fondaco.store.keys import KeyCodec
from fondaco.store.write_encoder import WriteEncoder
from fondaco.store.writer import LogTarget, StoreWriter


def main(directory: str, schema: str) -> None:
    with EmbeddedLog(Path(directory)) as log:
        encoder = WriteEncoder("members", KeyCodec("long"), schema, 1, "child")
        with StoreWriter(LogTarget(log, "members.rt", "store 'members'"), encoder, linger_ms=1) as writer:
            for number in range(10_000_000):
                writer.put(number % 50, {"clicks": number})
                if number % 20 == 19:
                    writer.flush()
                    print(number, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
