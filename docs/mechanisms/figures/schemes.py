"""How the fast forms work: hashing, sorted blocks, the leak of chunks, prefix sums, positions, reversible layers."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle

from docs.mechanisms.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    D,
    N,
    example,
    of,
    picture,
    save,
    show,
    weights,
)
from my_transformers import FullAttention, RelativeAttention, SharedQKAttention
from my_transformers.lsh.attention import _block_layout, _visible_places
from my_transformers.lsh.hashing import bucket_of, draw_rotations, sort_by_bucket
from my_transformers.reference import bucket_rule, chunk_rule, sorted_places

COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def hashing() -> None:
    """Four buckets of a plane, in two rounds: points, and as a ring around them the bucket of every direction."""
    generator = torch.Generator().manual_seed(17)
    rotations = draw_rotations(1, 2, 2, 4, like=torch.empty(0), generator=generator)
    angles = torch.rand(24, generator=generator) * 2 * torch.pi, torch.linspace(0, 2 * torch.pi, 721)
    points, ring = (torch.stack((angle.cos(), angle.sin()), -1) for angle in angles)
    figure = picture(2.9, width=6)
    for r, panel in enumerate(figure.subplots(1, 2)):
        for rows, size, scale in ((points, 24, 0.9), (ring, 3, 1.08)):
            colours = [COLOURS[b] for b in bucket_of(rows[None, None], rotations)[0, 0, r]]
            panel.scatter(*(scale * rows).T, c=colours, s=size)
        directions = torch.cat((rotations[0, r], -rotations[0, r]), -1).T
        for number, tip in enumerate(directions / directions.norm(dim=-1).max() * 0.7):
            panel.annotate("", tip.tolist(), (0, 0), arrowprops={"arrowstyle": "->", "color": COLOURS[number], "lw": 2})
        panel.set(xticks=[], yticks=[], xlim=(-1.15, 1.15), ylim=(-1.15, 1.15), aspect="equal")
        panel.set_title(f"round {r + 1}", fontsize=9)
        panel.spines[:].set_visible(False)
    save(figure, "lsh_hash")


def sorting() -> None:
    """One round: in the order of the sequence, sorted, and the blocks in which it is computed."""
    qk, window = example(), 8
    generator = torch.Generator().manual_seed(0)
    buckets = bucket_of(qk, draw_rotations(1, 1, D, 6, like=qk, generator=generator)).permute(2, 0, 1, 3)
    visible = _visible_places(buckets, sort_by_bucket(buckets), window, True, "bucket")
    order, first, last = (x[0, 0, 0] for x in visible)
    place, full = torch.arange(N), of(SharedQKAttention(causal=True))
    seen = (place >= first[order][:, None]) & (place <= last[order][:, None])
    layout = _block_layout(N, window, True, rule="bucket", sorted_by_position=True)
    back = (place // layout.block_size)[:, None] - place // layout.block_size
    compared = (back >= 0) & (back <= layout.blocks_before)
    in_order = buckets[0, 0, 0][order].tolist()
    borders = [i + 0.5 for i, (one, other) in enumerate(pairwise(in_order)) if one != other]
    figure = picture(2.75)
    axes = figure.subplots(1, 3)
    show(axes[0], full, "1. order of the sequence")
    show(axes[1], full[order][:, order], "2. sorted by (bucket, position)", keys="place of the key")
    _lines(axes[1], borders, ORANGE)
    states = torch.where(seen, 2, compared.int()).numpy()
    axes[2].imshow(states, cmap=ListedColormap([GREY, "#9ecae1", "#08306b"]), interpolation="nearest")
    axes[2].set(xlabel="place of the key", xticks=[], yticks=[])
    axes[2].set_title("3. blocks: compared, seen", fontsize=9)
    _lines(axes[2], [edge - 0.5 for edge in range(0, N, layout.block_size)], "white")
    for panel in axes[1:]:
        panel.set(ylabel="place of the query")
    save(figure, "lsh_sorted")


def _lines(panel: Axes, borders: list[float], colour: str) -> None:
    for border in borders:
        panel.axhline(border, color=colour, lw=0.7)
        panel.axvline(border, color=colour, lw=0.7)


def leak() -> None:
    """Whom the first ten of sixteen tokens see, before and after the last six change their bucket."""
    n, t, size = 16, 10, 4
    before = torch.ones(1, 1, 1, n, dtype=torch.long)
    after = before.clone()
    after[..., t:] = 0
    mask = torch.ones(1, n, dtype=torch.bool)
    figure = picture(2.3)
    panels = iter(figure.subplots(1, 4))
    for name, rule in (("bucket", bucket_rule), ("chunk", chunk_rule)):
        was, now = (rule(hashes, sorted_places(hashes, mask), size)[0, 0, 0].tril(-1) for hashes in (before, after))
        moved = (was != now) & (torch.arange(n) < t)[:, None]
        for title, seen, changed in ((f"rule: {name}", was, 0 * moved), ("later tokens changed", now, moved)):
            panel = next(panels)
            states = seen.int() + 2 * changed  # 2: seen no longer, 3: seen in its place
            panel.imshow(states.numpy(), cmap=ListedColormap([GREY, BLUE, "#f5b08c", ORANGE]), vmin=0, vmax=3)
            panel.axhline(t - 0.5, color="black", lw=0.8, ls="--")
            panel.set(xlabel="key", ylabel="query", xticks=[], yticks=[])
            panel.set_title(title, fontsize=9)
    save(figure, "lsh_leak")


def prefix_sums() -> None:
    """How causal attention by features is computed."""
    figure = picture(3.2, width=4.8)
    panel, chunks, c = figure.subplots(), 5, 8
    for i in range(chunks):
        if i:
            panel.add_patch(Rectangle((0, i * c), i * c, c, facecolor=ORANGE, alpha=0.25, edgecolor="white", lw=2))
            text = "prefix sum" if i > 1 else "sum"
            panel.text(i * c / 2, (i + 0.5) * c, text, ha="center", va="center", fontsize=8)
        corners = [(i * c, i * c), (i * c, (i + 1) * c), ((i + 1) * c, (i + 1) * c)]
        panel.fill(*zip(*corners, strict=True), color=BLUE, alpha=0.8)
        panel.text((i + 1) * c + 1, (i + 0.75) * c, f"chunk {i + 1}: pair by pair", va="center", fontsize=8)
    panel.set(xlim=(0, chunks * c + 17), ylim=(chunks * c, 0), xticks=[], yticks=[], ylabel="query")
    panel.set_xlabel("key", loc="left")
    panel.set_aspect("equal")
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    save(figure, "performer_chunks")


def on_a_grid() -> None:
    """What two queries of a grid of 9 x 9 weigh: by waves of distance, and by clipped displacement."""
    side, queries = 9, ((2, 2), (5, 6))
    module = RelativeAttention(FullAttention(), heads=1, head_dim=D, columns=side, content=False, longest=2 * side)
    module.coefficients.data[:] = 0.6  # cosines and sines of all waves: near, above and to the left
    nothing = torch.zeros(1, 1, side * side, D)
    found = weights(module, nothing, nothing)
    figure = picture(2.2)
    axes = figure.subplots(1, 4)
    for panel, (r, c) in zip(axes, queries, strict=False):
        show(panel, found[r * side + c].view(side, side), f"relative, query ({r}, {c})", keys="column", most=0.4)
    rows, columns = np.mgrid[:side, :side]
    shuffled = np.random.default_rng(2).permutation(25)  # so that neighbours differ
    for panel, (r, c) in zip(axes[2:], queries, strict=True):
        classes = (np.clip(rows - r, -2, 2) + 2) * 5 + np.clip(columns - c, -2, 2) + 2
        panel.imshow(shuffled[classes], cmap="cividis", vmin=0, vmax=24)
        for step in (-1.5, -0.5, 0.5, 1.5):
            panel.axhline(r + step, color="white", lw=1)
            panel.axvline(c + step, color="white", lw=1)
        panel.set(xlabel="column", xticks=[], yticks=[])
        panel.set_title(f"clipped, query ({r}, {c})", fontsize=9)
    for panel, (r, c) in zip(axes, queries * 2, strict=True):
        panel.plot(c, r, "o", mfc="none", mec=ORANGE, mew=2, ms=9)
        panel.set(ylabel="row")
    save(figure, "relative")


def reversible() -> None:
    """Two streams, forward and back; and memory by depth, from the study of it."""
    figure = picture(2.7)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    _streams(left)
    with Path("docs/results/performance_studies/depth.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("full", "full, reversible", "LSH-2", "LSH-2, reversible")
    for name, colour, marker in zip(names, COLOURS, "osD^", strict=True):
        points = [(int(r["depth"]), float(r["allocated_mib"])) for r in rows if r["curve"] == name]
        dashes = "--" if "reversible" in name else "-"
        right.plot(*zip(*points, strict=True), color=colour, marker=marker, ls=dashes, ms=4, label=name)
    right.set(xlabel="layers", ylabel="allocated, MiB", xticks=[1, 2, 4, 8], ylim=(0, 145))
    right.legend(fontsize=7.5, loc="upper left")
    right.grid(alpha=0.3)
    save(figure, "reversible")


def _streams(panel: Axes) -> None:
    panel.axis("off")
    panel.set(xlim=(-0.6, 6.6), ylim=(-0.7, 2.6))
    arrow = {"arrowstyle": "->", "lw": 1.4, "color": "black"}
    for y, (start, end) in ((2, ("$x_1$", "$y_1$")), (0, ("$x_2$", "$y_2$"))):
        panel.annotate("", (6, y), (0, y), arrowprops=arrow)
        panel.text(-0.15, y, start, ha="right", va="center", fontsize=11)
        panel.text(6.15, y, end, ha="left", va="center", fontsize=11)
    for x, below, above, name, colour in ((1.7, 0, 2, "attention", BLUE), (4.1, 2, 0, "feed-forward", ORANGE)):
        panel.annotate("", (x, above + (0.13 if above == 0 else -0.13)), (x, below), arrowprops=arrow)
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour, "lw": 1.5}
        panel.text(x, 1, name, ha="center", va="center", fontsize=9, bbox=box)
        panel.text(
            x, above, "+", ha="center", va="center", fontsize=10, bbox={"boxstyle": "circle,pad=0.15", "fc": "w"}
        )
    panel.text(3, -0.55, r"back: $x_2 = y_2 - G(y_1)$,  $x_1 = y_1 - F(x_2)$", ha="center", fontsize=9)


ALL = (hashing, sorting, leak, prefix_sums, on_a_grid, reversible)
