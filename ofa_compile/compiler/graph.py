"""The network between Relax and kernels: a list of operations over named values.

Passes rewrite this list. It is deliberately small: straight-line code, every value written once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_IDS = itertools.count()


@dataclass(eq=False)
class Value:
    """A tensor; `data` is set for constants. Shapes are logical, maps in (N, C, H, W) order."""

    shape: tuple[int, ...]
    data: NDArray[Any] | None = None
    id: int = field(default_factory=lambda: next(_IDS))

    @property
    def is_constant(self) -> bool:
        """Whether the value is known at compile time."""
        return self.data is not None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))


@dataclass(eq=False)
class Node:
    """One operation: `output = op(*inputs, **attrs)`."""

    op: str
    inputs: list[Value]
    output: Value
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """Operations in execution order, from one input to one output."""

    input: Value
    output: Value
    nodes: list[Node]

    def use_counts(self) -> Counter[int]:
        """How often each value (by id) is read; the graph's output counts as one use."""
        counts: Counter[int] = Counter(v.id for node in self.nodes for v in node.inputs)
        counts[self.output.id] += 1
        return counts

    def producers(self) -> dict[int, Node]:
        """Map the id of each computed value to the node that writes it."""
        return {node.output.id: node for node in self.nodes}

    def remove_dead(self) -> None:
        """Drop nodes whose result nobody reads."""
        needed = {self.output.id}
        kept = []
        for node in reversed(self.nodes):
            if node.output.id in needed:
                kept.append(node)
                needed.update(v.id for v in node.inputs)
        self.nodes = kept[::-1]

    def replace(self, old: Value, new: Value) -> None:
        """Make every reader of `old` read `new`."""
        for node in self.nodes:
            node.inputs = [new if v is old else v for v in node.inputs]
        if self.output is old:
            self.output = new
