"""Vulkan: scheduled TIR -> GLSL -> SPIR-V, and the tables of a network for our own launcher."""
