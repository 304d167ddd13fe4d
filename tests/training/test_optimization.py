from __future__ import annotations

import pytest
import torch
from torch import nn

from ofa_compile.training.optimization import WeightAverage, rate_of_step
from ofa_compile.training.progressive_shrinking import PhasePlan, plan_phases
from ofa_compile.training.recipe import Phase, Recipe, load_recipe


def test_a_phase_with_a_rate_has_a_schedule_of_its_own() -> None:
    recipe = load_recipe("paper-imagenet")
    plans = plan_phases(recipe, 204_800)  # 100 steps an epoch
    total = plans[-1].end_step

    def rates(plan: PhasePlan) -> list[float]:
        steps = range(plan.first_step, plan.end_step)
        return [rate_of_step(recipe, plan, step, total) for step in steps]

    first, kernel, depth = (rates(plan) for plan in plans[:3])
    assert first[0] == pytest.approx(2.6)
    assert first[-1] < 1e-3
    assert kernel[0] == pytest.approx(0.96 / 500)
    assert max(kernel) == kernel[499] == pytest.approx(0.96)
    assert len(kernel) == 12_500
    assert depth[0] == pytest.approx(0.08)


def test_phases_without_a_rate_share_the_recipes_schedule() -> None:
    phases = tuple(Phase(name=name, epochs=1.0) for name in "ab")
    recipe = Recipe(phases=phases, batch_size=10, learning_rate=1.0)
    one, two = plan_phases(recipe, 100)
    assert rate_of_step(recipe, one, 9, 20) > rate_of_step(recipe, two, 10, 20) > 0.4
    assert rate_of_step(recipe, two, 19, 20) < 0.01


def test_average_follows_the_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    average = WeightAverage(network, 0.5)
    nn.init.constant_(network.weight, 3.0)
    average.update()
    assert average.state["weight"].item() == pytest.approx(2.0)
    average.reset()
    assert average.state["weight"].item() == pytest.approx(3.0)
    with torch.no_grad():
        network.weight.add_(1.0)
    assert average.state["weight"].item() == pytest.approx(3.0)  # a copy
