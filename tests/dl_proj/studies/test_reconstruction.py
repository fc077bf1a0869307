"""The matrix of LSH attention is what the module does and what the rule says; its errors are those of the matrices."""

import numpy as np
import pytest
import torch

from dl_proj.studies.reconstruction import (
    attention_matrix,
    first_matrices,
    lsh_attention_matrix,
    lsh_matrix,
    random_walk,
    reconstruction,
)
from dl_proj.studies.settings import ReconstructionConfig
from my_transformers import LSHAttention, SharedQKAttention

CPU = torch.device("cpu")


def queries(n, heads=2, batch=2, head_dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(batch, heads, n, head_dim, generator=generator, dtype=torch.float64)


def naive_row(qk, i, seen):
    """Of the softmax over the tokens that i sees."""
    row = np.zeros(len(qk))
    seen = sorted(seen) or [i]
    scores = np.array([qk[i] @ qk[j] / np.linalg.norm(qk[j]) / np.sqrt(qk.shape[1]) for j in seen])
    row[seen] = np.exp(scores) / np.exp(scores).sum()
    return row


def naive_lsh_matrix(qk, buckets, window, causal):
    """One head: qk (n, d), buckets (r, n)."""
    n = len(qk)
    seen = [set() for _ in range(n)]
    for of_round in buckets:
        for i in range(n):
            mates = [j for j in range(n) if of_round[j] == of_round[i]]
            for j in mates:
                away = mates.index(i) - mates.index(j)
                if 0 < away <= window or (not causal and 0 < -away <= window):
                    seen[i].add(j)
    return np.stack([naive_row(qk, i, seen[i]) for i in range(n)])


def naive_full_matrix(qk, causal):
    n = len(qk)
    return np.stack([naive_row(qk, i, set(range(i if causal else n)) - {i}) for i in range(n)])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("n", "n_buckets", "window", "n_rounds"),
    [(1, 1, 2, 1), (2, 2, 1, 1), (13, 4, 1, 2), (13, 4, 3, 3), (17, 1, 5, 2), (17, 6, 50, 1)],
)
def test_the_rule_token_by_token(n, n_buckets, window, n_rounds, causal):
    qk = queries(n)
    buckets = torch.randint(n_buckets, (2, 2, n_rounds, n))
    found = lsh_attention_matrix(qk, buckets, window=window, causal=causal)
    for b in range(2):
        for h in range(2):
            expected = naive_lsh_matrix(qk[b, h].numpy(), buckets[b, h].tolist(), window, causal)
            np.testing.assert_allclose(found[b, h].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("bucket_size", "n_rounds"), [(4, 1), (4, 3), (16, 2), (61, 2)])
def test_it_is_what_the_module_does_with_the_identity(bucket_size, n_rounds, causal):
    qk = queries(61)
    module = LSHAttention(bucket_size=bucket_size, n_rounds=n_rounds, max_len=61, causal=causal, seed=7).eval()
    found = lsh_matrix(qk, bucket_size, n_rounds, causal=causal, seed=7)
    torch.testing.assert_close(found, attention_matrix(module, qk), atol=1e-12, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
def test_the_exact_matrix(causal):
    qk = queries(9)
    found = attention_matrix(SharedQKAttention(causal=causal), qk)
    np.testing.assert_allclose(found[1, 0].numpy(), naive_full_matrix(qk[1, 0].numpy(), causal), atol=1e-12)


def test_queries_walk_as_the_formula_says():
    config = ReconstructionConfig(length=30, heads=2, head_dim=3, memory=5.0, scale=2.0, bucket_sizes=(30,))
    noise = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    kept = np.exp(-1 / 5.0)
    walk = [noise[:, 0]]
    for t in range(1, 30):
        walk.append(kept * walk[-1] + np.sqrt(1 - kept**2) * noise[:, t])
    found = random_walk(config, torch.Generator().manual_seed(4))
    torch.testing.assert_close(found[0], 2 * torch.stack(walk, dim=1), atol=1e-12, rtol=0)


SMALL = {
    "length": 24,
    "head_dim": 4,
    "heads": 3,
    "memory": 4.0,
    "bucket_sizes": (4, 24),
    "rounds": (1, 3),
    "samples": 3,
}


@pytest.mark.parametrize("causal", [True, False])
def test_the_error_of_each_head_against_itself(causal):
    config = ReconstructionConfig(**SMALL, causal=causal)
    rows, pictures = reconstruction(config, 2, CPU), first_matrices(config, 2)
    assert [(row["bucket_size"], row["rounds"]) for row in rows] == [(4, 1), (4, 3), (24, 1), (24, 3)]
    errors = {(row["bucket_size"], row["rounds"]): [] for row in rows}
    for drawn in (6, 7, 8):
        qk = random_walk(config, torch.Generator().manual_seed(drawn))
        exact = np.stack([naive_full_matrix(head.numpy(), causal) for head in qk[0]])
        for (size, n_rounds), found in errors.items():
            module = LSHAttention(bucket_size=size, n_rounds=n_rounds, max_len=24, causal=causal, seed=drawn).eval()
            seen = module(qk, torch.eye(24, dtype=torch.float64).expand(1, 3, 24, 24))[0].numpy()
            found.append(np.sqrt(((seen - exact) ** 2).mean()))
            if drawn == 6:
                np.testing.assert_allclose(pictures[size, n_rounds].numpy(), seen[0], atol=1e-12)
                np.testing.assert_allclose(pictures[None, None].numpy(), exact[0], atol=1e-12)
    for row in rows:
        found = errors[row["bucket_size"], row["rounds"]]
        assert row["rmse"] == pytest.approx(np.mean(found), rel=1e-9, abs=1e-14)
        assert row["standard_error"] == pytest.approx(np.std(found, ddof=1) / np.sqrt(3), rel=1e-9, abs=1e-14)


def test_nothing_is_missed_in_one_bucket_and_less_with_more_rounds():
    config = ReconstructionConfig(length=96, heads=2, bucket_sizes=(8, 96), rounds=(1, 2, 4, 8), samples=4)
    rows = reconstruction(config, 0, CPU)
    errors = {size: [row["rmse"] for row in rows if row["bucket_size"] == size] for size in (8, 96)}
    assert max(errors[96]) < 1e-12
    assert errors[8] == sorted(errors[8], reverse=True)
    assert errors[8][0] > 4 * errors[8][-1] > 1e-3
