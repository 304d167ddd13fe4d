"""Hand-written kernels: importing this package registers all of them.

Layout of every feature map is channels-last (N, H, W, C), float32. Each module states its
algorithm, names its tile sizes with the reason, and builds the TIR in named steps.
"""

from ofa_compile.kernels import (
    convolution,
    depthwise,
    elementwise,
    global_pool,
    gpu_maps,
    gpu_product,
    gpu_windows,
    pointwise,
    window_pool,
)

__all__ = [
    "convolution",
    "depthwise",
    "elementwise",
    "global_pool",
    "gpu_maps",
    "gpu_product",
    "gpu_windows",
    "pointwise",
    "window_pool",
]
