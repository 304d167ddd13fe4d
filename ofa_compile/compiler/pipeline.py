"""The graph passes, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ofa_compile.compiler.graph import Graph
from ofa_compile.compiler.passes.fold_batch_norm import fold_batch_norm
from ofa_compile.compiler.passes.fold_constants import fold_constants
from ofa_compile.compiler.passes.fuse_epilogues import fuse_epilogues
from ofa_compile.compiler.passes.place_scales import gate_products, keep_scales, place_scales
from ofa_compile.compiler.passes.recognise_activations import recognise_activations
from ofa_compile.compiler.passes.recognise_pools import recognise_pools

GraphPass = Callable[[Graph], None]

PASSES: tuple[GraphPass, ...] = (
    fold_constants,
    fold_batch_norm,
    recognise_activations,
    recognise_pools,
    fuse_epilogues,
    place_scales,
)
GPU_PASSES = (*PASSES[:-1], gate_products)
INT8_PASSES = (*PASSES[:-1], keep_scales)


def run_passes(graph: Graph, passes: Sequence[GraphPass] = PASSES) -> None:
    """Rewrite `graph` in place until every operation is one that `lower` knows."""
    for graph_pass in passes:
        graph_pass(graph)
    graph.remove_dead()
