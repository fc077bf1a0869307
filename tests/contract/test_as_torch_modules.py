"""Every mechanism, and stacks around it, behave as torch modules do: odd inputs, transformations, copies."""

import copy
import io
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from mechanisms import BOOKKEEPING, CASES, Case, attend, heads
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from my_transformers import EncoderLayer, EncoderStack, FeedForward, MultiHeadAttention, ReversibleStack

N = 12
REAL = torch.arange(N) < torch.tensor([[9], [N]])
STACKS = (EncoderStack, ReversibleStack)
pairs = [(case, causal) for case in CASES for causal in case.directions]
names = [f"{'causal' if causal else 'bidirectional'}-{case}" for case, causal in pairs]
every = pytest.mark.parametrize(("case", "causal"), pairs, ids=names)
bookkeeping = pytest.mark.parametrize("case", BOOKKEEPING, ids=str)
stacks = pytest.mark.parametrize("stack", STACKS)


def of_real_tokens(out: Tensor) -> Tensor:
    """(b, h, n, e) or (b, n, dim): those of padded queries are of no meaning."""
    return out.mT[..., REAL[0]] if out.dim() == 4 else out[REAL]


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.sum(), inputs, allow_unused=True, materialize_grads=True)


def built(stack: type[nn.Module], case: Case, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        EncoderLayer(
            MultiHeadAttention(case.build(causal=case.directions[-1], dropout=dropout), dim=16, heads=2),
            FeedForward(16, 32, dropout=dropout),
            dim=16,
            dropout=dropout,
        )
        for _ in range(2)
    ]
    return stack(layers, dim=16).double().eval()


@every
def test_masks_of_integers_and_one_for_all_samples(case: Case, causal: bool) -> None:
    """As tokenizers return them, and (1, length)."""
    mechanism, qkv = case.build(causal=causal).eval(), heads(N)
    out = attend(mechanism, *qkv, mask=REAL)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert torch.equal(attend(mechanism, *qkv, mask=REAL.to(dtype)), out)
    wanted = attend(mechanism, *qkv, mask=REAL[:1].expand(2, -1))
    assert torch.equal(attend(mechanism, *qkv, mask=REAL[:1]), wanted)


MASKS = {
    "floating": REAL.double(),
    "additive": (~REAL).float() * -1e9,
    "complex": REAL.to(torch.complex64),
    "too long": nn.functional.pad(REAL, (0, 1), value=True),
    "too short": REAL[:, 1:],
    "one token": REAL[:, :1],
    "queries by keys": REAL[:, None, :].expand(-1, N, -1),
    "one sample": REAL[0],
    "another batch": REAL[[0, 1, 1]],
    "heads": REAL[:, None, None, :],
}


@every
def test_other_masks_are_refused(case: Case, causal: bool) -> None:
    mechanism, qkv = case.build(causal=causal).eval(), heads(N)
    for mask in MASKS.values():
        with pytest.raises(ValueError, match=rf"\(2, {N}\) or \(1, {N}\)"):
            attend(mechanism, *qkv, mask=mask)


@bookkeeping
def test_masks_are_checked_before_a_projection_of_the_length(case: Case) -> None:
    """Which multi-head attention may apply to tokens instead of heads."""
    layer, x = built(EncoderStack, case).layers[0], torch.randn(2, N, 16, dtype=torch.float64)
    torch.testing.assert_close(of_real_tokens(layer(x, mask=REAL.long())), of_real_tokens(layer(x, mask=REAL)))
    with pytest.raises(ValueError, match=rf"\(2, {N}\) or \(1, {N}\)"):
        layer(x, mask=MASKS["too long"])


@every
def test_no_sample_no_token_one_token(case: Case, causal: bool) -> None:
    mechanism = case.build(causal=causal)
    for batch, n in ((2, 0), (0, 0), (0, N), (2, 1)):
        for mask in (None, torch.ones(batch, n, dtype=torch.bool)):
            qkv = [x.requires_grad_() for x in heads(n, batch=batch)]
            out = attend(mechanism, *qkv, mask=mask)
            assert out.shape == qkv[2].shape
            assert all(gradient.isfinite().all() for gradient in gradients(out, qkv))


@bookkeeping
@stacks
@pytest.mark.parametrize(("batch", "n"), [(2, 0), (0, N)])
def test_a_stack_of_no_token(case: Case, stack: type[nn.Module], batch: int, n: int) -> None:
    model, x = built(stack, case), torch.randn(batch, n, 16, dtype=torch.float64, requires_grad=True)
    out = model(x, mask=torch.ones(batch, n, dtype=torch.bool))
    assert out.shape == x.shape
    assert not gradients(out, list(model.parameters()))[0].any()


@every
def test_any_layout_and_any_need_of_gradients(case: Case, causal: bool) -> None:
    """Inputs whose numbers do not follow each other, or overlap; inputs of which one alone wants a gradient."""
    mechanism, qkv = case.build(causal=causal).eval(), heads(N)
    whole = [x.clone().requires_grad_() for x in qkv]
    out = attend(mechanism, *whole, mask=REAL)
    torch.testing.assert_close(attend(mechanism, *(x.mT.contiguous().mT for x in qkv), mask=REAL), out)
    wide = [x[:, :, :1].expand(-1, -1, N, -1) for x in qkv]
    torch.testing.assert_close(attend(mechanism, *wide), attend(mechanism, *(x.clone() for x in wide)))
    for i, wanted in enumerate(gradients(out, whole)):
        if i != 1 or not mechanism.shared_query_key:
            some = [x.clone().requires_grad_(i == j) for j, x in enumerate(qkv)]
            torch.testing.assert_close(gradients(attend(mechanism, *some, mask=REAL), [some[i]])[0], wanted)


WRONG: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "v of another precision": lambda q, k, v: (q, k, v.float()),
    "q of another precision": lambda q, k, v: (q.half(), k, v),
    "integers": lambda q, k, v: (q.long(), k.long(), v.long()),
    "fewer samples": lambda q, k, v: (q, k, v[:1]),
    "fewer heads": lambda q, k, v: (q, k, v[:, :1]),
    "more values": lambda q, k, v: (q, k, torch.cat((v, v), dim=2)),
    "no values": lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]),
    "one sample": lambda q, k, v: (q[0], k[0], v[0]),
    "five axes": lambda q, k, v: (q[None], k[None], v[None]),
}


@every
def test_inputs_that_do_not_fit_are_refused(case: Case, causal: bool) -> None:
    mechanism = case.build(causal=causal).eval()
    for change in WRONG.values():
        with pytest.raises(
            ValueError, match=r"must have one floating-point dtype|attention takes|nothing to attend to"
        ):
            attend(mechanism, *change(*heads(N)))


@every
def test_another_width_or_number_of_heads_works_or_is_refused(case: Case, causal: bool) -> None:
    for d, h in ((8, 3), (16, 2), (1, 2)):
        qkv = heads(N, d=d, h=h)
        try:
            assert attend(case.build(causal=causal).eval(), *qkv).shape == qkv[2].shape
        except ValueError as error:
            assert "attention takes" in str(error) or "the projection was made for" in str(error)


@bookkeeping
def test_tokens_of_another_width_are_refused(case: Case) -> None:
    for stack in STACKS:
        for wrong in (torch.randn(2, N, 15), torch.randn(N, 16), torch.randn(1, 2, N, 16)):
            for module in (built(stack, case), built(stack, case).layers[0].attention):
                with pytest.raises(ValueError, match=r"must be \(batch, length, 16\)"):
                    module(wrong.double())


@every
@pytest.mark.filterwarnings("ignore:There is a performance drop .* the batching rule for aten")
def test_torch_func(case: Case, causal: bool) -> None:
    """``grad`` finds autograd's gradients, ``vmap`` the outputs and gradients of each sample."""
    mechanism = case.build(causal=causal).double().eval()
    qkv = [x.requires_grad_() for x in heads(N)]

    def total(*qkv: Tensor) -> Tensor:
        return of_real_tokens(attend(mechanism, *qkv, mask=REAL)).sum()

    def of_sample(*qkv: Tensor) -> Tensor:
        return attend(mechanism, *(x.unsqueeze(0) for x in qkv)).squeeze(0)

    every_input = (0, 1, 2)
    wanted = gradients(total(*qkv), qkv)
    torch.testing.assert_close(torch.func.grad(total, argnums=every_input)(*qkv), wanted)
    out = attend(mechanism, *qkv)
    torch.testing.assert_close(torch.vmap(of_sample)(*qkv), out)
    of_samples = torch.func.grad(lambda *x: of_sample(*x).sum(), argnums=every_input)
    torch.testing.assert_close(torch.vmap(of_samples)(*qkv), gradients(out, qkv))


@every
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own use of it
def test_forward_mode_is_right_or_refused(case: Case, causal: bool) -> None:
    """Against backward, for the values: sum_i u_i dout_i = sum_j (dL/dv_j) t_j with L = sum_i u_i out_i."""
    mechanism = case.build(causal=causal).double().eval()
    q, k, v = heads(N)
    v.requires_grad_()
    tangent, weights = torch.randn_like(v), torch.randn_like(v)
    (gradient,) = torch.autograd.grad(attend(mechanism, q, k, v), v, weights)
    try:
        _, found = torch.func.jvp(lambda v: attend(mechanism, q, k, v), (v.detach(),), (tangent,))
    except NotImplementedError as error:
        assert "forward AD" in str(error)  # PyTorch's own kernels of full attention
    else:
        torch.testing.assert_close((found * weights).sum(), (gradient * tangent).sum())


@bookkeeping
@stacks
def test_functional_call(case: Case, stack: type[nn.Module]) -> None:
    """Gradients of parameters that are given, as backward finds them in the module."""
    model, x = built(stack, case), torch.randn(2, N, 16, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,), {"mask": REAL})[REAL].square().sum()

    parameters = dict(model.named_parameters())
    found = torch.func.grad(loss)(parameters)
    wanted = gradients(model(x, mask=REAL)[REAL].square(), list(parameters.values()))
    torch.testing.assert_close(tuple(found.values()), wanted)


@bookkeeping
@stacks
def test_second_derivatives_of_a_stack_are_right_or_refused(case: Case, stack: type[nn.Module]) -> None:
    """Of a weighted sum squared: the sum of squares of a stack's last normalisation hardly depends on its input."""
    model, x = built(stack, case), torch.randn(1, 5, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    try:
        right = torch.autograd.gradgradcheck(
            lambda x: (model(x) * weights).sum().square(), [x], atol=1e-4, rtol=1e-3, fast_mode=True
        )
    except RuntimeError as error:
        right = "not supported here" in str(error) or "is not implemented" in str(error)
    assert right


@bookkeeping
@stacks
def test_torch_func_has_second_derivatives(case: Case, stack: type[nn.Module]) -> None:
    """Of the plain form that runs there; against differences of the first ones."""
    model = built(stack, case)
    x, along, to = torch.randn(3, 1, 5, 16, dtype=torch.float64)

    def slope(x: Tensor) -> Tensor:
        return (torch.func.grad(lambda x: model(x).square().sum())(x) * along).sum()

    with sdpa_kernel(SDPBackend.MATH):
        found = (torch.func.grad(slope)(x) * to).sum()
        difference = (slope(x + 1e-5 * to) - slope(x - 1e-5 * to)) / 2e-5
    torch.testing.assert_close(found, difference, rtol=1e-6, atol=1e-6)


@bookkeeping
@stacks
def test_copies_compute_the_same(case: Case, stack: type[nn.Module]) -> None:
    model, x = built(stack, case), torch.randn(2, N, 16, dtype=torch.float64)
    out = model(x, mask=REAL)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(other(x, mask=REAL), out)
    with torch.inference_mode():
        assert torch.equal(model(x, mask=REAL), out)
    assert torch.equal(model(x, mask=REAL), out)  # nothing that is kept has become an inference tensor


@bookkeeping
@stacks
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(case: Case, stack: type[nn.Module], reentrant: bool) -> None:
    """With dropout, the gradient is that of the same draws."""
    model = built(stack, case, dropout=0.2).train()
    x = torch.randn(2, N, 16, dtype=torch.float64, requires_grad=True)
    found = []
    run = partial(model, mask=REAL)
    for forward in (run, partial(checkpoint, run, use_reentrant=reentrant)):
        model.zero_grad()
        x.grad = None
        torch.manual_seed(1)
        forward(x).square().sum().backward()
        found.append([x.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stack"),
    [("linformer-learned", EncoderStack), ("lsh-1", EncoderStack), ("lsh-1", ReversibleStack)],
)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_stacks_compile(name: str, stack: type[nn.Module]) -> None:
    """Training, where a reversible stack is left to Python, and inference, where it is part of the graph.

    Around the mechanism whose projection is applied before heads are made, and the one with operators of its own; the
    contract compiles every mechanism alone.
    """
    torch.compiler.reset()
    model = built(stack, next(case for case in CASES if case.name == name))
    compiled = torch.compile(model, backend="aot_eager")
    for n in (N, 7):
        x = torch.randn(2, n, 16, dtype=torch.float64, requires_grad=True)
        out, wanted = (one(x, mask=REAL[:, :n]) for one in (compiled, model))
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(gradients(out.square(), [x]), gradients(wanted.square(), [x]))
    with torch.no_grad():
        whole = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(whole(x, mask=REAL[:, :n]), model(x, mask=REAL[:, :n]))
