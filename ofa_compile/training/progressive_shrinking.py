"""Which subnets a training step sees: phases, their elastic dimensions, and the sampling rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ofa_compile.errors import ConfigError
from ofa_compile.space import Architecture, SearchSpace
from ofa_compile.space.search_space import Gene
from ofa_compile.training.recipe import Phase, Recipe

__all__ = ["PhasePlan", "kept_ratios", "plan_phases", "subnets_for_step"]


@dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """A phase on the axis of steps: from `first_step` up to, not including, `end_step`."""

    phase: Phase
    first_step: int
    end_step: int


def plan_phases(recipe: Recipe, num_images: int) -> list[PhasePlan]:
    """Place the phases of a recipe on the axis of steps.

    Parameters
    ----------
    recipe
        The recipe.
    num_images
        Images trained on.

    Returns
    -------
    One plan per phase; consecutive, each of at least one step.
    """
    per_epoch = num_images / recipe.batch_size
    plans: list[PhasePlan] = []
    first, epochs = 0, 0.0
    for phase in recipe.phases:
        epochs += phase.epochs
        end = max(first + 1, round(epochs * per_epoch))
        plans.append(PhasePlan(phase=phase, first_step=first, end_step=end))
        first = end
    return plans


def _is_elastic(gene: Gene, elastic: tuple[str, ...]) -> bool:
    """Tell whether a gene varies under a phase's elastic dimensions."""
    kind = gene.name.split(".")[0]
    if kind in ("stem_depth", "depth"):
        return "depth" in elastic
    if kind.startswith("width"):
        return "width" in elastic
    return kind in elastic


def _resolutions(phase: Phase, space: SearchSpace) -> tuple[int, ...]:
    """Return the resolutions of a phase, checked against the space."""
    unknown = [r for r in phase.resolutions if r not in space.resolutions]
    if unknown:
        allowed = ", ".join(map(str, space.resolutions))
        message = (
            f"phase {phase.name!r}: {space.name} has no resolution {unknown[0]}; it has {allowed}"
        )
        raise ConfigError(message)
    return phase.resolutions or space.resolutions


def subnets_for_step(
    phase: Phase, space: SearchSpace, rng: np.random.Generator
) -> list[tuple[str, Architecture]]:
    """Choose the subnets of one step.

    Returns
    -------
    Pairs of role and architecture: "largest" first (the teacher), then, in phases with an elastic
    dimension, "smallest" and as many "random" (then "random_3", ...) as the phase asks for. With
    random sampling, the random ones only.
    """
    resolutions = _resolutions(phase, space)
    chosen = [("largest", space.largest(int(rng.choice(resolutions))))]
    if not phase.elastic:
        return chosen
    largest = np.array([len(gene.choices) - 1 for gene in space.genes])
    lowest = np.array([_lowest(gene, phase) for gene in space.genes])
    distinct = sorted(set(resolutions))
    rows = [("random", space.sample_indices(rng, 1)[0]) for _ in range(phase.random_subnets)]
    if phase.sampling == "sandwich":
        rows.insert(0, ("smallest", np.zeros(len(largest), np.int64)))
    else:
        chosen = []
    for role, row in rows:
        # Genes of absent blocks may stay absent only where depth varies.
        index = np.where(row < 0, rng.integers(0, largest + 1), row)
        index = np.where(lowest == largest, largest, index)
        if role == "smallest":
            index = lowest
        elif (index < lowest).any():
            index = np.where(index < lowest, rng.integers(lowest, largest + 1), index)
        index = index.copy()
        index[0] = space.resolutions.index(int(rng.choice(distinct)))
        name = role if role not in dict(chosen) else f"{role}_{len(chosen)}"
        chosen.append((name, space.from_indices(index)))
    return chosen


def _lowest(gene: Gene, phase: Phase) -> int:
    """Return the smallest index that a gene takes in a phase."""
    top = len(gene.choices) - 1
    if not _is_elastic(gene, phase.elastic):
        return top
    count = {
        "depth": phase.depth_choices,
        "expand_ratio": phase.expand_ratio_choices,
        "kernel_size": phase.kernel_size_choices,
    }.get(gene.name.split(".")[0], 0)
    return max(0, top + 1 - count) if count else 0


def kept_ratios(plans: list[PhasePlan], now: PhasePlan, space: SearchSpace) -> tuple[float, ...]:
    """Return the expand ratios that the phases before `now` trained besides the largest.

    Sorting channels must leave each of those widths its channels.
    """
    choices = dict(space.block_choices)["expand_ratio"]
    counts = [
        plan.phase.expand_ratio_choices or len(choices)
        for plan in plans
        if plan.end_step <= now.first_step and "expand_ratio" in plan.phase.elastic
    ]
    return tuple(sorted(choices)[-max(counts) :]) if counts else ()
