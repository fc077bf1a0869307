"""Runs Triton kernels in tests: compiled on a GPU, in Triton's interpreter on CPU tensors elsewhere.

tests/conftest.py sets TRITON_INTERPRET before Triton is imported. Four things of the interpreter are mended here: it
multiplies the bits of bfloat16 numbers as integers; it truncates float32 to bfloat16 where a GPU rounds; Triton 3.6's
takes bounds of loops in a way that NumPy 2.4 refuses; and it prepares triton.language anew whenever a kernel calls a
function, where once per module is enough, which took a third of the time.
"""

import numpy as np
import pytest
import torch

from my_transformers import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def triton_form(monkeypatch: pytest.MonkeyPatch):
    """Inside, supported inputs on :data:`DEVICE` take the Triton form."""
    monkeypatch.setenv(kernels.VARIABLE, "triton")
    if DEVICE == "cpu":
        interpreter = pytest.importorskip("triton.runtime.interpreter")
        cast = interpreter.InterpreterBuilder.cast_impl
        dot, call = interpreter.InterpreterBuilder.create_dot, interpreter.InterpretedFunction.__call__
        prepare_tensor = interpreter._patch_lang_tensor
        prepared = set()

        def create_dot(self, a, b, *rest):
            return dot(self, _widened(a), _widened(b), *rest)

        def rounded(self, src, dst_type):
            return _rounded(src) if _is(src, "fp32") and dst_type.scalar.is_bf16() else cast(self, src, dst_type)

        def prepare_bounds(tensor, *scope):
            prepare_tensor(tensor, *scope)
            tensor.__index__ = lambda self: self.handle.data.item()

        def call_in_kernel(self, *args, **kwargs):
            if self.fn.__module__ in prepared:
                return self.rewrite()(*args, **kwargs)
            prepared.add(self.fn.__module__)
            return call(self, *args, **kwargs)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
        monkeypatch.setattr(interpreter.InterpreterBuilder, "cast_impl", rounded)
        monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_in_kernel)
        monkeypatch.setattr(interpreter, "_patch_lang_tensor", prepare_bounds)


def _widened(handle):
    """float32 instead of bfloat16, which NumPy does not have: the interpreter holds its bits in uint16."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if not _is(handle, "bf16"):
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(handle):
    """bfloat16 of float32, to the nearest."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    bits = torch.from_numpy(np.ascontiguousarray(handle.data)).bfloat16().view(torch.int16).numpy()
    return TensorHandle(bits.view(np.uint16), tl.bfloat16)


def _is(handle, name):
    return handle.dtype.scalar.name == name
