"""Pure description of architectures and search spaces (NumPy and the standard library only)."""

from ofa_compile.space.architecture import Architecture
from ofa_compile.space.cost import activation_peak_bytes, macs, num_parameters, weight_bytes
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space, search_spaces
from ofa_compile.space.resnet import ResNetSpace
from ofa_compile.space.search_space import SearchSpace

__all__ = [
    "Architecture",
    "LayerSpec",
    "MobileNetSpace",
    "ResNetSpace",
    "SearchSpace",
    "activation_peak_bytes",
    "macs",
    "num_parameters",
    "search_space",
    "search_spaces",
    "weight_bytes",
]
