"""What every search space must do: sampling, variation, validation, encoding."""

import dataclasses
import itertools

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import MobileNetSpace, ResNetSpace, search_space
from ofa_compile.space.search_space import ABSENT

MBV3 = "ofa_mbv3_d234_e346_k357_w1.0"


@pytest.fixture
def tiny():
    """A space small enough to enumerate."""
    return dataclasses.replace(
        search_space("ofa_mbv3_cifar"),
        name="tiny",
        resolutions=(24, 32),
        stage_widths=(16, 24),
        stage_strides=(2, 2),
        stage_activations=("relu", "hswish"),
        stage_use_se=(False, True),
        depth_choices=((1, 2), (1,)),
        kernel_size_choices=(3, 5),
        expand_ratio_choices=(3,),
    )


def test_sampled_architectures_are_valid(space, rng):
    for _ in range(100):
        assert space.contains(space.sample(rng))


def test_sampling_reaches_every_choice(space, rng):
    indices = space.sample_indices(rng, 2000)
    for column, gene in enumerate(space.genes):
        allowed = set(range(len(gene.choices))) | ({ABSENT} if gene.optional else set())
        assert set(indices[:, column].tolist()) == allowed


def test_sampling_is_reproducible(space):
    first, second = (space.sample(np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_sample_at_a_resolution(space, rng):
    assert space.sample(rng, resolution=64).resolution == 64
    with pytest.raises(ArchitectureError, match="resolution 66"):
        space.sample(rng, resolution=66)


def test_mutation_and_crossover_stay_in_the_space(space, rng):
    parents = [space.sample(rng) for _ in range(20)]
    for first, second in itertools.pairwise(parents):
        assert space.contains(space.mutate(first, rng, 0.5))
        assert space.contains(space.crossover(first, second, rng))


def test_mutation_without_probability_changes_nothing(space, rng):
    architecture = space.sample(rng)
    assert space.mutate(architecture, rng, 0.0) == architecture


def test_mutation_changes_a_share_of_the_genes(space, rng):
    base = space.largest()
    before = space.indices([base])[0]
    changed = [
        (space.indices([space.mutate(base, rng, 0.3)])[0] != before).mean() for _ in range(200)
    ]
    assert 0.12 < np.mean(changed) < 0.4


def test_crossover_takes_every_gene_from_a_parent(space, rng):
    smallest, largest = space.smallest(), space.largest()
    parents = space.indices([smallest, largest])
    for _ in range(20):
        child = space.indices([space.crossover(smallest, largest, rng)])[0]
        inherited = (child == parents[0]) | (child == parents[1])
        absent_in_one = (parents == ABSENT).any(axis=0)
        assert (inherited | absent_in_one).all()


def test_variation_accepts_published_resolutions(rng):
    space = search_space(MBV3)
    architecture = space.largest(resolution=260)
    assert space.contains(space.mutate(architecture, rng))
    assert space.contains(space.crossover(architecture, space.smallest(), rng))


def test_smallest_and_largest_bound_every_sample(space, rng):
    low, high = space.indices([space.smallest(), space.largest()])
    samples = space.indices([space.sample(rng) for _ in range(50)])
    assert (samples <= high).all()
    assert ((samples >= low) | (samples == ABSENT)).all()


def test_size_equals_enumeration(tiny):
    ranges = [range(len(gene.choices)) for gene in tiny.genes]
    everything = {tiny.from_indices(row) for row in itertools.product(*ranges)}
    assert len(everything) == tiny.size() == 2 * (2 + 4) * 2


def test_size_of_the_authors_spaces():
    assert search_space(MBV3).size() == 25 * (9**2 + 9**3 + 9**4) ** 5
    proxyless = search_space("ofa_proxyless_d234_e346_k357_w1.3")
    assert proxyless.size() == 25 * (9**2 + 9**3 + 9**4) ** 5 * 9


def test_encoding_round_trip(space, rng):
    architectures = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(50))]
    code = space.encode(architectures)
    assert code.shape == (52, space.encoding_size)
    assert code.dtype == np.float32
    assert set(np.unique(code)) == {0.0, 1.0}
    assert (code.sum(axis=1) == len(space.genes)).all()
    assert [space.decode(row) for row in code] == architectures


def test_encoding_distinguishes_all_architectures(tiny):
    ranges = [range(len(gene.choices)) for gene in tiny.genes]
    everything = sorted(
        {tiny.from_indices(row) for row in itertools.product(*ranges)}, key=lambda a: a.hash
    )
    assert len(np.unique(tiny.encode(everything), axis=0)) == len(everything)


def test_encoding_nothing(space):
    assert space.encode([]).shape == (0, space.encoding_size)


def test_encoding_refuses_other_resolutions():
    space = search_space(MBV3)
    with pytest.raises(ArchitectureError, match=r"resolution 260 .*128, 132, \.\.\., 224"):
        space.encode([space.largest(resolution=260)])


def test_decoding_refuses_another_length(space):
    with pytest.raises(ArchitectureError, match=r"shape \(\d+,\), got \(3,\)"):
        space.decode(np.zeros(3))


def test_index_vectors_round_trip(space, rng):
    indices = space.sample_indices(rng, 50)
    again = space.indices([space.from_indices(row) for row in indices])
    assert (again == indices).all()


def test_architecture_of_another_space_is_refused(space):
    other = search_space(MBV3 if space.name != MBV3 else "ofa_mbv3_cifar")
    with pytest.raises(ArchitectureError, match=f"of space '{other.name}', not '{space.name}'"):
        space.validate(other.largest())


@pytest.mark.parametrize("resolution", [32, 228, 236, 240, 260, 512])
def test_multiples_of_four_are_accepted(space, resolution):
    assert space.contains(dataclasses.replace(space.smallest(), resolution=resolution))


@pytest.mark.parametrize("resolution", [-32, 0, 16, 34, 127, 516, 1024])
def test_other_resolutions_are_refused(space, resolution):
    architecture = dataclasses.replace(space.smallest(), resolution=resolution)
    with pytest.raises(ArchitectureError, match=f"resolution {resolution} .*from 32 to 512"):
        space.validate(architecture)


def test_depth_outside_the_space(space):
    depths = (9, *space.smallest().depths[1:])
    with pytest.raises(ArchitectureError, match=r"depths\[0\] = 9 is outside .*allowed are"):
        space.validate(dataclasses.replace(space.smallest(), depths=depths))


def test_wrong_number_of_stages(space):
    with pytest.raises(ArchitectureError, match=r"depths has 1 entries, but .* needs"):
        space.validate(dataclasses.replace(space.smallest(), depths=(2,)))


def test_wrong_number_of_blocks(space):
    ratios = space.smallest().expand_ratios
    changed = ((*ratios[0], ratios[0][0]), *ratios[1:])
    with pytest.raises(ArchitectureError, match=r"expand_ratios\[0\] has 3 entries.* needs 2"):
        space.validate(dataclasses.replace(space.smallest(), expand_ratios=changed))


def test_value_outside_the_choices(space):
    ratios = space.smallest().expand_ratios
    changed = ((5, *ratios[0][1:]), *ratios[1:])
    with pytest.raises(ArchitectureError, match=r"expand_ratios\[0\]\[0\] = 5 .*allowed are"):
        space.validate(dataclasses.replace(space.smallest(), expand_ratios=changed))


def test_fields_of_the_other_family_are_refused(space):
    smallest = space.smallest()
    match space:
        case MobileNetSpace():
            changed = dataclasses.replace(smallest, stem_depth=0)
        case ResNetSpace():
            changed = dataclasses.replace(smallest, kernel_sizes=((3, 3),) * 4)
    with pytest.raises(ArchitectureError, match="do not exist in"):
        space.validate(changed)
