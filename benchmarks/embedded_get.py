"""How long does one embedded get take, and how much of it is the vector field or the whole row?

5M members (10 scalars + a 128-d float32 vector, about 600 bytes: `_members.py`) in one store of 8 partitions, uncompressed, all in
memory; ids drawn uniformly, all present; one thread, one call at a time, each timed. In every round each path reads the same 20,000 ids
(the paths that decode whole rows: 5,000); before the first round each path reads 2,000 others, untimed, after both data sets have been
read once from disk.

Where the peers differ in what they do:
* Fondaco gives a lazy `Row`; a vector field is a zero-copy NumPy view. `row.to_dict()` decodes all into Python objects in one pass;
  `dict(row)` gives the same by way of Python's mapping protocol, which asks for every field by a call.
* LMDB + fastavro is the goal's peer: LMDB's buffer (no copy) and fastavro's decode of the whole row with the vector as `array<float>`,
  so a list of floats; fastavro cannot decode one field. LMDB has integer keys of 8 bytes, Fondaco's are Avro longs.
* LMDB + by hand is the most one can do without a codec: fastavro for the scalars only and `np.frombuffer` at the known tail of the
  value.
* LMDB raw gives undecoded bytes: the floor that no decoder can pass.
"""

from __future__ import annotations

from contextlib import ExitStack

import fondaco as fd
from benchmarks._harness import Figures, Report, Settings, alternate, in_us, main, median_of, time_calls, times_lower
from benchmarks._members import (
    draw_ids,
    fastavro_decoder,
    fondaco_platform,
    hand_decoder,
    lmdb_environment,
    lmdb_key,
    member_ids,
    open_lmdb,
    touch_file,
)
from benchmarks._peers import have

NAME = "embedded_get"
QUESTION = "How long does one embedded get take: raw, with its 128-d vector, as a whole dict?"
P99_GOAL_US = 10.0


def measure(settings: Settings, report: Report) -> None:
    """Fill the report."""
    rows, rounds = settings.choose_rows(full=5_000_000, quick=3_000), settings.choose_rounds(full=11)
    light, heavy, warm = (500, 200, 100) if settings.quick else (20_000, 5_000, 2_000)
    report.sizes = {"rows": rows, "rounds": rounds, "gets_per_round": light, "whole_row_gets_per_round": heavy}
    ids = member_ids(rows)
    with ExitStack() as stack:
        directory = fondaco_platform(settings.workdir, rows=rows, seed=settings.seed)
        reader = stack.enter_context(stack.enter_context(fd.open(directory)).store("members").reader())
        get = reader.get
        calls = {
            "Fondaco get (lazy row)": (light, get),
            "Fondaco get + vector": (light, lambda key: get(key)["emb"]),
            "Fondaco get + one integer": (light, lambda key: get(key)["clicks"]),
            "Fondaco get + to_dict()": (heavy, lambda key: get(key).to_dict()),
            "Fondaco get + dict(row)": (heavy, lambda key: dict(get(key))),
        }
        touch_file(directory)
        if have(report, "lmdb", "fastavro"):
            environment = lmdb_environment(settings.workdir, rows=rows, seed=settings.seed)
            fetch, decode, by_hand = stack.enter_context(open_lmdb(environment)).get, fastavro_decoder(), hand_decoder()
            calls |= {
                "LMDB raw": (light, lambda key: fetch(lmdb_key(key))),
                "LMDB + fastavro": (heavy, lambda key: decode(fetch(lmdb_key(key)))),
                "LMDB + by hand": (heavy, lambda key: by_hand(fetch(lmdb_key(key)))),
            }
            touch_file(environment)
            _check_equal(calls, ids[0].item())
        for _, call in calls.values():
            for key in draw_ids(ids, warm, settings.seed, 0):
                call(key)

        def path(count: int, call: object) -> object:
            return lambda round_index: time_calls(call, draw_ids(ids, count, settings.seed, 1 + round_index))

        results = alternate({name: path(count, call) for name, (count, call) in calls.items()}, rounds=rounds)
    report.add_paths(results)
    _judge(report, results)


def _check_equal(calls: dict[str, tuple[int, object]], key: int) -> None:
    """Stop unless Fondaco and the peers give the same row."""
    ours = calls["Fondaco get + dict(row)"][1](key)
    ours["emb"] = ours["emb"].tolist()
    assert ours == calls["LMDB + fastavro"][1](key), f"Fondaco and fastavro disagree on member {key}"


def _judge(report: Report, results: dict[str, list[Figures]]) -> None:
    vector, whole, mapped, lazy = (results[f"Fondaco get {what}"] for what in ("+ vector", "+ to_dict()", "+ dict(row)", "(lazy row)"))
    p99_us = median_of(vector, "p99_us")
    report.found_limit("get + 128-d vector, p99", in_us(vector), value=p99_us, at_most=P99_GOAL_US, unit="µs")

    def compare(question: str, ours: list[Figures], peer: str, figure: str, at_least: float | None = None) -> None:
        if peer in results:
            ratio = times_lower(ours, results[peer], figure)
            report.found(f"{question}, {figure[:3]}", in_us(ours), f"{peer}: {in_us(results[peer])}", ratio, at_least=at_least)

    compare("get + 128-d vector", vector, "LMDB + fastavro", "p99_us", 8)
    compare("get + 128-d vector", vector, "LMDB + by hand", "p99_us")
    compare("get, whole row as dict", whole, "LMDB + fastavro", "p99_us", 4)
    compare("get, whole row as dict", whole, "LMDB + by hand", "p99_us")
    compare("get, whole row by dict(row)", mapped, "LMDB + fastavro", "p99_us")
    compare("get, nothing decoded", lazy, "LMDB raw", "p50_us")
    compare("get, nothing decoded", lazy, "LMDB raw", "p99_us")


if __name__ == "__main__":
    main(NAME, QUESTION, measure)
