"""What TF32 changes in the logits of sampled subnets, rounded in PyTorch; no GPU is needed.

Every factor of a convolution that `--precision tf32` gives to tensor cores, and of the dense layer,
is rounded to ten bits behind the point, to the nearest, as the instruction rounds; sums stay
float32. Weights are the shipped ones where there are any, else random.

    python benchmarks/tf32_error.py [--count N] [--spaces NAME ...]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import finish, parser, say, table

from ofa_compile.bundle.verify import noise_inputs
from ofa_compile.space import search_space, search_spaces
from ofa_compile.supernet import load_supernet


def rounded(values: torch.Tensor) -> torch.Tensor:
    """Round float32 to TF32, ties away from 0."""
    bits = values.detach().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def is_product(module: torch.nn.Module) -> bool:
    """Tell whether tensor cores take a layer, by its channels (kernels/gpu_matrix.py)."""
    if isinstance(module, torch.nn.Conv2d):
        return module.groups == 1 and module.in_channels % 2 == 0 and module.out_channels % 8 == 0
    return isinstance(module, torch.nn.Linear)


def round_factors(subnet: torch.nn.Module) -> None:
    """Make a subnet's products those of TF32."""
    products: list[Any] = [module for module in subnet.modules() if is_product(module)]
    for module in products:
        module.weight.data = rounded(module.weight)
        module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))


def measure(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return the differences of a space's subnets, relative to the largest logit."""
    space, rng = search_space(name), np.random.default_rng(options.seed)
    supernet = load_supernet(None, space=name)
    errors = []
    for number in range(options.count):
        architecture = space.sample(rng)
        subnet = supernet.extract(architecture).eval()
        size = architecture.resolution
        x = torch.from_numpy(noise_inputs((1, 3, size, size), 1, seed=number))
        with torch.inference_mode():
            exact = subnet(x)
            round_factors(subnet)
            error = (subnet(x) - exact).abs().max() / exact.abs().max()
        errors.append(float(error))
    return {"median": float(np.median(errors)), "largest": max(errors), "errors": errors}


def main() -> None:
    """Compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--count", type=int, default=8, help="subnets of each space")
    arguments.add_argument("--spaces", nargs="+", default=list(search_spaces()))
    options = arguments.parse_args()
    if options.quick:
        options.count, options.spaces = 1, ["ofa_mbv3_cifar"]
    results = {name: measure(options, name) for name in options.spaces}
    rows = [(name, f"{r['median']:.5f}", f"{r['largest']:.5f}") for name, r in results.items()]
    say(options, table(("space", "median", "largest"), rows))
    finish({"benchmark": "tf32_error", "count": options.count, "spaces": results}, options)


if __name__ == "__main__":
    main()
