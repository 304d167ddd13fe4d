"""Accuracies on several views of the images, brought together to one per subnet.

Every view has its own noise, and its own leaning: mirrored or shifted images are harder, and not
equally so for all architectures. Few subnets need all views, to judge a predictor by; for the
others, what they lack is filled in by what their architecture makes of the difference.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.accuracy_basis import Basis, solve_ridge
from ofa_compile.space import Architecture

__all__ = ["mean_over_views", "views_of"]

_LOGGER = logging.getLogger(__name__)
_PENALTY = 50.0  # of differences between views, which are noise for the most part
_MIN_SUBNETS = 20
Floats = NDArray[np.float64]


def views_of(
    top1: Mapping[tuple[Architecture, int], float],
) -> tuple[list[Architecture], Floats]:
    """Arrange accuracies by subnet and view.

    A view counts if a tenth of the subnets, and 20, have it and all others that count; subnets
    without the one that most have are left out. Both are logged.

    Parameters
    ----------
    top1
        Accuracy by architecture and view.

    Returns
    -------
    Architectures, and accuracies of shape (n, views), NaN where unknown. The first view is the one
    that most subnets have; all of them.
    """
    views: dict[int, dict[Architecture, float]] = {}
    for (architecture, view), value in top1.items():
        views.setdefault(view, {})[architecture] = value
    ranked = sorted(views, key=lambda view: -len(views[view]))
    usual = views[ranked[0]] if ranked else {}
    kept, whole = ranked[:1], set(usual)
    for view in ranked[1:]:
        common = whole & set(views[view])
        if len(common) >= max(_MIN_SUBNETS, len(usual) / 10):
            kept, whole = [*kept, view], common
        else:
            _LOGGER.warning("left out view %d: %d subnets have it and others", view, len(common))
    others = {a for a, _ in top1} - set(usual)
    if others:
        _LOGGER.warning("left out %d subnets not evaluated on view %d", len(others), ranked[0])
    rows = [[views[view].get(a, np.nan) for view in kept] for a in usual]
    return list(usual), np.array(rows).reshape(len(usual), len(kept))


def mean_over_views(codes: NDArray[np.float32], by_view: Floats, basis: Basis) -> Floats:
    """Return each subnet's mean over all views, those it lacks filled in.

    The difference of a view to the first one is fitted by ridge regression on the effects of
    choices, over the subnets that have both.

    Parameters
    ----------
    codes
        Encodings of shape (n, encoding size).
    by_view
        Accuracies of shape (n, views); the first column is whole. A view that none has is left out.
    basis
        Of the search space.
    """
    filled = by_view[:, ~np.isnan(by_view).all(axis=0)]
    columns = codes @ basis.effects
    first = filled[:, 0]
    for view in filled.T[1:]:
        known = ~np.isnan(view)
        change, centre = (view - first)[known], columns[known].mean(axis=0)
        effects = solve_ridge(columns[known] - centre, change - change.mean(), _PENALTY)
        view[~known] = (first + change.mean() + (columns - centre) @ effects)[~known]
    mean: Floats = filled.mean(axis=1)
    return mean
