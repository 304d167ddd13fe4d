"""CUDA: C++ text, and machine code by nvcc, which needs no GPU."""
