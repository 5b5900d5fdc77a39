"""Tables of the graphs that loaders are tested on: pages in communities; buyers and items, with times."""

import numpy as np
import pyarrow as pa

PAGES, COMMUNITIES, DIMENSION = 600, 12, 13


def page_id(number):
    return number * 7 + 100


def page_tables():
    """Pages 0..599 under ids 100, 107, ...; x[0] of a page is its number, its label its community."""
    rng = np.random.default_rng(5)
    number = np.arange(PAGES)
    community = number % COMMUNITIES
    src = np.repeat(number, 8)
    inside = rng.integers(0, PAGES // COMMUNITIES, len(src)) * COMMUNITIES + community[src]
    dst = np.where(rng.random(len(src)) < 0.9, inside, rng.integers(0, PAGES, len(src)))
    x = np.zeros((PAGES, DIMENSION), np.float32)
    x[:, 0] = number
    x[:, 1:] = rng.normal(size=(PAGES, COMMUNITIES)) + 1.5 * np.eye(COMMUNITIES)[community]
    features = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), DIMENSION)
    nodes = pa.table({"id": page_id(number), "x": features, "y": community, "text": pa.array([b"p%d" % each for each in number])})
    edges = pa.table({"src": page_id(src), "dst": page_id(dst), "weight": pa.array(rng.random(len(src)) + 0.1, pa.float32())})
    return nodes, edges


def shop_tables():
    """20 buyers ("u0"...), 30 items; purchase number k happens at k seconds."""
    rng = np.random.default_rng(6)
    buyers = [f"u{each}" for each in range(20)]
    src, dst = rng.integers(0, 20, 200), rng.integers(0, 30, 200)
    bought = pa.table({
        "src": [buyers[each] for each in src], "dst": dst, "time": pa.array(np.arange(200) * 1_000_000, pa.timestamp("us", "UTC")),
        "price": pa.array(np.arange(200), pa.float32()),
    })  # fmt: skip
    similar = pa.table({"src": rng.integers(0, 30, 90), "dst": rng.integers(0, 30, 90)})
    users = pa.table({"id": buyers, "age": pa.array(np.arange(20), pa.float32())})
    items = pa.table({"id": np.arange(30), "x": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(60, dtype=np.float32)), 2)})
    nodes = {"user": users, "item": items}
    return nodes, {("user", "bought", "item"): bought, ("item", "like", "item"): similar}
