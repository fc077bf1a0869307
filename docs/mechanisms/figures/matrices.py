"""Weights of each mechanism beside those of full attention, for the same 48 tokens."""

import torch

from docs.mechanisms.figures.drawing import ORANGE, D, N, of, picture, row, save, separate, show, weights
from my_transformers import (
    BlockCausalLinformerAttention,
    ClippedRelativeAttention,
    FullAttention,
    LinearAttention,
    LinformerAttention,
    LocalAttention,
    LSHAttention,
    MeanProjection,
    NystromAttention,
    PerformerAttention,
    RelativeAttention,
    SharedQKAttention,
    TransformersLSHAttention,
)
from my_transformers.nystrom import pseudo_inverse, segment_means


def relative() -> RelativeAttention:
    """On a line, with coefficients that prefer near keys."""
    module = RelativeAttention(FullAttention(), heads=1, head_dim=D, content=False)
    torch.nn.init.zeros_(module.coefficients)
    module.coefficients.data[:, 0] = 1.0
    return module


def clipped() -> ClippedRelativeAttention:
    """On a line; its last head attends by displacement."""
    torch.manual_seed(1)
    module = ClippedRelativeAttention(FullAttention(), heads=2, head_dim=D, distance=4)
    module.displacements.data *= 3
    return module


def overview() -> None:
    """All mechanisms."""
    twice = separate().expand(1, 2, -1, -1)
    panels = {
        "full": of(FullAttention()),
        "shared_qk": of(SharedQKAttention()),
        "lsh, 2 rounds": of(LSHAttention(bucket_size=8, n_rounds=2)),
        "transformers_lsh": of(TransformersLSHAttention(chunk_size=8, n_rounds=2)),
        "local": of(LocalAttention(chunk_size=8)),
        "performer, 1,024 features": of(PerformerAttention(D, n_features=1024)),
        "linear": of(LinearAttention()),
        "nystrom, 12 landmarks": of(NystromAttention(n_landmarks=12)),
        "linformer, rank 12": of(LinformerAttention(MeanProjection(N, 12))),
        "causal_linformer": of(BlockCausalLinformerAttention(MeanProjection(8, 2))),
        "relative": of(relative()),
        "clipped_relative": weights(clipped(), twice, twice),
    }
    row("overview", 6.0, panels, rows=3)


def full() -> None:
    """Full attention, and with shared queries and keys."""
    shared = of(SharedQKAttention(causal=True))
    row("full", 2.8, {"full": of(FullAttention()), "full, causal": of(FullAttention(causal=True)),
                      "shared_qk, causal": shared})  # fmt: skip


def local() -> None:
    """Chunks of the sequence."""
    causal = of(LocalAttention(chunk_size=8, causal=True))
    row("local", 2.8, {"full": of(FullAttention()), "local": of(LocalAttention(chunk_size=8)), "local, causal": causal})


def features() -> None:
    """What more random features give; and the features of linear attention."""
    softmax = of(FullAttention())
    found = {f"{m:,} features": of(PerformerAttention(D, n_features=m)) for m in (64, 1024, 16384)}
    row("performer", 2.1, {"softmax": softmax, **found})
    causal = of(LinearAttention(causal=True))
    row("linear", 2.8, {"softmax": softmax, "linear": of(LinearAttention()), "linear, causal": causal})


def linformer() -> None:
    """The projection, the weights of projected tokens, and what they mean for tokens."""
    rank, q = 12, separate()[0, 0]
    projection = torch.eye(rank).repeat_interleave(N // rank, dim=1) * rank / N
    short = (q @ (projection @ q).T / D**0.5).softmax(-1)
    figure = picture(2.4)
    axes = figure.subplots(1, 4, width_ratios=[N, N, rank + 4, N])
    show(axes[0], of(FullAttention()), "full")
    show(axes[1], projection, "E and F: means of 4 tokens", most=0.5)
    axes[1].set(ylabel="projected")
    show(axes[2], short, "P", keys="projected", most=0.6)
    show(axes[3], of(LinformerAttention(MeanProjection(N, rank))), "linformer: P F")
    save(figure, "linformer")


def causal_linformer() -> None:
    """Which keys and projected tokens a query sees."""
    block, rank = 8, 2
    layout = torch.zeros(N, block + N // block * rank)
    for i in range(N):
        layout[i, : i % block + 1] = 0.35
        layout[i, block : block + i // block * rank] = 0.1
    figure = picture(2.6)
    axes = figure.subplots(1, 3, width_ratios=[N, 24, N])
    show(axes[0], of(FullAttention(causal=True)), "full, causal")
    show(axes[1], layout, "what is scored", keys="own block | projected")
    axes[1].axvline(block - 0.5, color=ORANGE)
    show(axes[2], of(BlockCausalLinformerAttention(MeanProjection(block, rank))), "causal_linformer")
    save(figure, "causal_linformer")


def nystrom() -> None:
    """The three factors and their product."""
    m, q = 12, separate()
    means, _ = segment_means(torch.ones(1, N, dtype=torch.bool), m, q.dtype)
    short = means @ q
    left, among, right = ((a @ b.mT / D**0.5).softmax(-1)[0, 0] for a, b in ((q, short), (short, short), (short, q)))
    inverse = pseudo_inverse(among, 6)
    figure = picture(2.0)
    axes = figure.subplots(1, 5, width_ratios=[N, 18, 18, N, N])
    show(axes[0], of(FullAttention()), "full")
    show(axes[1], left, "$F$", keys="landmark", most=0.6)
    show(axes[2], inverse, "$A^+$", keys="landmark", most=float(inverse.max()))
    axes[2].set(ylabel="")
    show(axes[3], right, "$B$")
    axes[3].set(ylabel="landmark")
    show(axes[4], of(NystromAttention(n_landmarks=m)), "nystrom: $F A^+ B$")
    save(figure, "nystrom")


def lsh() -> None:
    """From full attention with shared queries and keys to LSH attention, by rounds."""
    found = {f"lsh, {r} round{'s' * (r > 1)}": LSHAttention(bucket_size=8, n_rounds=r, max_len=N, causal=True)
             for r in (1, 2, 4)}  # fmt: skip
    row("lsh", 2.1, {"shared_qk": of(SharedQKAttention(causal=True)), **{name: of(m) for name, m in found.items()}})


ALL = (overview, full, local, features, linformer, causal_linformer, nystrom, lsh)
