"""ONNX in, native code out. The only package (with `kernels` and `measurement`) that uses TVM."""

from ofa_compile.compiler.build import CompiledNetwork, compile_onnx

__all__ = ["CompiledNetwork", "compile_onnx"]
