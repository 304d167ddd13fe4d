"""ResNet50D: elastic widths, stem, shortcuts."""

import dataclasses

import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import Architecture, search_space


@pytest.fixture
def resnet():
    return search_space("ofa_resnet50")


def test_widths_are_the_authors(resnet):
    assert resnet.stem_mid_widths == (24, 24, 32)
    assert resnet.stem_widths == (40, 48, 64)
    assert resnet.stage_width_choices == (
        (168, 208, 256),
        (336, 408, 512),
        (664, 816, 1024),
        (1328, 1640, 2048),
    )
    assert resnet.mid_channels(256, 0.35) == 88
    assert resnet.stage_max_blocks == (4, 4, 6, 4)


def test_base_depths_come_on_top(resnet):
    architecture = Architecture(
        space=resnet.name,
        resolution=224,
        depths=(0, 1, 2, 0),
        expand_ratios=((0.25,) * 2, (0.2,) * 3, (0.35,) * 6, (0.25,) * 2),
        stem_depth=2,
        width_indices=(2, 2, 2, 2, 2, 2),
    )
    layers = resnet.layers(architecture)
    assert sum(layer.name.endswith(".conv2") for layer in layers) == 13
    assert sum(".downsample.conv" in layer.name for layer in layers) == 4
    assert sum(layer.kind == "avg_pool" for layer in layers) == 3


def test_stem_depth_adds_a_residual_convolution(resnet):
    without, with_it = (
        resnet.layers(dataclasses.replace(resnet.largest(), stem_depth=depth)) for depth in (0, 2)
    )
    assert len(with_it) == len(without) + 1
    assert with_it[1].has_residual


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem_depth": None}, "stem_depth is missing"),
        ({"stem_depth": 1}, "stem_depth = 1 is outside .*allowed are 0, 2"),
        ({"width_indices": (0, 1)}, "width_indices has 2 entries, but .* needs 6"),
        ({"width_indices": (0, 0, 3, 0, 0, 0)}, r"width_indices\[2\] = 3 .*allowed are 0, 1, 2"),
    ],
)
def test_bad_fields(resnet, changes, message):
    with pytest.raises(ArchitectureError, match=message):
        resnet.validate(dataclasses.replace(resnet.smallest(), **changes))
