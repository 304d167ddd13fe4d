from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.predictors.slot_tables import SlotTables, slots_of
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space, search_spaces


@pytest.mark.parametrize("name", search_spaces())
def test_costs_equal_those_of_single_architectures(name: str) -> None:
    space = search_space(name)
    indices = space.sample_indices(np.random.default_rng(1), 40)
    architectures = [space.from_indices(row) for row in indices]
    costs = CostTables(space).costs(indices)
    assert costs.macs.tolist() == [cost.macs(a) for a in architectures]
    assert costs.num_parameters.tolist() == [cost.num_parameters(a) for a in architectures]
    assert costs.size_bytes.tolist() == [cost.weight_bytes(a) for a in architectures]
    assert costs.activation_bytes.tolist() == [cost.activation_peak_bytes(a) for a in architectures]


def test_single_figures_equal_all_figures() -> None:
    space = search_space("ofa_resnet50")
    indices = space.sample_indices(np.random.default_rng(2), 10)
    tables = CostTables(space, num_classes=7)
    costs = tables.costs(indices)
    for name in ("macs", "num_parameters", "size_bytes", "activation_bytes"):
        np.testing.assert_array_equal(tables.figure(name, indices), getattr(costs, name))
    architecture = space.from_indices(indices[0])
    assert costs.macs[0] == cost.macs(architecture, num_classes=7)


def test_slots_know_what_they_depend_on() -> None:
    space = search_space("ofa_resnet50")
    names = [gene.name for gene in space.genes]
    slots = {slot.key: [names[gene] for gene in slot.genes] for slot in slots_of(space)}
    assert slots[-1, 0] == ["stem_depth", "width.0", "width.1"]
    assert slots[1, 0] == ["width.2", "width.3", "expand_ratio.1.0"]
    assert slots[1, 1] == ["width.3", "expand_ratio.1.1"]


def test_per_slot_rows_add_up_and_absent_ones_are_zero() -> None:
    space = search_space("ofa_mbv3_cifar")
    tables = SlotTables(space, lambda layers: np.array([len(layers), 1.0]), 2)
    smallest = space.indices([space.smallest()])
    rows = tables.per_slot(smallest)
    np.testing.assert_array_equal(rows.sum(axis=1), tables.total(smallest))
    # 5 stages of 2 blocks, the stem with the first block, and the head.
    assert rows[0, :, 1].sum() == 12
    assert tables.maximum(smallest)[0, 1] == 1.0
    assert tables.table(0).shape == (len(space.resolutions) + 1, 2)
