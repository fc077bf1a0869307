"""Each fast form is its definition in my_transformers/reference.py: output and all gradients, in float64."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mechanisms import Defined, attend, declared, heads
from torch import Tensor, nn

from my_transformers import (
    MECHANISMS,
    BlockCausalLinformerAttention,
    ClippedRelativeAttention,
    ConvolutionProjection,
    EncoderLayer,
    FeedForward,
    FullAttention,
    LearnedProjection,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MaxProjection,
    MeanProjection,
    MultiHeadAttention,
    PerformerAttention,
    RelativeAttention,
    ReversibleStack,
    SharedQKAttention,
    extended_dim,
    reference,
)
from my_transformers.lsh.hashing import seeded_rotations

Definition = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(q, k, v, mask) -> output."""
Pair = tuple[nn.Module, Definition]


# Pairs of a mechanism and its definition. Defaults are written out once more, so that both have to agree on them.


def full(*, causal: bool, **_: int) -> Pair:
    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return reference.full_attention(q, k, v, reference.visible_keys(q.shape[2], mask, causal=causal))

    return FullAttention(causal=causal), define


def shared_qk(*, causal: bool, **_: int) -> Pair:
    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return reference.shared_qk_attention(q, v, reference.visible_keys(q.shape[2], mask, causal=causal))

    return SharedQKAttention(causal=causal), define


def local(*, causal: bool, heads: int, head_dim: int, **given: int) -> Pair:
    given = given if not causal else {name: value for name, value in given.items() if name != "ahead"}
    back = given.get("back", 1)
    reach = {"chunk_size": given.get("chunk_size", 64), "back": back, "ahead": given.get("ahead", back)}
    if causal:
        reach["ahead"] = 0

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return reference.local_attention(q, k, v, reference.visible_keys(q.shape[2], mask, causal=causal), **reach)

    return LocalAttention(causal=causal, **given), define


def hashed(qk: Tensor, mask: Tensor, n_buckets: int | None, bucket_size: int, n_rounds: int) -> Tensor:
    """Buckets of a module's own rotations, those of seed 0; ``n_buckets`` None: as many as each sample needs."""
    count = reference.n_buckets(qk.shape[2], bucket_size) if n_buckets is None else n_buckets
    rotations = seeded_rotations(qk, qk.shape[1], n_rounds, qk.shape[3], count, 0, nested=n_buckets is None)
    if n_buckets is None:
        return reference.buckets_by_length(qk, rotations, mask, bucket_size)
    return reference.buckets(qk, rotations)


def lsh(*, causal: bool, heads: int, head_dim: int, rule: str = "bucket", **given: int) -> Pair:
    bucket_size, n_rounds = given.get("bucket_size", 64), given.get("n_rounds", 4)
    max_len = given.get("max_len", 2048 if causal else None)
    n_buckets = given.get("n_buckets", None if max_len is None else reference.n_buckets(max_len, bucket_size))
    window = given.get("window", 2 * bucket_size)

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        buckets = hashed(q.detach(), mask, n_buckets, bucket_size, n_rounds)
        if rule == "bucket":
            return reference.lsh_attention(q, v, buckets, mask, window=window, causal=causal)
        once = given.get("deduplicate", True)
        return reference.lsh_chunk_attention(q, v, buckets, mask, chunk=window, causal=causal, once=once)

    return LSHAttention(causal=causal, rule=rule, **given), define


def performer(
    *, causal: bool, heads: int, head_dim: int, kernel: str = "softmax", epsilon: float = 1e-3, **given: int
) -> Pair:
    mechanism = PerformerAttention(head_dim, kernel=kernel, causal=causal, **given).double()
    if mechanism.projection is not None:
        assert len(mechanism.projection) == given.get("n_features", 256) / (2 if kernel == "hyperbolic" else 1)
    exponential = {
        "softmax": reference.softmax_features,
        "hyperbolic": reference.hyperbolic_features,
        "unprojected": lambda x, _: x.exp(),
    }
    generalised = {
        "relu": nn.functional.relu,
        "elu": lambda x: nn.functional.elu(x) + 1,
        "softplus": nn.functional.softplus,
        "sigmoid": torch.sigmoid,
        "abs": torch.abs,
    }

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        phi = exponential.get(kernel) or partial(reference.generalised_features, f=generalised[kernel], epsilon=epsilon)
        visible = reference.visible_keys(q.shape[2], mask, causal=causal)
        return reference.performer_attention(phi(q, mechanism.projection), phi(k, mechanism.projection), v, visible)

    return mechanism, define


def projections(kind: str, max_len: int, rank: int, heads: int, head_dim: int) -> tuple[nn.Module, Callable]:
    """A projection and its definition."""
    window = math.ceil(max_len / rank)
    if kind.startswith("learned"):
        made = LearnedProjection(max_len, rank, heads=heads if kind == "learned-heads" else None).double()
        return made, lambda x, mask: reference.matrix_projection(x, mask, made.weight)
    if kind == "mean":
        made, reduce = MeanProjection(max_len, rank), reference.mean
    elif kind == "max":
        made, reduce = MaxProjection(max_len, rank), reference.maximum
    else:
        made = ConvolutionProjection(
            max_len, rank, head_dim=head_dim, heads=heads if kind == "convolution-heads" else None
        ).double()
        reduce = partial(reference.convolution, W=made.weight)
    return made, lambda x, mask: reference.window_projection(x, mask, reduce, rank=rank, window=window)


def linformer(
    *, causal: bool, heads: int, head_dim: int, rank: int = 5, window: int = 16, kinds: tuple[str, ...] = ("learned",)
) -> Pair:
    """Projections of rank * window tokens to ``rank``; one kind: keys and values share it."""
    made = [projections(kind, rank * window, rank, heads, head_dim) for kind in kinds]
    E, F = made[0][1], made[-1][1]

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        if causal:
            return reference.block_causal_linformer_attention(q, k, v, mask, E, F, block_size=rank * window)
        return reference.linformer_attention(q, k, v, mask, E, F)

    mechanism = BlockCausalLinformerAttention if causal else LinformerAttention
    return mechanism(*(projection for projection, _ in made)), define


def relative(*, causal: bool, heads: int, head_dim: int, **given: int) -> Pair:
    mechanism = strong(RelativeAttention(FullAttention(causal=causal), heads=heads, head_dim=head_dim, **given))

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        visible = reference.visible_keys(q.shape[2], mask, causal=causal)
        return reference.relative_attention(q, k, v, visible, *positions(mechanism, q.shape[2], given))

    return mechanism, define


def positions(mechanism: RelativeAttention, n: int, given: dict) -> tuple[Tensor, ...]:
    """The last arguments of reference.relative_logits."""
    x, placed = reference.places(n, given.get("columns"), given.get("off_grid", 0))
    heads, _, waves = mechanism.coefficients.shape
    assert waves == given.get("n_scales", 4) * x.shape[1]
    nothing = torch.zeros(heads, mechanism.head_dim, 2 * waves, dtype=torch.float64)
    by_content = mechanism.by_content if given.get("content", True) else nothing
    return x, placed, mechanism.frequencies, mechanism.coefficients, by_content


def clipped_relative(*, causal: bool, heads: int, head_dim: int, distance: int = 8, **given: int) -> Pair:
    settings = given if distance == 8 else {"distance": distance, **given}
    inside = FullAttention(causal=causal)
    mechanism = strong(ClippedRelativeAttention(inside, heads=heads, head_dim=head_dim, **settings))
    mechanism.gate.data *= 12  # so that some gates are shut

    def define(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        visible = reference.visible_keys(q.shape[2], mask, causal=causal)
        first, second = zip(*(x.tensor_split((heads - heads // 2,), dim=1) for x in (q, k, v)), strict=True)
        x, placed = reference.places(q.shape[2], given.get("columns"), given.get("off_grid", 0))
        e = torch.cat((mechanism.displacements, mechanism.nowhere), dim=-1)
        by_place = reference.clipped_relative_attention(
            *second, visible, x, placed, e, mechanism.gate, distance=distance
        )
        return torch.cat((reference.full_attention(*first, visible), by_place), dim=1)

    return mechanism, define


def strong(mechanism: nn.Module) -> nn.Module:
    """With parameters that matter, none like another."""
    for parameter in mechanism.double().parameters():
        nn.init.normal_(parameter, std=0.7)
    return mechanism


# What is drawn


def each(**strategies: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(strategies)


SIZES = st.integers(1, 12)
ROUNDS = st.integers(1, 4)
GRIDS = {"columns": st.sampled_from([None, 1, 4, 7]), "off_grid": st.integers(0, 2)}
KINDS = ["learned", "learned-heads", "mean", "max", "convolution", "convolution-heads"]
PROJECTED = each(
    rank=st.integers(5, 8), window=st.integers(14, 16), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2)
)
BLOCKS = each(
    rank=st.integers(1, 4), window=st.integers(1, 6), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2)
)
CASES = {
    "full": Defined(full),
    "shared_qk": Defined(shared_qk),
    "local": Defined(local, each(chunk_size=SIZES, back=st.integers(0, 3), ahead=st.integers(0, 3))),
    "lsh": Defined(lsh, each(n_buckets=st.sampled_from([1, 2, 4, 8]), n_rounds=ROUNDS, window=SIZES)),
    "lsh-by-length": Defined(lsh, each(bucket_size=SIZES, n_rounds=ROUNDS), directions=(False,)),
    "lsh-max-len": Defined(lsh, each(bucket_size=SIZES, n_rounds=ROUNDS, max_len=st.integers(1, 70))),
    "lsh-chunk": Defined(
        partial(lsh, rule="chunk"),
        each(n_buckets=st.sampled_from([1, 2, 4, 8]), n_rounds=ROUNDS, window=SIZES, deduplicate=st.booleans()),
    ),
    "linformer": Defined(linformer, PROJECTED, directions=(False,)),
    "causal_linformer": Defined(linformer, BLOCKS, directions=(True,)),
    **{
        f"performer-{kernel}": Defined(
            partial(performer, kernel=kernel), each(chunk_size=SIZES, n_features=st.sampled_from([2, 6, 32]))
        )
        for kernel in ("softmax", "hyperbolic", "relu", "elu", "softplus", "sigmoid", "abs")
    },
    "performer-unprojected": Defined(partial(performer, kernel="unprojected"), each(chunk_size=SIZES)),
    "relative": Defined(relative, each(n_scales=st.integers(1, 4), content=st.booleans(), **GRIDS)),
    "clipped_relative": Defined(clipped_relative, each(distance=st.integers(1, 4), **GRIDS)),
}
for definitions in declared("DEFINITIONS"):
    CASES |= definitions
DIRECTIONS = [(name, causal) for name, case in CASES.items() for causal in case.directions]
every = pytest.mark.parametrize(
    ("name", "causal"), DIRECTIONS, ids=[f"{name}-{'causal' if causal else 'both'}" for name, causal in DIRECTIONS]
)


def drawn_mask(batch: int, m: int, seed: int) -> Tensor:
    """(batch, m) with at least one real token a sample, the first sample padded at its end as batches are."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, m, generator=generator) < 0.7
    mask[0] = torch.arange(m) < m - seed % m
    mask[range(batch), torch.randint(m, (batch,), generator=generator)] = True
    return mask


def assert_same(pair: Pair, qkv: list[Tensor], mask: Tensor | None, *, real: Tensor) -> None:
    """Outputs at the real queries (b or 1, n), and their gradients by q, k, v and every parameter."""
    mechanism, define = pair
    qkv = [x.requires_grad_() for x in qkv]
    whole = torch.ones(qkv[1].shape[::2], dtype=torch.bool)
    inputs = [*qkv, *mechanism.parameters()]
    outs = attend(mechanism.eval(), *qkv, mask=mask), define(*qkv, whole if mask is None else mask)
    weights = torch.randn_like(outs[0]) * real[:, None, :, None]
    ours, theirs = (
        [out * real[:, None, :, None], *torch.autograd.grad(out, inputs, weights, materialize_grads=True)]
        for out in outs
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@every
@settings(max_examples=12, deadline=None)
@given(data=st.data(), n=st.integers(1, 70), seed=st.integers(0, 999), padded=st.booleans())
def test_equals_its_definition(name: str, causal: bool, data: st.DataObject, n: int, seed: int, padded: bool) -> None:
    case = CASES[name]
    batch, h, d = data.draw(st.tuples(st.integers(1, 3), st.integers(2, 3), st.sampled_from([3, 8])), label="sizes")
    torch.manual_seed(seed)
    pair = case.make(causal=causal, heads=h, head_dim=d, **data.draw(case.drawn, label="settings"))
    mask = drawn_mask(batch, n, seed) if padded else None
    real = torch.ones(1, n) if mask is None else mask
    assert_same(pair, heads(n, seed=seed, batch=batch, h=h, d=d), mask, real=real)


@every
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("n", [1, 65, 300])
def test_equals_its_definition_at_the_defaults(name: str, causal: bool, padded: bool, n: int) -> None:
    """LSH has several buckets from 65 tokens on."""
    n = min(n, 80) if name == "linformer" else n  # linformer() makes projections of 80 tokens
    mask = drawn_mask(2, n, seed=7) if padded else None
    torch.manual_seed(n)
    pair = CASES[name].make(causal=causal, heads=2, head_dim=8)
    assert_same(pair, heads(n, seed=1), mask, real=torch.ones(1, n) if mask is None else mask)


def can_cross(case: Defined) -> bool:
    return False in case.directions and case.make(causal=False, heads=2, head_dim=8)[0].cross


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if can_cross(case)])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 30), m=st.integers(1, 70), seed=st.integers(0, 999))
def test_equals_its_definition_across_to_a_context(name: str, n: int, m: int, seed: int) -> None:
    """Queries are as many as they like; a context has at least one real token."""
    torch.manual_seed(seed)
    pair = CASES[name].make(causal=False, heads=2, head_dim=8)
    q, _, v = heads(m, seed=seed)
    qkv = [heads(n, seed=seed + 1)[0], q, v]
    assert_same(pair, qkv, drawn_mask(2, m, seed), real=torch.ones(1, n))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("columns", [None, 6])
def test_relative_performer_is_a_performer_of_the_defined_logits(causal: bool, columns: int | None) -> None:
    """By default there are random features inside: of queries and keys whose product is the defined logit."""
    longer = extended_dim(8, 4, columns)
    inside, by_definition = performer(causal=causal, heads=2, head_dim=longer, n_features=32)
    mechanism = RelativeAttention(inside, heads=2, head_dim=8, columns=columns, off_grid=1).double().eval()
    handed = []
    inside.register_forward_pre_hook(lambda _, args: handed.extend(args))
    qkv = heads(40)
    out = mechanism(*qkv)
    q, k, v = handed
    logits = reference.relative_logits(*qkv[:2], *positions(mechanism, 40, {"columns": columns, "off_grid": 1}))
    torch.testing.assert_close(q @ k.mT / longer**0.5, logits, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out, by_definition(q, k, v, torch.ones(2, 40).bool()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("mechanism", [FullAttention, LSHAttention])
def test_reversible_stack_is_its_blocks_and_can_be_inverted(depth: int, mechanism: type) -> None:
    torch.manual_seed(0)
    layers = [
        EncoderLayer(MultiHeadAttention(mechanism(causal=True), dim=16, heads=2), FeedForward(16, 32), dim=16)
        for _ in range(depth)
    ]
    stack = ReversibleStack(layers, dim=16).double().eval()
    x = torch.randn(2, 23, 16, dtype=torch.float64, requires_grad=True)
    y1 = y2 = x
    for layer in layers:
        y1, y2 = reference.reversible_block(y1, y2, layer.attend, layer.transform)
    outs = stack(x), stack.final_norm((y1 + y2) / 2)
    weights = torch.randn_like(x)
    ours, theirs = ([out, *torch.autograd.grad(out, [x, *stack.parameters()], weights)] for out in outs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    for layer in reversed(layers):
        y1, y2 = reference.inverse_of_reversible_block(y1, y2, layer.attend, layer.transform)
    torch.testing.assert_close(y1, x)
    torch.testing.assert_close(y2, x)


def test_every_mechanism_is_held_to_a_definition() -> None:
    """TransformersLSHAttention alone is not: it is another library's function, for models that it trained."""
    made = {type(case.make(causal=case.directions[0], heads=2, head_dim=8)[0]).__name__ for case in CASES.values()}
    assert made == {mechanism.__name__ for mechanism in MECHANISMS} - {"TransformersLSHAttention"}
