"""One subnet at every resolution of its space: maps of every size that layers can have."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import ofa_compile as ofa

SPACE = "ofa_mbv3_d234_e346_k357_w1.0"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_every_resolution_is_verified(part: int, tmp_path: Path) -> None:
    space = ofa.search_space(SPACE)
    drawn = space.sample(np.random.default_rng(3), resolution=224)
    subnet = ofa.load_supernet(None, space=space).extract(drawn)
    assert len(space.resolutions) == 25
    for resolution in space.resolutions[part::2]:
        architecture = dataclasses.replace(drawn, resolution=resolution)
        bundle = ofa.compile(subnet, "host", tmp_path / str(resolution), architecture=architecture)
        verification = bundle.manifest.verification
        assert verification["verified"], resolution
        assert verification["relative_error"] <= 1e-5, resolution
