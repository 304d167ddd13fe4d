"""What can be reached at all: the least value of a figure, and what comes nearest to the limits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import InfeasibleConstraintError
from ofa_compile.search.constraints import format_figure, option_name
from ofa_compile.search.moves import Moves
from ofa_compile.search.problem import Indices, SearchProblem


def lowest(problem: SearchProblem, figure: str) -> tuple[Indices, float]:
    """Return the genotype with the least value of a figure, by descent from the smallest.

    One gene is changed at a time until no change helps. For figures that sum over blocks this is
    the minimum; for predicted ones it is as good as any and takes milliseconds.
    """
    start = np.zeros((1, len(problem.choice_counts)), dtype=np.int64)
    rows = np.repeat(start, len(problem.resolution_choices), axis=0)
    rows[:, 0] = problem.resolution_choices
    return descend(
        problem, rows, lambda rows: problem.figure(figure, problem.space.mark_absent(rows))
    )


def descend(
    problem: SearchProblem, rows: Indices, value_of: Callable[[Indices], NDArray[np.float64]]
) -> tuple[Indices, float]:
    """Return the genotype, of shape (1, genes), and the value where descent from `rows` ends."""
    moves = Moves(problem)
    values = value_of(rows)
    best, value = rows[[np.argmin(values)]], float(values.min())
    while True:
        _, _, moved = moves.apply(best)
        values = value_of(moved)
        if values.min() >= value:
            return best, value
        best, value = moved[[np.argmin(values)]], float(values.min())


def check_feasible(problem: SearchProblem) -> None:
    """Compare each limit with the least value that the space can reach.

    Raises
    ------
    InfeasibleConstraintError
        If one of them is out of reach by itself; names the value and the architecture.
    """
    for figure, bound in problem.limits.active.items():
        genotype, least = lowest(problem, figure)
        if least > bound:
            nearest = problem.architectures(problem.space.mark_absent(genotype))[0].to_json()
            msg = (
                f"no architecture of {problem.space.name} meets {option_name(figure)} = "
                f"{format_figure(figure, bound)}; the least reachable is "
                f"{format_figure(figure, least)}"
            )
            raise InfeasibleConstraintError(msg, hint=f"it is reached by {nearest}")


def no_joint_solution(problem: SearchProblem) -> InfeasibleConstraintError:
    """Describe the architecture that comes nearest to meeting all limits at once."""

    def violation(genotypes: Indices) -> NDArray[np.float64]:
        rows = problem.space.mark_absent(genotypes)
        return problem.limits.violation(
            {name: problem.figure(name, rows) for name in problem.limits.active}
        )

    genotype, _ = descend(problem, problem.uniform_rows(), violation)
    row = problem.space.mark_absent(genotype)
    parts = []
    for figure, bound in problem.limits.active.items():
        value = float(problem.figure(figure, row)[0])
        verdict = "met" if value <= bound else "exceeded"
        parts.append(f"{option_name(figure)}: {format_figure(figure, value)} ({verdict})")
    nearest = problem.architectures(row)[0].to_json()
    msg = (
        f"no architecture of {problem.space.name} was found that meets all limits at once; "
        f"the nearest one has {', '.join(parts)}"
    )
    return InfeasibleConstraintError(msg, hint=f"it is {nearest}")
