"""Vulkan: GLSL, SPIR-V, and Vulkan as a device of TVM itself."""
