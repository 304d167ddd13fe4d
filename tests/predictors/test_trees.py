from __future__ import annotations

import json

import numpy as np
import pytest

from ofa_compile.errors import ArtifactError
from ofa_compile.predictors.trees import TreeEnsemble

xgboost = pytest.importorskip("xgboost")


@pytest.mark.parametrize("max_depth", [1, 4])
def test_equals_xgboost(max_depth: int) -> None:
    rng = np.random.default_rng(0)
    features = rng.integers(0, 6, size=(300, 9)).astype(np.float32)
    target = features[:, 0] * features[:, 1] + np.sin(features[:, 2]) + 7
    data = xgboost.DMatrix(features, target)
    booster = xgboost.train({"max_depth": max_depth, "eta": 0.3, "nthread": 1}, data, 40)
    ensemble = TreeEnsemble.from_xgboost_json(bytes(booster.save_raw("json")).decode())
    fresh = rng.normal(3, 3, size=(1000, 9)).astype(np.float32)
    np.testing.assert_allclose(
        ensemble.predict(fresh), booster.predict(xgboost.DMatrix(fresh)), rtol=2e-5
    )


def test_no_trees_is_the_base_score() -> None:
    document = {
        "learner": {
            "gradient_booster": {"model": {"trees": []}},
            "learner_model_param": {"base_score": "[2.5E0]"},
        }
    }
    ensemble = TreeEnsemble.from_xgboost_json(json.dumps(document))
    np.testing.assert_array_equal(ensemble.predict(np.zeros((3, 2), np.float32)), 2.5)


def test_garbage_is_refused() -> None:
    with pytest.raises(ArtifactError, match="xgboost"):
        TreeEnsemble.from_xgboost_json("{}")
    with pytest.raises(ArtifactError, match="xgboost"):
        TreeEnsemble.from_xgboost_json("no json")
