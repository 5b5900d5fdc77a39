"""LinkNeighborLoader: edges in, batches of both ends' neighbourhoods out, for link prediction."""

from __future__ import annotations

from typing import Literal, Unpack

import numpy.typing as npt

from fondaco.graph.graph import Edge, Graph
from fondaco.graph.queries import Distribution
from fondaco.graph.torch.fan_outs import AnyFanOuts
from fondaco.graph.torch.links import LinkNeighborhoods, Links, Negatives
from fondaco.graph.torch.neighbor_loader import EpochLoader
from fondaco.graph.torch.options import LoaderOptions


class LinkNeighborLoader(EpochLoader):
    """Mini-batches of edges, true and false, with the sampled neighbourhoods of their ends.

        loader = fd.graph.torch.LinkNeighborLoader(graph, train_edges, fan_outs=[10, 5], negatives=1, hide_seed_edges=True, shuffle=True)
        for batch in loader:
            h = model(batch.x, batch.edge_index)
            score = (h[batch.edge_label_index[0]] * h[batch.edge_label_index[1]]).sum(-1)
            loss = binary_cross_entropy_with_logits(score, batch.edge_label)

    Besides what every batch holds: `edge_label_index` int64 [2, pairs], places of sources and targets among the nodes: the true edges,
    then `negatives` false ones each; `edge_label` [pairs]: 1 (or the label given) and 0. With negative_mode="triplet" instead `src_index`,
    `dst_pos_index` [edges] and `dst_neg_index` [edges] or [edges, negatives]. With several types these lie at the edge type, or at the
    ends' node types. `input_id`: positions of the batch's edges in `edges`.

    Args:
        edges: [2, n] ids (sources, targets); a table with columns src and dst; (edge type, either of them); an edge type, or None with
            `edge_type`: all edges of the type.
        negatives: false edges for each true one: other targets for its source. negative_distribution: "uniform", or "degree" (in-degree to
            the power 0.75). strict_negatives: never an edge that exists; left out where a source has edges to all.
        hide_seed_edges: the batch's true edges carry no messages, nor do edges of the type that lead back.
        as_of (options): a time for each edge, of both its ends.
        on_unknown (options): "pad": edges with an unknown end are left out of their batch (`input_id` says which are in it).
        Others as of `NeighborLoader`; `labels` and `group` are for nodes.
    Raises:
        InputError, EdgeTypeNotFoundError, FeatureNotFoundError: at once. What `Graph.sample` raises: when the batch is taken.
    """

    def __init__(
        self,
        graph: Graph,
        edges: Links = None,
        fan_outs: AnyFanOuts = (15, 10),
        batch_size: int = 1024,
        prefetch: int = 2,
        *,
        threads: int = 2,
        edge_type: Edge | None = None,
        edge_labels: npt.ArrayLike | None = None,
        negatives: int = 0,
        negative_mode: Literal["binary", "triplet"] = "binary",
        negative_distribution: Distribution = "uniform",
        strict_negatives: bool = True,
        hide_seed_edges: bool = False,
        **options: Unpack[LoaderOptions],
    ) -> None:
        source = LinkNeighborhoods(
            graph,
            edges,
            batch_size,
            options,
            edge_type=edge_type,
            edge_labels=edge_labels,
            negatives=Negatives(negatives, negative_mode, negative_distribution, strict_negatives),
            hide_seed_edges=hide_seed_edges,
        )
        super().__init__(source, fan_outs, prefetch, threads)
