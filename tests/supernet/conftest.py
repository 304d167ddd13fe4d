"""Fixtures of the supernet tests: one supernet per space, with lively random weights."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from ofa_compile.space import search_space, search_spaces
from ofa_compile.supernet import build_supernet


@cache
def lively_supernet(name):
    """Build a supernet whose batch-norm statistics and kernel transforms are not trivial."""
    supernet = build_supernet(search_space(name), num_classes=20, seed=1)
    randomize(supernet, torch.Generator().manual_seed(2))
    return supernet.eval()


@torch.no_grad()
def randomize(supernet, generator):
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.uniform_(0.8, 1.6, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
    for name, parameter in supernet.named_parameters():
        if name.endswith("_matrix"):
            noise = torch.empty_like(parameter).normal_(0, 0.1, generator=generator)
            parameter.add_(noise)


@pytest.fixture(params=search_spaces())
def supernet(request):
    """A supernet of each space; tests must not change it."""
    return lively_supernet(request.param)


@pytest.fixture
def cifar():
    """The smallest supernet; tests must not change it."""
    return lively_supernet("ofa_mbv3_cifar")


@pytest.fixture(scope="session")
def shared_data():
    """Folder with the authors' tables; OFA_COMPILE_SHARED points to it or to its parent."""
    root = os.environ.get("OFA_COMPILE_SHARED")
    candidates = [Path(root), Path(root, "data")] if root else []
    candidates.append(Path(__file__).parents[3] / "shared" / "data")
    for folder in candidates:
        if (folder / "ofa").is_dir():
            return folder
    pytest.skip("no shared data (set OFA_COMPILE_SHARED)")
