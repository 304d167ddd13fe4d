"""MobileNetV3 and ProxylessNAS: widths, rounding and the authors' published subnets."""

import itertools
import json

import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import Architecture, macs, search_space
from ofa_compile.space.layer_spec import make_divisible

W10 = "ofa_mbv3_d234_e346_k357_w1.0"
W12 = "ofa_mbv3_d234_e346_k357_w1.2"
PROXYLESS = "ofa_proxyless_d234_e346_k357_w1.3"


@pytest.mark.parametrize(
    ("name", "stem", "first", "stages", "final", "last"),
    [
        (W10, 16, 16, (24, 40, 80, 112, 160), 960, 1280),
        (W12, 24, 24, (32, 48, 96, 136, 192), 1152, 1536),
        (PROXYLESS, 40, 24, (32, 56, 104, 128, 248, 416), None, 1664),
    ],
)
def test_widths_are_the_authors(name, stem, first, stages, final, last):
    space = search_space(name)
    assert (space.stem_width, space.first_width) == (stem, first)
    assert space.stage_widths == stages
    assert (space.final_expand_width, space.last_width) == (final, last)
    assert space.resolutions == tuple(range(128, 225, 4))
    assert space.num_classes_default == 1000


def test_last_proxyless_stage_has_one_block(rng):
    space = search_space(PROXYLESS)
    assert {space.sample(rng).depths[5] for _ in range(20)} == {1}


@pytest.mark.parametrize(
    ("value", "rounded"), [(1, 8), (11, 16), (12, 16), (20, 24), (89.6, 88), (92, 96), (28.8, 32)]
)
def test_rounding_to_multiples_of_eight(value, rounded):
    assert make_divisible(value) == rounded


def test_layers_of_the_default_space():
    space = search_space("ofa_mbv3_cifar")
    layers = space.layers(space.smallest(32))
    assert [layer.name for layer in layers[:6]] == [
        "first_conv", "blocks.0.depthwise", "blocks.0.project",
        "blocks.1.expand", "blocks.1.depthwise", "blocks.1.project",
    ]  # fmt: skip
    assert [layer.name for layer in layers[-4:]] == [
        "final_expand_layer", "global_pool", "feature_mix_layer", "classifier",
    ]  # fmt: skip
    assert layers[-4].in_size == 4
    assert layers[-1].out_channels == 10
    assert {layer.kind for layer in layers} == {
        "conv", "pointwise", "depthwise", "squeeze_excite", "global_pool", "linear",
    }  # fmt: skip


def test_consecutive_layers_fit(space, rng):
    for _ in range(10):
        main = [layer for layer in space.layers(space.sample(rng)) if not layer.is_shortcut]
        for before, after in itertools.pairwise(main):
            assert before.out_channels == after.in_channels
            assert before.out_size == after.in_size


def test_layers_follow_the_number_of_classes(space):
    assert space.layers(space.smallest(), 7)[-1].out_channels == 7


def test_layers_refuse_an_invalid_architecture(space):
    bad = Architecture(space=space.name, resolution=32, depths=(), expand_ratios=())
    with pytest.raises(ArchitectureError, match="depths has 0 entries"):
        space.layers(bad)


def published_subnets(shared_data):
    return json.loads((shared_data / "ofa" / "specialized_subnets.json").read_text())


def as_architecture(entry):
    if entry["network"] == "ProxylessNASNets":
        name = PROXYLESS
    else:
        name = W10 if entry["stem_channels"] == 16 else W12
    fields = ("resolution", "depths", "kernel_sizes", "expand_ratios")
    return Architecture(space=name, **{field: entry[field] for field in fields})


def test_published_subnets_have_the_authors_shapes(shared_data):
    subnets = published_subnets(shared_data)
    assert len(subnets) == 22
    for entry in subnets:
        architecture = as_architecture(entry)
        space = search_space(architecture.space)
        layers = [
            layer for layer in space.layers(architecture) if 0 <= layer.stage < space.num_stages
        ]
        depthwise = [layer for layer in layers if layer.kind == "depthwise"]
        activations = {"h_swish": "hswish"}
        expected = {
            "mid_channels": [layer.out_channels for layer in depthwise],
            "kernel_sizes": [layer.kernel_size for layer in depthwise],
            "strides": [layer.stride for layer in depthwise],
            "activation": [layer.activation for layer in depthwise],
            "use_se": [
                any(
                    layer.kind == "squeeze_excite"
                    for layer in layers
                    if (layer.stage, layer.block) == (deep.stage, deep.block)
                )
                for deep in depthwise
            ],
        }
        for field, ours in expected.items():
            theirs = [activations.get(value, value) for stage in entry[field] for value in stage]
            assert ours == theirs, (entry["name"], field)
        assert entry["stem_channels"] == space.stem_width
        assert entry["first_block_channels"] == space.first_width
        assert tuple(entry["stage_channels"]) == space.stage_widths


def test_published_macs(shared_data):
    by_name = {entry["name"]: as_architecture(entry) for entry in published_subnets(shared_data)}
    for name, architecture in by_name.items():
        if name.startswith("flops-"):
            millions = int(name.removeprefix("flops-").split("M")[0])
            assert round(macs(architecture) / 1e6) == pytest.approx(millions, abs=0.5)
