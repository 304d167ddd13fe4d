from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.measurement.sampling import (
    choose_architectures,
    draw_architectures,
    informative_rows,
    reference_architecture,
)
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space, search_spaces

SPACE = search_space("ofa_mbv3_d234_e346_k357_w1.0")


def test_a_longer_list_continues_the_shorter() -> None:
    short, long = (choose_architectures(SPACE, n, seed=3) for n in (10, 40))
    assert long[:10] == short
    assert len({a.hash for a in long}) == 40
    assert choose_architectures(SPACE, 10, seed=4) != short


def test_uniform_ones_continue_too_and_are_no_design() -> None:
    short, long = (draw_architectures(SPACE, n, seed=3, resolution=224) for n in (10, 40))
    assert long[:10] == short
    assert len({a.hash for a in long}) == 40
    assert {a.resolution for a in long} == {224}
    drawn = np.mean([cost.macs(a) for a in draw_architectures(SPACE, 300, resolution=224)])
    rng = np.random.default_rng(1)
    uniform = np.mean([cost.macs(SPACE.sample(rng, resolution=224)) for _ in range(300)])
    assert drawn == pytest.approx(uniform, rel=0.03)


def test_covers_more_than_uniform_sampling() -> None:
    chosen = [cost.macs(a) for a in choose_architectures(SPACE, 40, resolution=224)]
    rng = np.random.default_rng(0)
    uniform = [cost.macs(SPACE.sample(rng, resolution=224)) for _ in range(40)]
    assert np.std(chosen) > np.std(uniform)


def test_resolution_is_kept_or_refused() -> None:
    assert {a.resolution for a in choose_architectures(SPACE, 12, resolution=160)} == {160}
    with pytest.raises(ArchitectureError, match="no resolution 100"):
        choose_architectures(SPACE, 12, resolution=100)


def test_informative_rows_prefer_what_is_new() -> None:
    columns = np.zeros((50, 2))
    columns[40, 0], columns[45, 1] = 3.0, 2.0
    assert set(informative_rows(columns, 4)[::2]) == {40, 45}
    assert sorted(informative_rows(columns, 50)) == list(range(50))


@pytest.mark.parametrize("name", search_spaces())
def test_reference_is_a_member(name: str) -> None:
    space = search_space(name)
    reference = reference_architecture(space)
    space.validate(reference)
    assert cost.macs(space.smallest()) < cost.macs(reference) < cost.macs(space.largest())
    assert reference_architecture(space, space.resolutions[0]).resolution == space.resolutions[0]
