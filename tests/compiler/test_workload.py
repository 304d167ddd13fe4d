from __future__ import annotations

import dataclasses
import json

import pytest

from ofa_compile.compiler.workload import (
    Add,
    Convolution,
    Depthwise,
    Generic,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleWeights,
    Workload,
)

WINDOW = {"batch": 2, "height": 9, "width": 8, "kernel": (3, 5), "stride": (2, 1)}
ALL = (
    Pointwise(10, 4, 8, "relu"),
    Depthwise(**WINDOW, padding=(1, 2, 1, 2), channels=6),
    Convolution(**WINDOW, padding=(0, 0, 0, 0), in_channels=3, out_channels=4),
    Pool(**WINDOW, padding=(0, 0, 0, 0), channels=3),
    GlobalPool(1, 49, 8),
    ScaleWeights(4, (16, 3)),
    Add(10),
    Generic("erf", "def erf(): ..."),
)


@pytest.mark.parametrize("workload", ALL, ids=lambda w: w.kind)
def test_key_is_stable_and_tells_fields_apart(workload: Workload) -> None:
    assert workload.key == dataclasses.replace(workload).key
    assert json.loads(json.dumps(workload.to_dict()))["kind"] == workload.kind
    name = dataclasses.fields(workload)[0].name
    value = getattr(workload, name)
    changed = dataclasses.replace(workload, **{name: value * 2})
    assert changed.key != workload.key


def test_kinds_do_not_share_keys() -> None:
    assert len({w.key for w in ALL}) == len(ALL)
    assert len({w.kind for w in ALL}) == len(ALL)


def test_keys_do_not_change_between_releases() -> None:
    # Tuning records are kept by key: a change here throws all of them away.
    assert Pointwise(10, 4, 8, "relu").key == "8445fc33f431b05a"


def test_output_sizes() -> None:
    work = Depthwise(**WINDOW, padding=(1, 2, 1, 2), channels=6)
    assert (work.out_height, work.out_width) == (5, 8)
    work = Depthwise(**WINDOW, padding=(0, 0, 0, 0), channels=6)
    assert (work.out_height, work.out_width) == (4, 4)


def test_macs() -> None:
    assert Pointwise(10, 4, 8).macs == 320
    assert Depthwise(**WINDOW, padding=(0, 0, 0, 0), channels=6).macs == 2 * 4 * 4 * 6 * 15
    work = Convolution(**WINDOW, padding=(0, 0, 0, 0), in_channels=3, out_channels=4)
    assert work.macs == 2 * 4 * 4 * 4 * 15 * 3
    assert Add(10).macs == 0
