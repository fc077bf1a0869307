"""The definitions themselves: against PyTorch, against other libraries, token by token, and by hand."""

import ast
import re
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from linformer import LinformerSelfAttention
from local_attention import LocalAttention
from reformer_pytorch import reformer_pytorch
from reformer_pytorch.reversible import ReversibleBlock
from torch import Tensor, nn

import my_transformers
from my_transformers import MECHANISMS, reference

with warnings.catch_warnings():  # it asks for versions in a deprecated way
    warnings.simplefilter("ignore")
    from performer_pytorch import performer_pytorch

ROOT = Path(my_transformers.__file__).parents[1]
causal_or_not = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def random(*shape: int, count: int = 1) -> list[Tensor]:
    """``count`` tensors, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(count)]


def everything(n: int, *, causal: bool) -> Tensor:
    return reference.visible_keys(n, torch.ones(1, n, dtype=torch.bool), causal=causal)


def assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor], *, precision: float = 1e-10) -> None:
    """Outputs and gradients."""
    torch.testing.assert_close(ours, theirs, rtol=precision, atol=precision)
    weights = torch.randn_like(ours)
    grads = (torch.autograd.grad(out, inputs, weights) for out in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=precision, atol=precision)


# Full, local and shared query-key attention


def test_a_query_that_sees_no_key_sees_itself() -> None:
    visible = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert torch.equal(reference.or_itself(visible), torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1]]).bool())
    v = random(1, 1, 3, 4)[0]
    out = reference.full_attention(v, v, v, visible)
    torch.testing.assert_close(out, v[:, :, [0, 0, 2]])


def test_visible_keys_by_hand() -> None:
    mask = torch.tensor([[True, False, True]])
    both, before = (reference.visible_keys(3, mask, causal=causal)[0, 0].int().tolist() for causal in (False, True))
    assert both == [[1, 0, 1]] * 3
    assert before == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]


@causal_or_not
def test_full_attention_is_pytorchs(causal: bool) -> None:
    q, k, v = random(2, 3, 11, 4, count=3)
    visible = everything(11, causal=causal) & (torch.rand(2, 1, 11, 11) < 0.7) | torch.eye(11).bool()
    assert_same(
        reference.full_attention(q, k, v, visible),
        F.scaled_dot_product_attention(q, k, v, attn_mask=visible),
        [q, k, v],
    )


@causal_or_not
def test_shared_query_key_attention_is_reformer_pytorchs(causal: bool) -> None:
    qk, v = random(2, 11, 4, count=2)
    theirs, *_ = reformer_pytorch.FullQKAttention(causal=causal)(qk, v)
    ours = reference.shared_qk_attention(qk[:, None], v[:, None], everything(11, causal=causal)).squeeze(1)
    assert_same(ours, theirs, [qk, v])


@causal_or_not
@pytest.mark.parametrize("reach", [(1, 0), (2, 1), (0, 2)])
def test_local_attention_is_the_local_attention_librarys(causal: bool, reach: tuple[int, int]) -> None:
    back, ahead = reach[0], 0 if causal else reach[1]
    q, k, v = random(2, 3, 20, 6, count=3)
    theirs = LocalAttention(4, causal=causal, look_backward=back, look_forward=ahead)(q, k, v)
    visible = everything(20, causal=causal)
    ours = reference.local_attention(q, k, v, visible, chunk_size=4, back=back, ahead=ahead)
    assert_same(ours, theirs, [q, k, v])


# LSH attention


def test_buckets_by_hand() -> None:
    """Two directions, the axes of the plane: four buckets, a quarter turn each."""
    qk = torch.tensor([[3.0, 1.0], [1.0, 3.0], [-3.0, 1.0], [1.0, -3.0]]).view(1, 1, 4, 2)
    assert reference.buckets(qk, torch.eye(2).view(1, 1, 2, 2)).tolist() == [[[[0, 1, 2, 3]]]]
    assert reference.buckets(qk, torch.eye(2)[:, :1].view(1, 1, 2, 1)).tolist() == [[[[0, 0, 1, 0]]]]
    assert reference.buckets(qk, torch.eye(2)[:, :0].view(1, 1, 2, 0)).tolist() == [[[[0, 0, 0, 0]]]]


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 4), (32, 4), (33, 6)])
def test_number_of_buckets_by_hand(length: int, expected: int) -> None:
    assert reference.n_buckets(length, 8) == expected


def test_each_sample_has_the_buckets_of_its_real_tokens() -> None:
    (qk,) = random(3, 2, 40, 4)
    (rotations,) = random(2, 3, 4, 3)
    mask = torch.arange(40) < torch.tensor([[40], [17], [8]])
    found = reference.buckets_by_length(qk, rotations, mask, 8)
    for b, directions in enumerate((3, 2, 0)):  # 6, 4 and 1 buckets
        assert torch.equal(found[b : b + 1], reference.buckets(qk[b : b + 1], rotations[..., :directions]))


def test_the_rules_by_hand() -> None:
    """Tokens 0, 2, 3 and 5 share a bucket, 1 and 4 the other, and 6 is padding: sorted 0 2 3 5 1 4 6."""
    hashes = torch.tensor([0, 1, 0, 0, 1, 0, 0]).view(1, 1, 1, 7)
    places = reference.sorted_places(hashes, torch.arange(7).view(1, 7) < 6)
    assert places.flatten().tolist() == [0, 4, 1, 2, 5, 3, 6]
    within_two = reference.bucket_rule(hashes, places, 2).view(7, 7)[:6, :6]
    assert [row.nonzero().flatten().tolist() for row in within_two] == [
        [0, 2, 3],
        [1, 4],
        [0, 2, 3, 5],
        [0, 2, 3, 5],
        [1, 4],
        [2, 3, 5],
    ]
    chunks_of_two = reference.chunk_rule(hashes, places, 2).view(7, 7)[:6, :6]  # 0 2 | 3 5 | 1 4
    assert [row.nonzero().flatten().tolist() for row in chunks_of_two] == [
        [0, 2],
        [1, 4],
        [0, 2],
        [0, 2, 3, 5],
        [1, 4],
        [0, 2, 3, 5],
    ]


@pytest.mark.parametrize("rule", ["bucket", "chunk"])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 25), window=st.integers(1, 30), seed=st.integers(0, 999))
def test_the_rules_token_by_token(rule: str, n: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hashes = torch.randint(0, 4, (2, 2, 3, n), generator=generator)
    mask = torch.rand(2, n, generator=generator) < 0.8
    shown = {"bucket": reference.bucket_rule, "chunk": reference.chunk_rule}[rule](
        hashes, reference.sorted_places(hashes, mask), window
    )
    for b, h, r in ((b, h, r) for b in range(2) for h in range(2) for r in range(3)):
        bucket = hashes[b, h, r].tolist()
        order = sorted(mask[b].nonzero().flatten().tolist(), key=lambda t, bucket=bucket: (bucket[t], t))
        for place_i, i in enumerate(order):
            for place_j, j in enumerate(order):
                back = place_i - place_j if rule == "bucket" else place_i // window - place_j // window
                near = abs(back) <= window if rule == "bucket" else back in (0, 1)
                assert shown[b, h, r, i, j] == (near and bucket[i] == bucket[j])


@causal_or_not
@pytest.mark.parametrize("once", [False, True])
def test_the_chunk_rule_is_reformer_pytorchs(causal: bool, once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    qk, v = random(2, 64, 6, count=2)
    (rotations,) = random(1, 6, 3, 4)
    theirs = reformer_pytorch.LSHAttention(
        bucket_size=8, n_hashes=3, causal=causal, attend_across_buckets=False, allow_duplicate_attention=not once
    )
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_, **__: rotations)
        their_out, *_ = theirs(qk, v)
    hashes = reference.buckets(qk.detach()[:, None], rotations.transpose(1, 2))
    mask = torch.ones(2, 64, dtype=torch.bool)
    ours = reference.lsh_chunk_attention(qk[:, None], v[:, None], hashes, mask, chunk=8, causal=causal, once=once)
    assert_same(ours.squeeze(1), their_out, [qk, v], precision=1e-7)  # they add 1e-9 to N_ij


@causal_or_not
def test_lsh_attention_sees_the_union_of_its_rounds_once(causal: bool) -> None:
    """Softmax attention to the tokens of a matrix written by hand; the third round repeats the first."""
    hashes = torch.tensor([[0, 1, 0, 0, 1], [0, 0, 1, 0, 1], [0, 1, 0, 0, 1]]).view(1, 1, 3, 5)
    qk, v = random(1, 1, 5, 4, count=2)
    seen = torch.tensor(
        [[0, 1, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 0, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0]], dtype=torch.bool
    )
    seen = seen.tril() if causal else seen
    seen[0, 0] = causal  # it sees nobody else
    mask = torch.ones(1, 5, dtype=torch.bool)
    ours = reference.lsh_attention(qk, v, hashes, mask, window=1, causal=causal)
    theirs = F.scaled_dot_product_attention(qk, F.normalize(qk, dim=-1), v, attn_mask=seen)
    assert_same(ours, theirs, [qk, v])


# Linformer


def test_linformer_is_the_linformer_librarys() -> None:
    theirs = LinformerSelfAttention(8, seq_len=10, k=4, heads=2).double()
    for linear in (theirs.to_q, theirs.to_k, theirs.to_v, theirs.to_out):
        nn.init.eye_(linear.weight)
    nn.init.zeros_(theirs.to_out.bias)
    (x,) = random(3, 7, 8)
    q = x.unflatten(-1, (2, 4)).transpose(1, 2)
    E, F = (partial(reference.matrix_projection, E=matrix.T.unsqueeze(0)) for matrix in (theirs.proj_k, theirs.proj_v))
    ours = reference.linformer_attention(q, q, q, torch.ones(3, 7, dtype=torch.bool), E, F)
    assert_same(ours.transpose(1, 2).flatten(2), theirs(x), [x, theirs.proj_k, theirs.proj_v])


def test_windows_are_pytorchs_pooling_and_convolution() -> None:
    """The last window is not full; an empty one is no token."""
    (x,) = random(2, 3, 10, 4)
    (W,) = random(1, 4, 4, 4)
    whole = torch.ones(2, 10, dtype=torch.bool)
    lines = x.flatten(0, 1).mT  # (b h, d, n)
    kernel = W[0].permute(2, 1, 0)
    for reduce, theirs in (
        (reference.mean, F.avg_pool1d(lines, 4, ceil_mode=True)),
        (reference.maximum, F.max_pool1d(lines, 4, ceil_mode=True)),
        (partial(reference.convolution, W=W), F.conv1d(F.pad(lines, (0, 2)), kernel, stride=4)),
    ):
        ours, real = reference.window_projection(x, whole, reduce, rank=4, window=4)
        assert_same(ours[:, :, :3], theirs.mT.unflatten(0, (2, 3)), [x])
        assert real.tolist() == [[True, True, True, False]] * 2


def test_block_causal_linformer_is_causal_attention_with_the_identity_or_one_block() -> None:
    q, k, v = random(2, 3, 14, 4, count=3)
    mask = torch.rand(2, 14) < 0.7
    mask[:, 0] = True
    E = partial(reference.matrix_projection, E=random(1, 2, 14)[0])
    identity = partial(reference.window_projection, reduce=reference.mean, rank=4, window=1)
    for projection, block_size in ((E, 14), (identity, 4)):
        ours = reference.block_causal_linformer_attention(q, k, v, mask, projection, projection, block_size=block_size)
        theirs = reference.full_attention(q, k, v, reference.visible_keys(14, mask, causal=True))
        assert_same(ours, theirs, [q, k, v])


# Performer


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_performer_is_performer_pytorchs(kernel: str) -> None:
    q, k, v = random(2, 3, 9, 4, count=3)
    (omega,) = random(7, 4)
    if kernel == "softmax":
        phi = partial(reference.softmax_features, omega=omega)
        their_q, their_k = (
            performer_pytorch.softmax_kernel(x, projection_matrix=omega, is_query=x is q, eps=0) for x in (q, k)
        )
    else:
        phi = partial(reference.generalised_features, omega=omega, f=F.relu, epsilon=1e-3)
        their_q, their_k = (performer_pytorch.generalized_kernel(x, projection_matrix=omega) for x in (q, k))
    theirs = performer_pytorch.linear_attention(their_q, their_k, v)
    assert_same(reference.performer_attention(phi(q), phi(k), v, everything(9, causal=False)), theirs, [q, k, v])


@pytest.mark.parametrize("features", [reference.softmax_features, reference.hyperbolic_features])
def test_features_estimate_the_softmax_kernel(features: object) -> None:
    """Lemma 1, within five standard errors, of 200 draws of 1,000 directions."""
    q, k = (x.detach() / 2 for x in random(1, 1, 4, 6, count=2))
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(1000, 6, generator=generator, dtype=torch.float64) for _ in range(200)]
    found = torch.stack([features(q, omega) @ features(k, omega).mT for omega in draws])
    exact = (q @ k.mT / 6**0.5).exp()
    assert ((found.mean(0) - exact).abs() < 5 * found.std(0) / 200**0.5).all()
    assert (found.std(0) / 200**0.5 < 0.01 * exact).all()


# Relative positions and the reversible block


def test_relative_logits_and_clipped_weights_of_one_pair_by_hand() -> None:
    """Token 6 of a grid of three columns behind one token without a place stands at (1, 2), token 2 at (0, 1)."""
    q, k = random(1, 1, 7, 4, count=2)
    x, placed = reference.places(7, 3, 1)
    assert x[[6, 2]].tolist() == [[1, 2], [0, 1]]
    assert placed.tolist() == [False] + [True] * 6
    (w,) = random(2, 1)
    (constant,) = random(1, 2, 2)
    (by_content,) = random(1, 4, 4)
    logits = reference.relative_logits(q, k, x, placed, w, constant, by_content)[0, 0]
    q6, k2 = q[0, 0, 6], k[0, 0, 2]
    a_row, a_column, b_row, b_column = constant[0].flatten() + q6 @ by_content[0]
    expected = q6 @ k2 / 2 + a_row * w[0].cos() + b_row * w[0].sin() + a_column * w[1].cos() + b_column * w[1].sin()
    torch.testing.assert_close(logits[6, 2], expected[0])
    torch.testing.assert_close(logits[6, 0], q6 @ k[0, 0, 0] / 2)

    (e,), (u,) = random(1, 4, 9 + 2), random(1, 4, 1)
    v = torch.eye(7, dtype=torch.float64).view(1, 1, 7, 7)
    visible = everything(7, causal=False)
    weights = reference.clipped_relative_attention(q, k, v, visible, x, placed, e, u, distance=1)[0, 0]

    def ratio(i: int, j: int, vector: int) -> Tensor:
        """The weight but for the row's sum, of the vector with this number."""
        return (q[0, 0, i] @ e[0, :, vector] / 2).exp() * (k[0, 0, j] @ u[0, :, 0] / 2).sigmoid()

    # seen from (1, 2): (0, 1) is up and left, (0, 0) too far to the left, (1, 1) left, token 0 nowhere
    for j, vector in ((2, 0), (1, 0), (5, 3), (6, 4), (0, 9)):
        torch.testing.assert_close(weights[6, j] / weights[6, 3], ratio(6, j, vector) / ratio(6, 3, 1))
    torch.testing.assert_close(weights[0, 4] / weights[0, 0], ratio(0, 4, 10) / ratio(0, 0, 9))


def test_reversible_block_is_reformer_pytorchs_and_its_inverse_undoes_it() -> None:
    attend, transform = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    x1, x2 = random(2, 5, 4, count=2)
    y = reference.reversible_block(x1, x2, attend, transform)
    theirs = ReversibleBlock(attend, transform)(torch.cat((x1, x2), dim=-1))
    torch.testing.assert_close(torch.cat(y, dim=-1), theirs)
    for a, b in zip(reference.inverse_of_reversible_block(*y, attend, transform), (x1, x2), strict=True):
        torch.testing.assert_close(a, b)


# The way to it


def test_it_imports_nothing_of_the_fast_code() -> None:
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert names == {"math", "collections.abc", "torch"}


DEFINED = [one.__name__ for one in MECHANISMS if one.__name__ != "TransformersLSHAttention"]


@pytest.mark.parametrize("name", [*DEFINED, "ReversibleStack"])
def test_docstrings_name_the_definition(name: str) -> None:
    named = re.search(r"Definition: my_transformers/reference\.py, (.+)\.\n", getattr(my_transformers, name).__doc__)
    assert all(callable(getattr(reference, function)) for function in named[1].split(", "))
