"""Random directions and features, against their formulas and, over many draws, against what theory expects.

The generators are seeded, so a statistical test gives the same answer each time.
"""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from my_transformers.performer.features import draw_projection, log_features
from my_transformers.performer.settings import KERNELS

DRAWS = 2000
FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x + 1 if x > 0 else math.exp(x),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "abs": abs,
}


def drawn(n: int, d: int, *, draws: int = DRAWS, seed: int = 0, **settings: object) -> Tensor:
    """(draws, n, d) in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw_projection(n, d, generator=generator, **settings) for _ in range(draws)]).double()


def pairs(d: int, length: float, n: int = 64) -> tuple[Tensor, Tensor]:
    """Queries and keys (n, d); the scaled sum z = x' + y' of query i and key i has the given length."""
    q, k = torch.randn(2, n, d, generator=torch.Generator().manual_seed(3), dtype=torch.float64).unbind(0)
    both = (q + k).norm(dim=-1, keepdim=True) / d**0.25
    return q * length / both, k * length / both


def estimates(q: Tensor, k: Tensor, projections: Tensor, **settings: object) -> Tensor:
    """Phi(q) . phi(k) for each draw: (draws, n, m)."""
    return torch.stack([_product(q, k, p, **settings) for p in projections])


def _product(q: Tensor, k: Tensor, projection: Tensor, **settings: object) -> Tensor:
    return log_features(q, projection, **settings).exp() @ log_features(k, projection, **settings).exp().mT


def softmax_kernel(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).exp()


@pytest.mark.parametrize(
    "settings",
    [{"orthogonal": True}, {"orthogonal": False}, {"turned": 4}, {"turned": 4, "orthogonal": False}],
    ids=str,
)
def test_each_direction_is_standard_normal(settings: dict) -> None:
    """Every number N(0, 1), every norm chi, none correlated with another of its direction; 16 rows are 2.7 blocks."""
    directions = drawn(16, 6, **settings)
    for row in directions.unbind(1):
        assert min(stats.kstest(number, "norm").pvalue for number in row.T.numpy()) > 1e-4
        assert stats.kstest(row.norm(dim=-1).numpy(), stats.chi(6).cdf).pvalue > 1e-4
        assert (row.mean(0).abs() < 5 / DRAWS**0.5).all()
        covariance = row.T @ row / DRAWS
        spread = (torch.ones(6, 6) + torch.eye(6)) ** 0.5  # of x_i x_j
        assert ((covariance - torch.eye(6)).abs() < 5 * spread / DRAWS**0.5).all()


def test_orthogonal_directions_are_orthogonal_inside_a_block_and_independent_across() -> None:
    directions = drawn(15, 6)
    unit = directions / directions.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.mT
    block = torch.arange(15) // 6
    alike = block[:, None] == block
    assert cosines[:, alike & ~torch.eye(15, dtype=torch.bool)].abs().max() < 1e-6
    squares = cosines[:, ~alike].square()
    assert squares.mean().item() == pytest.approx(1 / 6, abs=5 * squares.mean(1).std().item() / DRAWS**0.5)
    norms = torch.corrcoef(directions.norm(dim=-1).T) - torch.eye(15)
    assert norms.abs().max() < 5 / DRAWS**0.5  # lengths are independent, also inside a block


def test_independent_directions_are_not_orthogonal() -> None:
    directions = drawn(6, 6, orthogonal=False)
    unit = directions / directions.norm(dim=-1, keepdim=True)
    squares = (unit @ unit.mT)[:, *torch.triu_indices(6, 6, 1)].square()
    assert squares.mean().item() == pytest.approx(1 / 6, abs=5 * squares.mean(1).std().item() / DRAWS**0.5)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_turned_directions_come_four_times_by_quarter_turns(orthogonal: bool) -> None:
    """As complex numbers, cosines real and sines imaginary, a quarter turn is a factor i."""
    directions = drawn(12, 7, draws=1, turned=4, orthogonal=orthogonal)[0].unflatten(0, (4, 3))
    position = torch.complex(directions[..., 3:5], directions[..., 5:7])
    for quarter in range(4):
        assert torch.equal(directions[quarter, :, :3], directions[0, :, :3])
        assert torch.equal(position[quarter], position[0] * 1j**quarter)
    assert len(directions[0].unique(dim=0)) == 3


def test_turned_features_do_not_change_when_all_positions_move_by_a_quarter_turn() -> None:
    x = torch.randn(5, 7, dtype=torch.float64)
    moved = torch.cat((x[:, :3], -x[:, 5:], x[:, 3:5]), dim=-1)
    projection = draw_projection(12, 7, turned=4)
    before, after = (log_features(y, projection).sort(dim=-1).values for y in (x, moved))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("settings", [{}, {"orthogonal": False}, {"turned": 2}], ids=str)
def test_directions_follow_from_the_generator(settings: dict) -> None:
    before = torch.get_rng_state()
    first, again, other = (drawn(8, 4, draws=2, seed=s, **settings) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.isclose(first, other).any()
    assert not torch.isclose(first[0], first[1]).any()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(draw_projection(8, 4, **settings).double(), first[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_features_equal_their_formula(kernel: str) -> None:
    """Written out number by number."""
    d, epsilon = 5, 0.01
    projection = draw_projection(3, d, generator=torch.Generator().manual_seed(1))
    x = 2 * torch.randn(2, 4, d, dtype=torch.float64)
    features = log_features(x, projection, kernel=kernel, epsilon=0 if kernel not in FUNCTIONS else epsilon).exp()
    for token, found in zip(x.flatten(0, 1).tolist(), features.flatten(0, 1).tolist(), strict=True):
        scaled = [number / d**0.25 for number in token]
        dots = [sum(w * s for w, s in zip(row, scaled, strict=True)) for row in projection.double().tolist()]
        half = sum(s * s for s in scaled) / 2
        if kernel == "softmax":
            expected = [math.exp(dot - half) / math.sqrt(3) for dot in dots]
        elif kernel == "hyperbolic":
            expected = [math.exp(sign * dot - half) / math.sqrt(6) for sign in (1, -1) for dot in dots]
        elif kernel == "unprojected":
            expected = [math.exp(number) for number in token]
        else:
            expected = [FUNCTIONS[kernel](dot) + epsilon for dot in dots]
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_missing_projection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'relu'.*projection"):
        log_features(torch.randn(2, 4), None, kernel="relu")


@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic", "unprojected"])
def test_epsilon_of_exponential_kernels_is_a_share_of_the_tokens_largest_feature(kernel: str) -> None:
    projection = draw_projection(6, 5)
    x = 5 * torch.randn(4, 5, dtype=torch.float64)
    bare = log_features(x, projection, kernel=kernel).exp()
    added = log_features(x, projection, kernel=kernel, epsilon=0.1).exp() - bare
    torch.testing.assert_close(added, 0.1 * bare.max(dim=-1, keepdim=True).values.expand_as(bare))


@pytest.mark.parametrize("settings", [{"orthogonal": True}, {"orthogonal": False}, {"turned": 2}], ids=str)
@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic"])
def test_estimates_of_the_softmax_kernel_are_unbiased(kernel: str, settings: dict) -> None:
    q, k = 0.5 * torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = estimates(q, k, drawn(8, 4, **settings), kernel=kernel)
    exact, error = softmax_kernel(q, k), found.std(0) / DRAWS**0.5
    assert (error < 0.04 * exact).all()
    assert ((found.mean(0) - exact).abs() < 4.5 * error).all()


def squared_errors(q: Tensor, k: Tensor, m: int, *, kernel: str = "softmax", **settings: object) -> Tensor:
    """Of each draw, the mean over pairs (q_i, k_i), each relative to its exact value: (draws,)."""
    projections = drawn(m // 2 if kernel == "hyperbolic" else m, q.shape[-1], **settings)
    logs = torch.stack([sum(log_features(x, p, kernel=kernel) for x in (q, k)) for p in projections])
    return (logs.exp().sum(-1) / softmax_kernel(q, k).diagonal() - 1).square().mean(1)


def apart(larger: Tensor, smaller: Tensor) -> float:
    """By how many standard errors the mean of one sample exceeds that of the other."""
    return ((larger.mean() - smaller.mean()) / (larger.var() + smaller.var()).sqrt() * len(larger) ** 0.5).item()


def close(found: Tensor, expected: float, within: float) -> bool:
    """Within so many per cent of what theory says, which must be less than they could be off by chance."""
    error = found.std().item() / len(found) ** 0.5
    assert 4 * error < within * expected
    return abs(found.mean().item() - expected) < within * expected


@pytest.mark.parametrize("m", [8, 32])
def test_squared_error_is_the_papers_and_falls_as_one_over_m(m: int) -> None:
    """Lemma 2 with independent directions: (exp(|z|^2) - 1) / m, relative to the kernel's square.

    With as many features, the hyperbolic one is smaller by 1 - exp(-|z|^2).
    """
    q, k = pairs(8, 0.8)
    expected = (math.exp(0.8**2) - 1) / m
    assert close(squared_errors(q, k, m, orthogonal=False), expected, 0.1)
    hyperbolic = squared_errors(q, k, m, orthogonal=False, kernel="hyperbolic")
    assert close(hyperbolic, expected * (1 - math.exp(-(0.8**2))), 0.2)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_hyperbolic_features_have_the_smaller_error(orthogonal: bool) -> None:
    q, k = pairs(8, 0.8)
    softmax, hyperbolic = (
        squared_errors(q, k, 16, orthogonal=orthogonal, kernel=kernel) for kernel in ("softmax", "hyperbolic")
    )
    assert apart(softmax, hyperbolic) > 10


def test_orthogonal_directions_have_the_smaller_error() -> None:
    """By theorem 2 at least by 2 (m - 1) / (m (d + 2)) (1 - exp(-|z|^2 / 2))^2, relative to the kernel's square."""
    d = m = 8
    q, k = pairs(d, 0.8)
    independent, orthogonal = (squared_errors(q, k, m, orthogonal=o) for o in (False, True))
    least = 2 * (m - 1) / (m * (d + 2)) * (1 - math.exp(-(0.8**2) / 2)) ** 2
    assert apart(independent, orthogonal + least) > 0
    assert apart(independent, orthogonal) > 7


def attention(weights: Tensor, v: Tensor) -> Tensor:
    return weights @ v / weights.sum(-1, keepdim=True)


def outputs_error(m: int, **settings: object) -> Tensor:
    """Squared error of attention's output in each draw, 6 queries and keys of 8 numbers."""
    q, k, v = 0.3 * torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = attention(estimates(q, k, drawn(m, 8, **settings)), v)
    return (found - attention(softmax_kernel(q, k), v)).square().mean((1, 2))


def test_orthogonal_directions_give_the_better_attention() -> None:
    independent, orthogonal = (outputs_error(32, orthogonal=o) for o in (False, True))
    assert apart(independent, orthogonal) > 5


def test_error_of_the_attention_falls_as_one_over_m() -> None:
    few, many = (outputs_error(m, orthogonal=False).mean().item() for m in (32, 128))
    assert few / many == pytest.approx(4, rel=0.1)
