"""performance_studies.py: the attention matrix of LSH attention beside that of full shared query-key attention."""

from collections.abc import Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from dl_proj.studies.features import mean_and_error
from dl_proj.studies.settings import ReconstructionConfig
from dl_proj.tables import Row
from my_transformers import LSHAttention, SharedQKAttention
from my_transformers.lsh.bucketed import unit
from my_transformers.lsh.hashing import bucket_of, choose_n_buckets, seeded_rotations, sort_by_bucket

Matrices = dict[tuple[int | None, int | None], Tensor]


@torch.no_grad()
def reconstruction(config: ReconstructionConfig, seed: int, device: torch.device) -> list[Row]:
    """How far the matrix of LSH attention is from that of full attention, by bucket size and hash rounds.

    The error of a sample is the root of the mean squared difference of all entries of all heads' matrices, each head
    compared with itself.

    Returns:
        A row a bucket size and number of rounds: mean and standard error over the samples.
    """
    errors: dict[tuple[int, int], list[float]] = {(s, r): [] for s in config.bucket_sizes for r in config.rounds}
    for sample in tqdm(range(config.samples), desc="reconstruction", unit="sample"):
        exact, seen = _matrices(config, seed * config.samples + sample, device)
        for key, matrix in seen:
            errors[key].append((matrix - exact).square().mean().sqrt().item())
    return [
        {"curve": f"bucket size {size}", "bucket_size": size, "rounds": n_rounds} | mean_and_error(found, "rmse")
        for (size, n_rounds), found in errors.items()
    ]


@torch.no_grad()
def first_matrices(config: ReconstructionConfig, seed: int) -> Matrices:
    """The first sample's matrices (n, n) of the first head by bucket size and rounds; the exact one by (None, None)."""
    exact, seen = _matrices(config, seed * config.samples, torch.get_default_device())
    return {(None, None): exact[0, 0]} | {key: matrix[0, 0] for key, matrix in seen}


def _matrices(
    config: ReconstructionConfig, drawn: int, device: torch.device
) -> tuple[Tensor, Iterator[tuple[tuple[int, int], Tensor]]]:
    """The exact matrix (1, h, n, n) of a sample, and LSH attention's by bucket size and rounds."""
    qk = random_walk(config, torch.Generator().manual_seed(drawn)).to(device)
    pairs = [(size, n_rounds) for size in config.bucket_sizes for n_rounds in config.rounds]
    seen = ((pair, lsh_matrix(qk, *pair, causal=config.causal, seed=drawn)) for pair in pairs)
    return attention_matrix(SharedQKAttention(causal=config.causal), qk), seen


def random_walk(config: ReconstructionConfig, generator: torch.Generator) -> Tensor:
    """Queries (1, h, n, d) in float64: q_t = a q_(t-1) + sqrt(1 - a^2) e_t with normal e and a^memory = 1/e.

    Near tokens are alike, and far ones wherever the walk comes back to: attention has something to find. Independent
    normal queries are almost orthogonal, and their attention is almost uniform.
    """
    shape = (1, config.heads, config.length, config.head_dim)
    steps = torch.arange(config.length, dtype=torch.float64)
    kept = torch.exp(-(steps.unsqueeze(1) - steps).clamp(min=0) / config.memory).tril()  # a^(t - s) of step s is in q_t
    fresh = (1 - torch.exp(torch.tensor(-2 / config.memory, dtype=torch.float64))).sqrt()
    kept[:, 1:] *= fresh  # the first token has nothing before it
    return config.scale * (kept @ torch.randn(shape, generator=generator, dtype=torch.float64))


def attention_matrix(mechanism: SharedQKAttention | LSHAttention, qk: Tensor) -> Tensor:
    """What a mechanism does with values, as a matrix (b, h, n, n): its output where the values are the identity."""
    batch, heads, n, _ = qk.shape
    identity = torch.eye(n, dtype=qk.dtype, device=qk.device)
    return mechanism(qk, identity.expand(batch, heads, n, n))


def lsh_matrix(qk: Tensor, bucket_size: int, n_rounds: int, *, causal: bool, seed: int) -> Tensor:
    """The matrix (b, h, n, n) of LSHAttention(bucket_size, n_rounds, max_len=n, causal, seed) in evaluation."""
    _, heads, n, head_dim = qk.shape
    n_buckets = choose_n_buckets(n, bucket_size)
    buckets = bucket_of(qk, seeded_rotations(qk, heads, n_rounds, head_dim, n_buckets, seed))
    return lsh_attention_matrix(qk, buckets, window=2 * bucket_size, causal=causal)


def lsh_attention_matrix(qk: Tensor, buckets: Tensor, *, window: int, causal: bool) -> Tensor:
    """The matrix of LSH attention (Kitaev et al. 2020, section 2) for given buckets, by scattering who sees whom.

    Token i sees j if in some round both are in one bucket and j stands among the ``window`` tokens before i in the
    order of (bucket, position), or, without ``causal``, behind it; a token that sees nobody sees itself. A row is the
    softmax of q_i . q_j / (||q_j|| sqrt(d)) over all j that it sees in any round.

    Args:
        qk: (b, h, n, d).
        buckets: (b, h, r, n).
        window: tokens to a side.
        causal: a token attends only to itself and earlier tokens.

    Returns:
        (b, h, n, n).
    """
    n, head_dim = qk.shape[2:]
    visible = qk.new_zeros(*qk.shape[:2], n * n, dtype=torch.bool)
    for of_round in buckets.unbind(2):
        visible.scatter_(-1, _seen_pairs(of_round, min(window, n - 1), causal), True)
    visible = visible.unflatten(-1, (n, n))
    itself = torch.eye(n, dtype=torch.bool, device=qk.device)
    visible = visible & ~itself
    visible |= itself & ~visible.any(-1, keepdim=True)
    scores = qk @ unit(qk).mT * head_dim**-0.5
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)


def _seen_pairs(buckets: Tensor, window: int, causal: bool) -> Tensor:
    """Buckets (b, h, n) -> i * n + j (b, h, n * s) of each pair in reach; i * n + i where there is none."""
    n = buckets.shape[-1]
    order = sort_by_bucket(buckets)
    gaps = torch.arange(-window, 1 if causal else window + 1, device=buckets.device)
    place = torch.arange(n, device=buckets.device).unsqueeze(1) + gaps  # (n, s), in sorted order
    inside = (place >= 0) & (place < n)
    place = place.clamp(0, n - 1)
    ordered = buckets.gather(-1, order)
    together = inside & (ordered[..., place] == ordered.unsqueeze(-1))
    query, key = order.unsqueeze(-1), order[..., place]
    return (query * n + torch.where(together, key, query)).flatten(2)
