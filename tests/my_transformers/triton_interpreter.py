"""Runs Triton kernels in tests: compiled on a GPU, in Triton's interpreter on CPU tensors elsewhere.

tests/conftest.py sets TRITON_INTERPRET before Triton is imported. Three things of the interpreter are mended here: it
multiplies the bits of bfloat16 numbers as integers; Triton 3.6's takes bounds of loops in a way that NumPy 2.4 refuses;
and it prepares triton.language anew whenever a kernel calls a function, where once per module is enough, which took a
third of the time.
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
        dot, call = interpreter.InterpreterBuilder.create_dot, interpreter.InterpretedFunction.__call__
        prepare_tensor = interpreter._patch_lang_tensor
        prepared = set()

        def create_dot(self, a, b, *rest):
            return dot(self, _widened(a), _widened(b), *rest)

        def prepare_bounds(tensor, *scope):
            prepare_tensor(tensor, *scope)
            tensor.__index__ = lambda self: self.handle.data.item()

        def call_in_kernel(self, *args, **kwargs):
            if self.fn.__module__ in prepared:
                return self.rewrite()(*args, **kwargs)
            prepared.add(self.fn.__module__)
            return call(self, *args, **kwargs)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
        monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_in_kernel)
        monkeypatch.setattr(interpreter, "_patch_lang_tensor", prepare_bounds)


def _widened(handle):
    """float32 instead of bfloat16, which NumPy does not have: the interpreter holds its bits in uint16."""
    import triton.language as tl
    from triton.runtime.interpreter import TensorHandle

    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
