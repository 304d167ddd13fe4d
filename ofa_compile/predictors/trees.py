"""Evaluate boosted regression trees with numpy alone.

Importing xgboost takes seconds and predicting with it needs nothing but its trees, so a search
reads them from xgboost's own JSON and walks all of them for all rows at once.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArtifactError


class TreeEnsemble:
    """The sum of many regression trees.

    Parameters
    ----------
    feature, threshold, left, right
        One entry per node, of shape (n_trees, max_nodes). A leaf is its own left and right child
        and keeps its value in `value`.
    value
        Of shape (n_trees, max_nodes); zero inside a tree.
    base_score
        What the trees are added to.
    depth
        The number of steps from the root to the deepest leaf.
    """

    def __init__(
        self,
        feature: NDArray[np.int32],
        threshold: NDArray[np.float32],
        children: NDArray[np.int32],
        value: NDArray[np.float32],
        *,
        base_score: float,
        depth: int,
    ) -> None:
        self.num_trees, self.num_nodes = feature.shape
        offset = (np.arange(self.num_trees, dtype=np.int32) * self.num_nodes)[:, None]
        self._feature = feature.ravel()
        self._threshold = threshold.ravel()
        # children[..., 1] is taken where x < threshold, children[..., 0] otherwise.
        self._children = (children + offset[..., None]).reshape(-1)
        self._value = value.ravel()
        self._roots = offset.ravel()
        self.base_score = base_score
        self.depth = depth
        self.num_features = int(feature.max(initial=0)) + 1

    @classmethod
    def from_xgboost_json(cls, document: str | dict[str, Any]) -> TreeEnsemble:
        """Read the trees out of a booster that xgboost saved as JSON.

        Raises
        ------
        ArtifactError
            If the document holds no such booster.
        """
        try:
            model = json.loads(document) if isinstance(document, str) else document
            learner = model["learner"]
            trees = learner["gradient_booster"]["model"]["trees"]
            base = learner["learner_model_param"]["base_score"]
            return cls._from_trees(trees, float(str(base).strip("[]")))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            msg = f"no readable xgboost model: {error!r}"
            raise ArtifactError(msg, hint="fit the predictor again") from error

    @classmethod
    def _from_trees(cls, trees: list[dict[str, Any]], base_score: float) -> TreeEnsemble:
        """Pack trees of different sizes into rectangular arrays."""
        num_nodes = max((len(tree["left_children"]) for tree in trees), default=1)
        shape = (len(trees), num_nodes)
        feature, threshold = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        value = np.zeros(shape, np.float32)
        children = np.zeros((*shape, 2), np.int32) + np.arange(num_nodes, dtype=np.int32)[:, None]
        depth = 0
        for index, tree in enumerate(trees):
            left = np.asarray(tree["left_children"], np.int32)
            right = np.asarray(tree["right_children"], np.int32)
            conditions = np.asarray(tree["split_conditions"], np.float32)
            inner = np.flatnonzero(left >= 0)
            feature[index, inner] = np.asarray(tree["split_indices"], np.int32)[inner]
            threshold[index, inner] = conditions[inner]
            children[index, inner, 0], children[index, inner, 1] = right[inner], left[inner]
            leaves = np.flatnonzero(left < 0)
            value[index, leaves] = conditions[leaves]
            depth = max(depth, _depth(left, right))
        return cls(feature, threshold, children, value, base_score=base_score, depth=depth)

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the sum of all trees for each row.

        Parameters
        ----------
        features
            Of shape (n, n_features). They are compared in float32, as xgboost does.

        Returns
        -------
        Of shape (n,).
        """
        columns = np.ascontiguousarray(np.asarray(features, dtype=np.float32).T)
        count = columns.shape[1]
        total = np.full(count, self.base_score)
        rows = np.arange(count, dtype=np.intp)
        flat = columns.ravel()
        for root in self._roots:
            node = np.full(count, root, dtype=np.intp)
            for _ in range(self.depth):
                is_below = flat[self._feature[node] * count + rows] < self._threshold[node]
                node = self._children[2 * node + is_below]
            total += self._value[node]
        return total


def _depth(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """Return the number of steps from the root to the deepest leaf."""
    level, depth = np.array([0]), 0
    while True:
        level = np.concatenate([left[level], right[level]])
        level = level[level >= 0]
        if not len(level):
            return depth
        depth += 1
