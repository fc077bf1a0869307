"""Runs code on a CUDA device that is not there: shapes, dtypes and devices are followed, nothing is computed.

``FakeTensorMode`` follows the tensors and refuses operators that mix devices or whose result the host must know.
:class:`FakeCuda` adds what it lets pass: copies between host and device for which the host waits, and the bodies of the
custom operators, of which it would only ask the shape; only Triton's kernels are left out. PyTorch's autograd engine
starts a stream for each CUDA node, so without a GPU it cannot run backward; :func:`gradients` walks the same graph and
calls the same nodes in Python.
"""

import collections
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from my_transformers import replay
from my_transformers.lsh.backward import attend_backward
from my_transformers.lsh.forward import attend_forward

try:
    from my_transformers import triton_launch
    from my_transformers.lsh import triton_attention, triton_hashing
    from my_transformers.performer import triton_attention as performer
except ImportError:  # Triton is not installed
    triton_launch = None

_OPERATORS = [attend_forward, attend_backward]
if triton_launch:
    _OPERATORS += [triton_attention._attention, triton_attention._attention_backward, triton_hashing.bucket_of]
    _OPERATORS += [performer._causal, performer._causal_backward]
    _OPERATORS += [performer._bidirectional, performer._bidirectional_backward]
_BODIES = {op._opoverload: op._init_fn for op in _OPERATORS}
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class HostWaits(Exception):
    """An operator reads on one device what another holds."""


class FakeCuda(TorchDispatchMode):
    """Looks at each operator, inside the custom ones as well."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _BODIES:
            with self:
                return _BODIES[func](*args, **kwargs)
        if func.namespace != "prim":
            self._check(func, args, kwargs)
        return func(*args, **kwargs)

    def _check(self, func: Any, args: tuple, kwargs: dict) -> None:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors if x.ndim or x.device.type != "cpu"}  # numbers travel with the kernel
        if func in _COPIES:
            if func is _COPIES[0]:
                devices = {tensors[0].device.type, torch.device(kwargs.get("device") or tensors[0].device).type}
            waits = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False) or args[0].device.type != "cpu"
            if len(devices) > 1 and waits:
                raise HostWaits(f"{func} between {' and '.join(sorted(devices))}")
        elif len(devices) > 1:
            raise HostWaits(f"{func} of tensors on {' and '.join(sorted(devices))}")


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """New tensors are fake inside, and PyTorch believes in a GPU where it would ask for one."""
    cpu_state = (torch.get_rng_state(),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.autograd, "grad", gradients)
        patch.setattr(replay, "_generator_states", lambda _: cpu_state)
        patch.setattr(replay, "_set_generator_states", lambda *_: None)
        if triton_launch:
            patch.setattr(triton_launch, "launch", lambda *_, **__: None)
        with FakeTensorMode(), FakeCuda():
            yield


def on_cuda(module: nn.Module) -> nn.Module:
    """The module with fake parameters and buffers; ``module.to`` cannot move to them."""
    moved: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None and value not in moved:
                    moved[value] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                    if held is part._parameters:
                        moved[value] = nn.Parameter(moved[value], value.requires_grad)
                held[name] = None if value is None else moved[value]
    return module


def gradients(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor],
    **_: bool,
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad``, node by node; None of what has no part in the outputs."""
    outputs, inputs, grad_outputs = ([x] if isinstance(x, Tensor) else list(x) for x in (outputs, inputs, grad_outputs))
    found: dict[Any, dict[int, Tensor]] = collections.defaultdict(dict)
    for output, grad in zip(outputs, grad_outputs, strict=True):
        _add(found, torch.autograd.graph.get_gradient_edge(output), grad)
    for node in _in_order(list(found)):
        if node.name() != "torch::autograd::AccumulateGrad" and found[node]:
            for edge, grad in _called(node, found[node]):
                _add(found, edge, grad)
    wanted = [torch.autograd.graph.get_gradient_edge(x)[:2] for x in inputs]
    return tuple(found[node].get(number) for node, number in wanted)


def _add(found: dict[Any, dict[int, Tensor]], edge: tuple, grad: Tensor) -> None:
    """As the engine takes in a gradient: of the device and dtype of what it belongs to."""
    node, number = edge[:2]
    belongs_to = node._input_metadata[number]
    if grad.device != belongs_to.device:
        raise HostWaits(f"{node.name()} on {belongs_to.device} got a gradient on {grad.device}")
    grad = grad.sum_to_size(belongs_to.shape).to(belongs_to.dtype)
    found[node][number] = found[node][number] + grad if number in found[node] else grad


def _in_order(roots: list[Any]) -> list[Any]:
    """Each node after all that lead to it."""
    seen, order = set(), []

    def visit(node: Any) -> None:
        if node not in seen:
            seen.add(node)
            for following, _ in node.next_functions:
                if following is not None:
                    visit(following)
            order.append(node)

    for root in roots:
        visit(root)
    return order[::-1]


def _called(node: Any, grads: dict[int, Tensor]) -> Iterator[tuple[tuple, Tensor]]:
    """The gradients that a node hands on, with the edges they take."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    with torch.no_grad():
        if hasattr(node, "apply"):  # an autograd.Function, which gets zeros for None and answers for each argument
            given = [
                grads.get(i, torch.zeros(x.shape, dtype=x.dtype, device=x.device))
                for i, x in enumerate(node._input_metadata)
            ]
            wanted = node.needs_input_grad
            answer = node.apply(*given)
            answer = answer if isinstance(answer, tuple) else (answer,)
            found = [grad for grad, needed in zip(answer, wanted, strict=False) if needed]
        else:
            answer = node(*(grads.get(i) for i in range(len(node._input_metadata))))
            answer = answer if isinstance(answer, tuple) else (answer,)
            found = [grad for grad, (following, _) in zip(answer, node.next_functions, strict=True) if following]
    return ((edge, grad) for edge, grad in zip(edges, found, strict=True) if grad is not None)
