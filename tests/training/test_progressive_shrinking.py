from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ofa_compile.errors import ConfigError
from ofa_compile.space import search_space, search_spaces
from ofa_compile.training.progressive_shrinking import kept_ratios, plan_phases, subnets_for_step
from ofa_compile.training.recipe import Phase, load_recipe


def test_plan_is_consecutive() -> None:
    recipe = load_recipe("cifar")
    plans = plan_phases(recipe, 45000)
    assert plans[0].first_step == 0
    assert all(a.end_step == b.first_step for a, b in pairwise(plans))
    epochs = sum(phase.epochs for phase in recipe.phases)
    assert plans[-1].end_step == round(epochs * 45000 / recipe.batch_size)


def test_every_phase_has_a_step() -> None:
    plans = plan_phases(load_recipe("cifar"), 3)
    assert [p.end_step - p.first_step for p in plans] == [1] * len(plans)


@pytest.mark.parametrize("name", search_spaces())
@pytest.mark.parametrize(
    "elastic", [(), ("kernel_size",), ("kernel_size", "depth"), ("expand_ratio", "width")], ids=str
)
def test_only_elastic_dimensions_vary(
    name: str, elastic: tuple[str, ...], rng: np.random.Generator
) -> None:
    space = search_space(name)
    phase = Phase(name="p", epochs=1.0, elastic=elastic, random_subnets=2)
    largest = space.largest()
    for _ in range(20):
        subnets = subnets_for_step(phase, space, rng)
        roles = [role for role, _ in subnets]
        wanted = ["largest", "smallest", "random", "random_3"]
        assert roles == (wanted if elastic else ["largest"])
        for role, architecture in subnets:
            space.validate(architecture)
            if role == "largest" or "depth" not in elastic:
                assert architecture.depths == largest.depths
            if role == "largest" or "kernel_size" not in elastic:
                kernels = {k for stage in architecture.kernel_sizes for k in stage}
                assert kernels <= {k for stage in largest.kernel_sizes for k in stage}
            if role == "largest" or "expand_ratio" not in elastic:
                assert {e for s in architecture.expand_ratios for e in s} == {
                    e for s in largest.expand_ratios for e in s
                }
    if set(elastic) >= {"kernel_size", "depth"} and space.smallest().kernel_sizes:
        smallest = next(a for role, a in subnets if role == "smallest")
        assert smallest.depths == space.smallest().depths
        assert smallest.kernel_sizes == space.smallest().kernel_sizes


def test_random_subnets_cover_the_phase(rng: np.random.Generator) -> None:
    space = search_space("ofa_mbv3_cifar")
    phase = Phase(
        name="p",
        epochs=1.0,
        elastic=("kernel_size", "depth", "expand_ratio"),
        random_subnets=1,
        resolutions=(24, 32),
    )
    drawn = [dict(subnets_for_step(phase, space, rng))["random"] for _ in range(200)]
    assert {a.resolution for a in drawn} == {24, 32}
    assert {d for a in drawn for d in a.depths} == {2, 3, 4}
    assert {k for a in drawn for s in a.kernel_sizes for k in s} == {3, 5, 7}
    assert {e for a in drawn for s in a.expand_ratios for e in s} == {3, 4, 6}


def test_foreign_resolution_is_refused(rng: np.random.Generator) -> None:
    phase = Phase(name="p", epochs=1.0, resolutions=(24, 25))
    with pytest.raises(ConfigError, match="has no resolution 25"):
        subnets_for_step(phase, search_space("ofa_mbv3_cifar"), rng)


def test_a_phase_may_use_the_largest_choices_only(rng: np.random.Generator) -> None:
    space = search_space("ofa_mbv3_cifar")
    phase = Phase(
        name="p",
        epochs=1.0,
        elastic=("kernel_size", "depth", "expand_ratio"),
        depth_choices=2,
        expand_ratio_choices=2,
        random_subnets=4,
        sampling="random",
    )
    drawn = [a for _ in range(60) for _, a in subnets_for_step(phase, space, rng)]
    assert len(drawn) == 240
    assert {d for a in drawn for d in a.depths} == {3, 4}
    assert {e for a in drawn for s in a.expand_ratios for e in s} == {4, 6}
    assert {k for a in drawn for s in a.kernel_sizes for k in s} == {3, 5, 7}


def test_sorting_keeps_the_widths_of_earlier_phases() -> None:
    plans = plan_phases(load_recipe("paper-imagenet"), 1_271_167)
    space = search_space("ofa_mbv3_d234_e346_k357_w1.2")
    by_name = {plan.phase.name: plan for plan in plans}
    assert kept_ratios(plans, by_name["expand-1"], space) == ()
    assert kept_ratios(plans, by_name["expand-2"], space) == (4, 6)
    lengths = {name: plan.end_step - plan.first_step for name, plan in by_name.items()}
    assert lengths["kernel"] / lengths["depth-1"] == pytest.approx(5.0, rel=0.01)
    assert plans[-1].end_step == round((180 + 3 * 125 + 2 * 25) * 1_271_167 / 2048)
