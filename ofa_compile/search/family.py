"""One subnet for each of several targets, and what each costs on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ofa_compile.search.config import EvolutionConfig, Progress, WalkConfig
from ofa_compile.search.problem import Predictor, SearchProblem
from ofa_compile.search.search import Candidate, describe, search
from ofa_compile.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Family:
    """The subnets chosen for several targets.

    Attributes
    ----------
    members
        By target: the best under its limit, or the knee of its front where it has none. Each has
        its latency on every target, which makes the table of costs.
    num_evaluated, seconds
        Architectures scored, and how long everything took.
    """

    members: dict[str, Candidate]
    num_evaluated: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the family as JSON values."""
        return {
            "family": {name: member.to_dict() for name, member in self.members.items()},
            "num_evaluated": self.num_evaluated,
            "seconds": round(self.seconds, 3),
        }


def search_family(
    space: SearchSpace,
    *,
    accuracy: Predictor,
    latency: Mapping[str, Predictor],
    max_latency_ms: Mapping[str, float],
    seed: int = 0,
    config: EvolutionConfig | None = None,
    best_config: WalkConfig | None = None,
    progress: Progress | None = None,
    resolution: int | None = None,
    **limits: Any,
) -> Family:
    """Search the best subnet for each target by itself, from one supernet.

    Parameters
    ----------
    space, accuracy
        As for `search`.
    latency
        A predictor for each target, by name.
    max_latency_ms
        A limit for each target that has one.
    seed, config, best_config, progress, resolution, limits
        As for `search`, the same for all targets.

    Raises
    ------
    InfeasibleConstraintError
        If a target's limits cannot be met.
    """
    has_limit = any(bound is not None for bound in limits.values())
    chosen: list[Candidate] = []
    num_evaluated, seconds = 0, 0.0
    for number, (name, predictor) in enumerate(latency.items()):

        def report(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(number * total + done, len(latency) * total)

        result = search(
            space,
            accuracy=accuracy,
            latency={name: predictor},
            max_latency_ms={name: max_latency_ms[name]} if name in max_latency_ms else None,
            seed=seed,
            config=config,
            best_config=best_config,
            progress=report,
            resolution=resolution,
            **limits,
        )
        is_limited = has_limit or name in max_latency_ms
        chosen.append(result.best if is_limited else result.knee)
        num_evaluated += result.num_evaluated
        seconds += result.seconds
    problem = SearchProblem(space, accuracy=accuracy, latency=latency)
    rows = space.indices([candidate.architecture for candidate in chosen])
    members = dict(zip(latency, describe(problem, rows), strict=True))
    return Family(members=members, num_evaluated=num_evaluated, seconds=seconds)
