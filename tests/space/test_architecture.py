"""Architecture: normalisation, canonical JSON, hash, strict parsing."""

import dataclasses
import json

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import Architecture, search_space

CANONICAL = (
    '{"depths":[2,3],"expand_ratios":[[3,4],[6,6,6]],"kernel_sizes":[[3,5],[7,3,3]],'
    '"resolution":224,"space":"toy"}'
)


@pytest.fixture
def architecture():
    return Architecture(
        space="toy",
        resolution=224,
        depths=(2, 3),
        kernel_sizes=((3, 5), (7, 3, 3)),
        expand_ratios=((3, 4), (6, 6, 6)),
    )


def test_json_is_canonical_and_omits_fields_of_other_families(architecture):
    assert architecture.to_json() == CANONICAL


def test_json_round_trip_for_every_family(rng, space):
    architecture = space.sample(rng)
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture
    assert hash(again) == hash(architecture)
    assert again.hash == architecture.hash


def test_hash_is_stable(architecture):
    # Everything stored about a subnet is keyed by this: it must never change.
    assert architecture.short_hash == architecture.hash[:12]
    assert architecture.hash == "16d57cf9a940242ab29ce3e6b23a045129d1e2255720c6ba8142eaf5b792303a"


def test_lists_numpy_values_and_whole_floats_are_normalised(architecture):
    same = Architecture(
        space="toy",
        resolution=np.int64(224),
        depths=[2, 3],
        kernel_sizes=[np.array([3, 5]), [7, 3, 3]],
        expand_ratios=[[3.0, 4.0], np.array([6, 6, 6])],
    )
    assert same == architecture
    assert same.to_json() == CANONICAL


def test_key_order_and_spaces_do_not_matter(architecture):
    text = json.dumps(dict(reversed(architecture.to_dict().items())), indent=3)
    assert Architecture.from_json(text) == architecture


def test_is_immutable(architecture):
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.resolution = 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "must be a JSON object, got list"),
        ('{"space":"toy"}', "lacks the field.s. resolution, depths, expand_ratios"),
        (CANONICAL.replace("depths", "depth"), "'depth'; did you mean 'depths'"),
        (CANONICAL.replace("224", "224.5"), "resolution must be a whole number, got 224.5"),
        (CANONICAL.replace("224", "true"), "resolution must be a whole number, got True"),
        (CANONICAL.replace("224", "null"), "resolution must be a whole number, got None"),
        (CANONICAL.replace('"toy"', "3"), "space must be a string, got 3"),
        (CANONICAL.replace("[2,3]", '"23"'), "depths must be a list, got '23'"),
        (CANONICAL.replace("[3,5]", "3"), "kernel_sizes must be a list, got 3"),
        (CANONICAL.replace("[3,4]", '["3",4]'), "expand_ratios must be a number, got '3'"),
        (CANONICAL.replace("[3,4]", "[NaN,4]"), "expand_ratios must be a finite number"),
    ],
)
def test_malformed_json_is_refused(text, message):
    with pytest.raises(ArchitectureError, match=message) as caught:
        Architecture.from_json(text)
    assert caught.value.hint


def test_from_file(tmp_path, architecture):
    path = tmp_path / "net.json"
    path.write_text(CANONICAL, encoding="utf-8")
    assert Architecture.from_file(path) == architecture


def test_from_file_names_the_file(tmp_path):
    path = tmp_path / "broken.json"
    with pytest.raises(ArchitectureError, match=r"cannot read .*broken\.json"):
        Architecture.from_file(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ArchitectureError, match=r"broken\.json: architecture lacks"):
        Architecture.from_file(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchitectureError, match=r"cannot read .*broken\.json"):
        Architecture.from_file(path)


def test_resnet_fields_are_kept(rng):
    architecture = search_space("ofa_resnet50").sample(rng)
    fields = json.loads(architecture.to_json())
    assert set(fields) == {
        "space", "resolution", "depths", "expand_ratios", "stem_depth", "width_indices",
    }  # fmt: skip
