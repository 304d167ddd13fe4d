from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ofa_compile.space import SearchSpace, macs, search_space
from ofa_compile.training.prefix_evaluation import block_path
from ofa_compile.training.sampling import sample_families, sample_uniform

SPACE = search_space("ofa_mbv3_cifar")


def flat(families: list[list[object]]) -> list[object]:
    return [architecture for family in families for architecture in family]


def test_members_are_distinct_and_as_many_as_asked_for() -> None:
    for count in (1, 2, 3, 50, 201):
        sample = flat(sample_families(SPACE, count, 0))  # type: ignore[arg-type]
        assert len(sample) == len(set(sample)) == count
    assert len(flat(sample_uniform(SPACE, 40, 0))) == 40  # type: ignore[arg-type]


def test_a_larger_count_only_adds() -> None:
    small, large = sample_families(SPACE, 100, 3), sample_families(SPACE, 160, 3)
    assert large[: len(small) - 1] == small[:-1]
    assert sample_families(SPACE, 100, 4) != small


def test_families_share_early_stages_in_shrinking_groups() -> None:
    families = [f for f in sample_families(SPACE, 200, 0) if len(f) == 4]
    assert len(families) > 40
    for family in families:
        assert len({a.resolution for a in family}) == 1
        first = {block_path(a)[: a.depths[0]] for a in family}
        second = {block_path(a)[: sum(a.depths[:2])] for a in family}
        assert len(first) == 1
        assert len(second) <= 2
    starts = {block_path(f[0])[: f[0].depths[0]] for f in families}
    assert len(starts) > 0.9 * len(families)


def test_sample_is_balanced() -> None:
    sample = [a for family in sample_families(SPACE, 480, 1) for a in family]
    resolutions = Counter(a.resolution for a in sample)
    assert min(resolutions.values()) > 0.95 * len(sample) / 3
    for stage in range(5):
        depths = Counter(a.depths[stage] for a in sample)
        assert min(depths.values()) > 0.6 * len(sample) / 3
        kernels = Counter(a.kernel_sizes[stage][0] for a in sample)
        assert min(kernels.values()) > 0.6 * len(sample) / 3
    # By multiply-accumulates: the tails are there, not only the middle of uniform choices.
    sizes = np.log([macs(a) for a in sample])
    counts, _ = np.histogram(sizes, bins=8, range=np.log([macs(sample[0]), macs(sample[1])]))
    assert counts.min() > 0.6 * len(sample) / 8
    uniform = [a for (a,) in sample_uniform(SPACE, 480, 1)]
    assert np.std(sizes) > 1.8 * np.std(np.log([macs(a) for a in uniform]))


@pytest.mark.parametrize("name", ["ofa_resnet50", "ofa_proxyless_d234_e346_k357_w1.3"])
def test_other_spaces(name: str) -> None:
    space: SearchSpace = search_space(name)
    for family in sample_families(space, 20, 0):
        for architecture in family:
            space.validate(architecture)
