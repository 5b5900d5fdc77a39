"""How fast are 1,000 rows decoded into columns, and one row into a dict?

1,000 distinct members (10 scalars + a 128-d float32 vector: `_members.py`) as a list of bytes; no store. Every figure is of the whole
call: outputs are allocated in it. 200 calls a round for ours, 20 for the slow peers (single rows: 2,000 calls); 50 calls of warm-up
each.

Where the peers differ in what they do:
* The rows are one layout with the vector as `fixed`, Fondaco's `vector(128)`, and one with it as `array<float>`, as Avro users write
  it; the goal is fastavro on the second, and both of ours are shown. The same values.
* fastavro gives a dict a row, the vector a list of floats. `by hand` is fastavro on the scalars and `np.frombuffer` on the tail.
* Fondaco gives NumPy columns. Strings stay offset and length until a column is touched; `each touched` makes them Python strings.
* `buffers ready` decodes from one buffer and offsets, as a store does, without the list of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fondaco as fd
from benchmarks import _members
from benchmarks._harness import Figures, Report, Settings, alternate, in_us, main, time_calls, times_lower
from benchmarks._members import ARRAY_SCHEMA, SCHEMA, check_bytes, fastavro_decoder, hand_decoder, rows_bytes
from benchmarks._peers import have

NAME = "decode"
QUESTION = "How fast are 1,000 rows decoded into columns, and one row into a dict?"


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=1_000, quick=1_000), settings.choose_rounds(full=15)
    light, heavy, single, warm = (10, 3, 200, 2) if settings.quick else (200, 20, 2_000, 50)
    report.sizes = {
        "rows": rows,
        "rounds": rounds,
        "batches_per_round": light,
        "fastavro_batches_per_round": heavy,
        "rows_per_round": single,
    }
    batch = next(_members.batches(rows=rows, seed=settings.seed))
    codec, array_codec = fd.schema.Codec(SCHEMA), fd.schema.Codec(ARRAY_SCHEMA)
    as_vector, as_array = rows_bytes(batch, SCHEMA), rows_bytes(batch, ARRAY_SCHEMA)
    report.sizes["bytes_per_row"] = round(sum(map(len, as_array)) / rows, 1)
    data, offsets = codec.encode_columns(batch)
    batches: dict[str, tuple[int, Callable[[Any], Any]]] = {
        "Fondaco columns, array<float>": (light, lambda _: array_codec.decode_columns(as_array)),
        "Fondaco columns, vector": (light, lambda _: codec.decode_columns(as_vector)),
        "Fondaco columns, vector, each touched": (light, lambda _: _touch(codec.decode_columns(as_vector))),
        "Fondaco columns, vector, buffers ready": (light, lambda _: codec.decode_columns(data, offsets)),
    }
    singles: dict[str, Callable[[bytes], Any]] = {
        "Fondaco row, array<float>": array_codec.decode,
        "Fondaco row, vector": codec.decode,
        "Fondaco lazy row, vector field": lambda row: codec.row(row)["emb"],
    }
    sources = {name: as_array if "array" in name else as_vector for name in singles}
    if have(report, "fastavro"):
        check_bytes(batch.slice(0, 100), as_array[:100], ARRAY_SCHEMA)
        check_bytes(batch.slice(0, 100), as_vector[:100], SCHEMA)
        decode, by_hand = fastavro_decoder(), hand_decoder()
        _check_equal(array_codec, as_array, decode)
        batches["fastavro rows"] = (heavy, lambda _: [decode(row) for row in as_array])
        batches["by hand rows"] = (heavy, lambda _: [by_hand(row) for row in as_array])
        singles |= {"fastavro row": decode, "by hand row": by_hand}
        sources |= {"fastavro row": as_array, "by hand row": as_array}
    for _, call in batches.values():
        time_calls(call, range(warm))

    def batch_path(count: int, call: Callable[[Any], Any]) -> Callable[[int], Figures]:
        return lambda _: time_calls(call, range(count), scale=rows)

    def single_path(name: str) -> Callable[[int], Figures]:
        picks = np.random.default_rng(settings.seed).integers(0, rows, single).tolist()
        return lambda _: time_calls(singles[name], [sources[name][pick] for pick in picks])

    paths = {name: batch_path(*parts) for name, parts in batches.items()} | {name: single_path(name) for name in singles}
    results = alternate(paths, rounds=rounds)
    report.add_paths(results)
    if "fastavro rows" in results:
        _judge(report, results)


def _touch(columns: Any) -> list[Any]:
    return [columns[name] for name in columns]


def _check_equal(codec: Any, rows: list[bytes], decode: Callable[[bytes], dict[str, Any]]) -> None:
    """Stop unless rows, columns and fastavro agree."""
    columns = codec.decode_columns(rows)
    for index in range(0, len(rows), 97):
        expected = decode(rows[index])
        ours = codec.decode(rows[index])
        assert ours | {"emb": ours["emb"].tolist()} == expected, f"row {index} differs from fastavro's"
        assert columns["score"][index] == expected["score"], f"column score differs from fastavro's in row {index}"
        assert columns["headline"][index] == expected["headline"], f"column headline differs from fastavro's in row {index}"


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    def compare(question: str, ours: str, peer: str, at_least: float | None = None) -> None:
        ratio = times_lower(results[ours], results[peer], "p50_us")
        report.found(question, in_us(results[ours]), f"{peer}: {in_us(results[peer])}", ratio, at_least=at_least)

    compare("1,000 rows into columns, array<float>", "Fondaco columns, array<float>", "fastavro rows", 40)
    compare("1,000 rows into columns, vector", "Fondaco columns, vector", "fastavro rows")
    compare("1,000 rows into columns, each touched", "Fondaco columns, vector, each touched", "fastavro rows")
    compare("1,000 rows into columns, vector", "Fondaco columns, vector", "by hand rows")
    compare("one row into a dict, array<float>", "Fondaco row, array<float>", "fastavro row", 6)
    compare("one row into a dict, vector", "Fondaco row, vector", "by hand row")


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
