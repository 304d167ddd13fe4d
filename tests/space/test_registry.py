"""The registry of search spaces."""

import subprocess
import sys

import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import search_space, search_spaces


def test_names():
    assert search_spaces() == [
        "ofa_mbv3_cifar",
        "ofa_mbv3_d234_e346_k357_w1.0",
        "ofa_mbv3_d234_e346_k357_w1.2",
        "ofa_proxyless_d234_e346_k357_w1.3",
        "ofa_resnet50",
    ]


def test_spaces_know_their_name_and_are_shared():
    for name in search_spaces():
        assert search_space(name).name == name
        assert search_space(name) is search_space(name)


def test_unknown_name_suggests_the_near_miss():
    with pytest.raises(ArchitectureError, match="did you mean 'ofa_resnet50'") as caught:
        search_space("ofa_resnet5")
    assert "ofa_mbv3_cifar" in caught.value.hint


def test_spaces_need_neither_torch_nor_tvm():
    code = (
        "import sys, ofa_compile.space as s; [s.search_space(n) for n in s.search_spaces()];"
        "sys.exit(any(m in sys.modules for m in ('torch', 'tvm', 'xgboost')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
