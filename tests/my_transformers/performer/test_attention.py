"""What PerformerAttention adds to its features and sums: estimates, redrawing, parity with performer_pytorch."""

import copy
import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from stacks import layers, plain_reversible
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from my_custom_ai.custom_train.checkpoint import load_weights, save_weights
from my_transformers import PerformerAttention, ReversibleStack
from my_transformers.performer import attention as performer
from my_transformers.performer.features import log_features

with warnings.catch_warnings():  # it asks for versions in a way of old
    warnings.simplefilter("ignore")
    from performer_pytorch import performer_pytorch as library

causal_or_not = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def heads(n: int, d: int = 8, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k and v (2, 3, n, d), always the same."""
    numbers = torch.randn(3, 2, 3, n, d, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return [x.to(dtype).requires_grad_() for x in (numbers * torch.tensor([scale, scale, 1]).view(3, 1, 1, 1, 1))]


def naive(q: Tensor, k: Tensor, v: Tensor, projection: Tensor, causal: bool, kernel: str = "softmax") -> Tensor:
    phi_q, phi_k = (log_features(x, projection, kernel=kernel).exp() for x in (q, k))
    weights = phi_q @ phi_k.mT
    weights = weights.tril() if causal else weights
    return weights @ v / weights.sum(-1, keepdim=True)


def train_on(attention: PerformerAttention, forwards: int, qkv: Sequence[Tensor] | None = None) -> list[Tensor]:
    """The directions after each of so many training forwards."""
    seen = []
    for _ in range(forwards):
        attention.train()(*(heads(3, d=4) if qkv is None else qkv))
        seen.append(attention.projection.clone())
    return seen


# What it estimates


@pytest.mark.parametrize("settings", [{}, {"kernel": "hyperbolic", "turned": 4}], ids=str)
def test_weights_and_sums_are_unbiased_over_redraws(settings: dict) -> None:
    """Over 2,000 drawings in training: each unnormalised weight, each numerator, each row's sum."""
    draws = 2000
    attention = PerformerAttention(8, n_features=32, redraw_every=1, **settings)
    projections = torch.stack(train_on(attention, draws, torch.zeros(3, 1, 1, 1, 8)))
    q, k, v = (x[0, 0].detach() for x in heads(5, scale=0.5))
    phi_q, phi_k = (log_features(x, projections, kernel=attention.kernel).exp() for x in (q, k))

    def with_sums(weights: Tensor) -> Tensor:
        return torch.cat((weights, weights @ v, weights.sum(-1, keepdim=True)), dim=-1)

    found, exact = with_sums(phi_q @ phi_k.mT), with_sums((q @ k.mT / 8**0.5).exp())
    error = found.std(0) / draws**0.5
    assert (error[:, :5] < 0.02 * exact[:, :5]).all()
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()


def test_output_comes_to_softmax_attention_as_features_grow() -> None:
    """Over 400 seeds: the bias of the normalised output shrinks as 1 / m, and its error as 1 / sqrt(m)."""
    qkv = heads(6, d=4, scale=0.4, dtype=torch.float32)
    exact = nn.functional.scaled_dot_product_attention(*qkv).detach()
    bias, error = [], []
    for m in (4, 32, 256):
        made = (PerformerAttention(4, n_features=m, orthogonal=False, seed=seed) for seed in range(400))
        found = torch.stack([attention(*qkv).detach() for attention in made])
        bias.append((found.mean(0) - exact).square().mean().sqrt().item())
        error.append((found - exact).square().mean().sqrt().item())
    assert bias[1] < 0.35 * bias[0]  # what is left of the last one is chance
    assert bias[2] < 0.5 * bias[1]
    assert error[2] == pytest.approx(error[1] / 8**0.5, rel=0.15)


@causal_or_not
@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic", "relu", "unprojected"])
def test_output_equals_the_formula_with_its_directions(causal: bool, kernel: str) -> None:
    attention = PerformerAttention(8, kernel=kernel, causal=causal, chunk_size=4, seed=3)
    assert attention.n_features == (8 if kernel == "unprojected" else 256)
    if kernel != "unprojected":
        assert attention.projection.shape == (128 if kernel == "hyperbolic" else 256, 8)
    qkv = heads(11)
    phi_q, phi_k = (
        log_features(x, attention.projection, kernel=kernel, epsilon=1e-3 if kernel == "relu" else 0).exp()
        for x in qkv[:2]
    )
    weights = (phi_q @ phi_k.mT).tril() if causal else phi_q @ phi_k.mT
    torch.testing.assert_close(attention(*qkv), weights @ qkv[2] / weights.sum(-1, keepdim=True))


def test_directions_are_orthogonal_unless_asked_otherwise_and_turned_if_asked() -> None:
    for orthogonal in (True, False):
        directions = PerformerAttention(8, n_features=8, orthogonal=orthogonal).projection
        cosines = nn.functional.cosine_similarity(directions[None], directions[:, None], dim=-1)
        assert (cosines.fill_diagonal_(0).abs().max() < 1e-5) == orthogonal
    first, half = PerformerAttention(8, n_features=8, turned=4).projection.unflatten(0, (4, 2))[[0, 2]].unbind(0)
    assert torch.equal(half, first * torch.tensor([1, 1, 1, 1, -1, -1, -1, -1]))


@pytest.mark.parametrize(("chunk_size", "chunks"), [(4, 3), (5, 3), (128, 1)])
def test_causal_attention_works_in_chunks_of_its_size(chunk_size: int, chunks: int) -> None:
    """It keeps for backward one sum, of 32 features' values and weights, for each chunk."""
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):
        PerformerAttention(8, n_features=32, causal=True, chunk_size=chunk_size)(*heads(12))
    assert kept.count((2, 3, 32, 8 + 1)) == chunks


@causal_or_not
def test_another_sample_changes_nothing(causal: bool) -> None:
    """Bit for bit; a system that scales by the largest of a batch fails here."""
    attention = PerformerAttention(8, n_features=32, causal=causal, chunk_size=4)
    q, k, v = (x.detach() for x in heads(11, dtype=torch.float32))
    out = attention(q, k, v)
    k[1] *= 1000
    changed = attention(q, k, v)
    assert torch.equal(changed[0], out[0])
    assert not torch.isclose(changed[1], out[1]).all()


@causal_or_not
def test_half_precision_is_computed_in_single(causal: bool) -> None:
    """Also under autocast: of the same rounded numbers the same output, rounded once at the end."""
    attention = PerformerAttention(8, n_features=32, causal=causal, chunk_size=4)
    exact = heads(11, dtype=torch.bfloat16)
    expected = attention(*(x.float() for x in exact)).bfloat16()
    assert torch.equal(attention(*exact), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention(*exact), expected)
        single = [x.float() for x in exact]
        under = attention(*single)
    assert torch.equal(under, attention(*single))


@causal_or_not
def test_dropout_drops_a_value_for_all_queries_of_a_head(causal: bool) -> None:
    """Unit values, twice side by side, give the weights: each key's column is gone or divided by 1 - p."""
    attention = PerformerAttention(8, n_features=32, causal=causal, dropout=0.5)
    torch.manual_seed(0)
    q, k, _ = heads(12)
    units = torch.eye(12, dtype=torch.float64).repeat(1, 2).expand(2, 3, -1, -1)
    weights = attention.eval()(q, k, units)
    dropped = attention.train()(q, k, units)
    gone = (dropped == 0).all(-2)
    torch.testing.assert_close(dropped, 2 * weights.masked_fill(gone.unsqueeze(-2), 0))
    assert torch.equal(gone[..., :12], gone[..., 12:])  # the whole value
    assert len(gone.flatten(0, 1).unique(dim=0)) > 3  # its own for each sample and head
    assert 0.3 < gone.double().mean() < 0.7


# New directions


def mechanism(causal: bool = False, every: int | None = 2, seed: int = 5, n_features: int = 16) -> PerformerAttention:
    return PerformerAttention(
        4, n_features=n_features, causal=causal, redraw_every=every, seed=seed, chunk_size=4
    ).double()


@pytest.mark.parametrize(
    "settings", [{}, {"kernel": "hyperbolic"}, {"kernel": "relu"}, {"kernel": "unprojected"}], ids=str
)
def test_a_summary_stands_for_its_keys_and_values(settings: dict) -> None:
    attention = PerformerAttention(4, **({} if "unprojected" in settings.values() else {"n_features": 6}), **settings)
    attention = attention.double()
    q, k, v = (torch.randn(3, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 9, 9))
    mask = torch.arange(9) < torch.tensor([[9], [6], [0]])
    keys, values = attention.summarize(k, v, mask)
    assert keys.shape == (3, 2, 1, attention.n_features) and values.shape == (3, 2, attention.n_features, 4)
    expected, out = attention(q, k, v, mask=mask), attention.attend(q, keys, values)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad)
    )


def test_a_summary_of_half_precision_is_in_single_and_drops_values_in_training() -> None:
    attention = PerformerAttention(4, n_features=6, dropout=0.5)
    q, k, v = (torch.randn(1, 2, 6, 4, dtype=torch.bfloat16) for _ in range(3))
    with torch.autocast("cpu"):
        keys, values = attention.eval().summarize(k, v)
        out = attention.attend(q, keys, values)
    assert keys.dtype == values.dtype == torch.float32 and out.dtype == torch.bfloat16
    torch.testing.assert_close(out, attention(q, k, v))
    dropped = attention.train().summarize(k, torch.ones_like(v))[1]
    assert dropped.min() < 1 - 1e-3 or dropped.max() > 1 + 1e-3
    assert attention._forwards == 0


def test_a_causal_performer_has_no_summary() -> None:
    with pytest.raises(ValueError, match="no summary"):
        PerformerAttention(4, n_features=6, causal=True).summarize(torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_new_directions_come_after_so_many_training_forwards(every: int) -> None:
    attention = mechanism(every=every)
    at_first = attention.projection.clone()
    seen = train_on(attention, 9)
    assert torch.equal(seen[0], at_first)
    for i, j in itertools.combinations(range(9), 2):
        assert torch.equal(seen[i], seen[j]) == (i // every == j // every)
    assert attention.projection.dtype == torch.float64


@causal_or_not
def test_a_forward_uses_the_directions_that_it_has_just_drawn(causal: bool) -> None:
    attention = mechanism(causal, every=1)
    qkv = heads(9, d=4)
    for _ in range(3):
        out = attention(*qkv)
        torch.testing.assert_close(out, naive(*qkv, attention.projection, causal))


def test_evaluation_neither_counts_nor_redraws() -> None:
    attention, twin = mechanism(), mechanism()
    seen = []
    for _ in range(6):
        for _ in range(3):
            attention.eval()(*heads(3, d=4))
        seen += train_on(attention, 1)
    assert all(torch.equal(a, b) for a, b in zip(seen, train_on(twin, 6), strict=True))
    before = attention.projection.clone()
    attention.eval()(*heads(3, d=4))  # a redraw would be due
    assert torch.equal(attention.projection, before)


def test_none_keeps_the_first_directions() -> None:
    attention = mechanism(every=None)
    at_first = attention.projection.clone()
    assert all(torch.equal(x, at_first) for x in train_on(attention, 5))


def test_directions_follow_from_seed_and_count_alone() -> None:
    """So all processes draw the same, whatever else they draw; and the global generator stays as it was."""
    torch.manual_seed(1)
    first, before = mechanism(), torch.get_rng_state()
    seen = train_on(first, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(seen, train_on(mechanism(), 6), strict=True))
    for seed in (4, 6, 7):
        others = train_on(mechanism(seed=seed), 6)
        assert not any(torch.isclose(a, b).any() for a in others for b in seen)


@pytest.mark.parametrize("forwards", [0, 1, 2, 5])
def test_a_resumed_training_goes_on_with_the_same_directions(forwards: int, tmp_path: Path) -> None:
    """Through a file, into a module that has drawn others: the ones in use first, then the next."""
    twin, stopped = mechanism(), mechanism()
    seen = train_on(twin, forwards + 6)
    train_on(stopped, forwards)
    assert set(stopped.state_dict()) == {"projection", "_extra_state"}
    save_weights(tmp_path / "weights.safetensors", stopped)
    resumed = mechanism()
    train_on(resumed, 3)
    load_weights(tmp_path / "weights.safetensors", resumed)
    assert torch.equal(resumed.projection, stopped.projection)
    assert all(torch.equal(a, b) for a, b in zip(train_on(resumed, 6), seen[forwards:], strict=True))


def test_loaded_directions_are_used_although_another_seed_draws_others(tmp_path: Path) -> None:
    """Evaluation of a trained model gives what it gave, whatever the seed it is built with."""
    trained, built = mechanism(), mechanism(seed=77)
    train_on(trained, 5)
    save_weights(tmp_path / "weights.safetensors", trained)
    load_weights(tmp_path / "weights.safetensors", built)
    qkv = heads(7, d=4)
    assert torch.equal(built.eval()(*qkv), trained.eval()(*qkv))


def test_unprojected_has_no_directions_to_save(tmp_path: Path) -> None:
    attention = PerformerAttention(4, kernel="unprojected")
    save_weights(tmp_path / "weights.safetensors", attention)
    load_weights(tmp_path / "weights.safetensors", attention)
    assert "projection" not in attention.state_dict()


def reversible(causal: bool) -> ReversibleStack:
    return ReversibleStack(layers(3, lambda i, _: mechanism(causal, every=2, seed=i)), dim=16).double()


def gradients(out: Tensor, stack: nn.Module) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weights).sum(), list(stack.parameters())))


@causal_or_not
def test_a_reversible_stacks_recomputation_neither_counts_nor_redraws(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps, two of them with a redraw in their forward: output and gradients are the plain computation's."""
    stack = reversible(causal)
    plain = copy.deepcopy(stack)
    drawings, draw = [], performer.draw_projection
    monkeypatch.setattr(performer, "draw_projection", lambda *a, **k: drawings.append(a) or draw(*a, **k))
    for step in range(6):
        x = torch.randn(2, 9, 16, dtype=torch.float64)
        drawings.clear()
        out = stack(x)
        assert len(drawings) == (3 if step in (2, 4) else 0)
        drawings.clear()
        found = gradients(out, stack)
        assert not drawings
        expected = plain_reversible(plain, x)
        torch.testing.assert_close(out, expected)
        for a, b in zip(found, gradients(expected, plain), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    counts = [value.item() for name, value in stack.state_dict().items() if name.endswith("_extra_state")]
    assert counts == [6, 6, 6]


@causal_or_not
def test_two_forwards_before_backward_keep_their_own_directions(causal: bool) -> None:
    """Gradient accumulation over a redraw, in a mechanism alone."""
    attention = mechanism(causal, every=1)
    first, second = heads(9, d=4), [x.detach().flip(2).requires_grad_() for x in heads(9, d=4)]
    outs, expected = [], []
    for qkv in (first, second):
        outs.append(attention(*qkv))
        expected.append(naive(*qkv, attention.projection.clone(), causal))
    weights = torch.randn_like(outs[0])
    found, theirs = (torch.autograd.grad(((a + b) * weights).sum(), [*first, *second]) for a, b in (outs, expected))
    for a, b in zip(found, theirs, strict=True):
        torch.testing.assert_close(a, b)


@causal_or_not
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_repeats_a_forward_with_its_features(causal: bool, use_reentrant: bool) -> None:
    """Recomputed forwards are not counted: at each step the gradient is that without checkpointing."""
    kept, recomputed = mechanism(causal, every=2), mechanism(causal, every=2)
    for step in range(5):
        qkv = heads(9, d=4)
        weights = torch.randn_like(qkv[2])
        for attention, out in (
            (kept, kept(*qkv)),
            (recomputed, checkpoint(recomputed, *qkv, use_reentrant=use_reentrant)),
        ):
            (out * weights).sum().backward()
            assert attention.get_extra_state().item() == step + 1
        found = [x.grad for x in qkv]
        for x in qkv:
            x.grad = None
        assert torch.equal(kept.projection, recomputed.projection)
        naive(*qkv, kept.projection, causal).backward(2 * weights)  # as both gradients were added up
        for x, gradient in zip(qkv, found, strict=True):
            torch.testing.assert_close(gradient, x.grad)


def test_two_forwards_of_a_reversible_stack_before_backward_keep_their_own_directions() -> None:
    """The first one's recomputation comes after the second one has redrawn."""
    stack = reversible(causal=True)
    plain = copy.deepcopy(stack)
    xs = torch.randn(3, 2, 9, 16, dtype=torch.float64)
    found = gradients(sum(stack(x) for x in xs), stack)
    expected = gradients(sum(plain_reversible(plain, x) for x in xs), plain)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


# The same as another implementation


def same_as_the_library(ours: PerformerAttention, theirs: nn.Module, n: int = 50) -> None:
    """Outputs and gradients in float64."""
    qkv = heads(n, d=ours.head_dim)
    found, expected = ours(*qkv), theirs(*qkv)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    weights = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad(x, qkv, weights) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.fixture
def without_stabilisers(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], nn.Module]:
    """That library adds 1e-4 to its exponential features and 1e-6 to causal sums, which ours need not."""
    monkeypatch.setattr(library, "softmax_kernel", partial(library.softmax_kernel, eps=0))

    def changed(theirs: nn.Module) -> nn.Module:
        theirs.causal_linear_fn = partial(library.causal_linear_attention_noncuda, eps=0)
        return theirs.double()

    return changed


@causal_or_not
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize(("head_dim", "n_features"), [(16, 44), (32, 24), (64, 256)])
def test_parity_with_performer_pytorch(
    causal: bool, kernel: str, head_dim: int, n_features: int, without_stabilisers: Callable
) -> None:
    theirs = library.FastAttention(
        head_dim, nb_features=n_features, causal=causal, generalized_attention=kernel == "relu"
    )
    ours = PerformerAttention(head_dim, n_features=n_features, kernel=kernel, causal=causal, chunk_size=16).double()
    ours.projection.copy_(theirs.projection_matrix)
    same_as_the_library(ours, without_stabilisers(theirs))


def test_parity_with_performer_pytorch_without_projection(without_stabilisers: Callable) -> None:
    """Causal alone: for all keys that library normalises each feature over the keys instead, another function."""
    theirs = library.FastAttention(16, causal=True, no_projection=True)
    ours = PerformerAttention(16, kernel="unprojected", causal=True, chunk_size=16)
    same_as_the_library(ours, without_stabilisers(theirs))


# What it refuses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "nope"}, "kernel is 'nope', must be one of softmax, hyperbolic"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"n_features": 0}, "n_features is 0"),
        ({"n_features": -4}, "n_features is -4"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"redraw_every": 0}, "redraw_every is 0"),
        ({"turned": 3}, "turned is 3, must be even"),
        ({"turned": 10}, "turned is 10, .* at most head_dim 8"),
        ({"turned": -2}, "turned is -2"),
        ({"kernel": "hyperbolic", "n_features": 33}, "n_features is 33, must be a multiple of 2"),
        ({"turned": 4, "n_features": 30}, "n_features is 30, must be a multiple of 4"),
        ({"turned": 4, "kernel": "hyperbolic", "n_features": 12}, "n_features is 12, must be a multiple of 8"),
        ({"kernel": "unprojected", "n_features": 8}, "takes no n_features"),
        ({"kernel": "unprojected", "redraw_every": 5}, "takes no n_features, redraw_every"),
        ({"epsilon": -1e-3}, "epsilon is -0.001"),
        *(
            ({"kernel": kernel, "epsilon": 0.0}, f"features of '{kernel}' can be 0")
            for kernel in ("relu", "elu", "softplus", "sigmoid", "abs")
        ),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_contradictions_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerformerAttention(**({"head_dim": 8} | settings))


def test_causal_attention_needs_as_many_keys_as_queries() -> None:
    q, k, v = heads(6)
    with pytest.raises(ValueError, match="6 queries and 5 keys"):
        PerformerAttention(8, causal=True)(q, k[:, :, :5], v[:, :, :5])
    across = PerformerAttention(8)(q, k[:, :, :5], v[:, :, :5])
    torch.testing.assert_close(across, naive(q, k[:, :, :5], v[:, :, :5], PerformerAttention(8).projection, False))


@causal_or_not
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_backward_under_autocast_is_that_outside(causal: bool, kernel: str) -> None:
    """A reversible stack's replay runs backward under the forward's autocast; features stay in float32."""
    attention = PerformerAttention(8, n_features=32, causal=causal, kernel=kernel)
    qkv = heads(20, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = attention(*qkv).square().sum()
        inside = torch.autograd.grad(loss, qkv, retain_graph=True)
    for a, b in zip(inside, torch.autograd.grad(loss, qkv), strict=True):
        assert torch.equal(a, b)
