"""Hand-written kernels: importing this package registers all of them.

Layout of every feature map is channels-last (N, H, W, C), float32. Each module states its
algorithm, names its tile sizes with the reason, and builds the TIR in named steps.
"""

from ofa_compile.kernels import (
    convolution,
    depthwise,
    depthwise_int8,
    elementwise,
    global_pool,
    gpu_maps,
    gpu_product,
    gpu_separable,
    gpu_windows,
    maps_int8,
    pointwise,
    pointwise_int8,
    window_pool,
)

__all__ = [
    "convolution",
    "depthwise",
    "depthwise_int8",
    "elementwise",
    "global_pool",
    "gpu_maps",
    "gpu_product",
    "gpu_separable",
    "gpu_windows",
    "maps_int8",
    "pointwise",
    "pointwise_int8",
    "window_pool",
]
