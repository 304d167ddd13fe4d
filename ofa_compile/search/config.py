"""Sizes and rates of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Progress = Callable[[int, int], None]

# Accuracy that exceeding a limit by all of it must bring. A little beyond a limit is a good place
# to start an exchange from, so what exceeds it is not thrown away at once.
VIOLATION_PENALTY = 2.0


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """Sizes and rates of the search for the front.

    Attributes
    ----------
    population, generations
        Survivors per generation, and how many generations.
    mutation_share
        Share of children that have one parent; the others mix two.
    sweep_size, num_pairs
        Local search: architectures whose changes are tried in each sweep, and how many pairs of
        changes for each of them. No architecture, no local search.
    max_evaluations
        The local search ends when so many architectures have been scored.
    patience
        It also ends when so many sweeps in a row have found nothing.
    """

    population: int = 1024
    generations: int = 20
    mutation_share: float = 0.5
    sweep_size: int = 32
    num_pairs: int = 64
    max_evaluations: int = 90_000
    patience: int = 16


@dataclass(frozen=True, kw_only=True)
class WalkConfig:
    """Sizes and rates of the search for the best under limits.

    Attributes
    ----------
    start_size
        Random architectures that a model of the space is fitted on, for a start.
    walks
        Local searches side by side.
    num_pairs, num_triples
        Pairs and triples of changes tried in each step of a walk.
    idle_steps
        A walk ends after so many steps without a gain.
    num_ends
        Best ends of walks that are kept, to mix.
    num_ends_alike
        At most so many of them have the same resolution and depths.
    fresh_share
        Share of restarts that mix no ends.
    mutation_probability
        Chance of each gene to be redrawn where a walk starts.
    max_evaluations
        About how many architectures are scored at most.
    patience
        The search ends when so many walks in a row have ended without a new best.
    """

    start_size: int = 1024
    walks: int = 16
    num_pairs: int = 24
    num_triples: int = 48
    idle_steps: int = 4
    num_ends: int = 32
    num_ends_alike: int = 2
    fresh_share: float = 0.3
    mutation_probability: float = 0.1
    max_evaluations: int = 360_000
    patience: int = 128


BEST_CONFIG = WalkConfig()
# Without a limit the front has most of what there is to find.
UNLIMITED_CONFIG = WalkConfig(max_evaluations=50_000, patience=24)


def scaled(config: EvolutionConfig, share: float) -> EvolutionConfig:
    """Return a smaller search: about `share` of the evaluations, in all of its parts."""
    root = min(1.0, share) ** 0.5
    return replace(
        config,
        population=max(16, round(root * config.population)),
        generations=max(2, round(root * config.generations)),
        max_evaluations=max(1, round(share * config.max_evaluations)),
    )


def scaled_walks(config: WalkConfig, share: float) -> WalkConfig:
    """Return a smaller search: about `share` of the evaluations, by fewer walks."""
    root = min(1.0, share) ** 0.5
    return replace(
        config,
        start_size=max(16, round(root * config.start_size)),
        walks=max(2, round(root * config.walks)),
        max_evaluations=max(1, round(share * config.max_evaluations)),
    )
