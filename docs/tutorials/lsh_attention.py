# %% [markdown]
# # LSH attention from its definition
#
# Softmax attention compares every query with every key, although most weights are close to zero: a softmax is
# dominated by its largest scores. LSH attention (Kitaev, Kaiser and Levskaya, *Reformer: The Efficient Transformer*,
# ICLR 2020) finds the large ones without comparing everything. It hashes queries and keys so that similar vectors
# probably get the same hash, and attends only among vectors of one hash.
#
# This page builds it in five steps (hash, sort, cut into chunks, attend, combine several rounds), compares the result
# with the definition in [reference.py](../../my_transformers/reference.py), shows why this library replaces the
# paper's chunks by a window, and trains a model with it.

# %%
import os
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from my_transformers import EncoderLayer, FeedForward, LSHAttention, MultiHeadAttention, reference
from my_transformers.looking import recorded_weights
from my_transformers.lsh.hashing import draw_rotations

SMALL = os.environ.get("TUTORIAL_SIZE") == "small"  # for the tests: fewer training steps
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
plt.rcParams.update({"figure.dpi": 110, "image.interpolation": "nearest"})

# %% [markdown]
# ## Queries that are keys
#
# Sorting by hash works best if a token's query and key land in the same bucket, so the Reformer uses one vector for
# both: the query $q_i$, and as key the same vector at unit length, $k_i = q_i / \lVert q_i \rVert$. Every token's most
# similar key would then be its own, so a token attends to itself only if it has nothing else to attend to. That is
# `shared_qk_attention` in reference.py, and what LSH attention approximates:
#
# $$
# o_i = \sum_{j \in \mathcal{P}_i} \frac{\exp(q_i \cdot k_j / \sqrt{d})}{\sum_{l \in \mathcal{P}_i}
# \exp(q_i \cdot k_l / \sqrt{d})} \, v_j
# $$
#
# $\mathcal{P}_i$ is the set of tokens that $i$ attends to: here, all earlier ones. Our sequence has 64 tokens in eight
# loose clusters, so that there is something to find. Shapes are (batch, heads, length, head_dim).

# %%
n, d, clusters = 64, 16, 8
centres = F.normalize(torch.randn(clusters, d), dim=-1)
member_of = torch.randint(clusters, (n,))
qk = (12 * F.normalize(centres[member_of] + 0.08 * torch.randn(n, d), dim=-1))[None, None]
v = torch.randn(1, 1, n, d)

mask = torch.ones(1, n, dtype=torch.bool)  # True where a token is real; here all are
visible = reference.visible_keys(n, mask, causal=True)
full = reference.shared_qk_attention(qk, v, visible)

# %% [markdown]
# ## Step 1: hash
#
# The hash is a random rotation followed by the direction in which the vector points furthest: $h(x) =
# \operatorname{argmax}\,[xR;\, -xR]$ with a random matrix $R$ of $d \times b/2$ for $b$ buckets. Vectors at a small
# angle share the largest coordinate with high probability. In two dimensions the buckets are sectors of the circle,
# and another $R$ cuts other sectors:


# %%
def hash_of(x: Tensor, rotations: Tensor) -> Tensor:
    """Vectors x (..., d), rotations (d, b / 2) -> buckets (...) in 0 ... b - 1."""
    projected = x @ rotations
    return torch.cat((projected, -projected), dim=-1).argmax(-1)


# %% Points on a circle, coloured by their bucket for three random rotations: sectors of different sizes
points = F.normalize(torch.randn(600, 2), dim=-1)
figure, panels = plt.subplots(1, 3, figsize=(7, 2.5))
for number, panel in enumerate(panels, 1):
    panel.scatter(*points.T, c=hash_of(points, torch.randn(2, 3)), cmap="tab10", s=8)
    panel.set(aspect="equal", xticks=[], yticks=[], title=f"rotation {number}")
figure.tight_layout()
plt.show()

# %% [markdown]
# Four rounds of hashing give each token four buckets. The function of reference.py has the same formula for all
# rounds and heads at once:

# %%
n_buckets, n_rounds = 8, 4
rotations = torch.randn(1, n_rounds, d, n_buckets // 2)  # (heads, rounds, d, buckets / 2)
hashes = reference.buckets(qk, rotations)  # (batch, heads, rounds, length)
assert torch.equal(hashes[0, 0, 0], hash_of(qk[0, 0], rotations[0, 0]))

neighbours = member_of[:, None] == member_of
for name, pairs in (("of one cluster", neighbours), ("of two clusters", ~neighbours)):
    meet = (hashes[0, 0, 0, :, None] == hashes[0, 0, 0])[pairs].double().mean()
    once = (hashes[0, 0, :, :, None] == hashes[0, 0, :, None, :]).any(0)[pairs].double().mean()
    print(f"pairs {name}: {meet:.2f} share a bucket in round 1, {once:.2f} in some round")

# %% [markdown]
# ## Step 2: sort
#
# Tokens of one bucket are scattered over the sequence. Sorted by (bucket, position) they stand side by side, in the
# order of the text inside each bucket. A stable sort does exactly this.

# %% The buckets of the 64 tokens along the sequence, in no order, and sorted: each bucket is one run of tokens
order = hashes.argsort(dim=-1, stable=True)  # order[..., s]: which token stands at place s
figure, panels = plt.subplots(2, 1, figsize=(7, 1.9))
for panel, row, title in (
    (panels[0], hashes[0, 0, 0], "bucket of each token, in the order of the text"),
    (panels[1], hashes[0, 0, 0][order[0, 0, 0]], "sorted by (bucket, position), with chunks of 16"),
):
    panel.imshow(row[None], cmap="tab10", aspect="auto", vmax=9)
    panel.set(yticks=[])
    panel.set_title(title, fontsize=9)
for edge in range(16, n, 16):
    panels[1].axvline(edge - 0.5, color="black", linewidth=2)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Steps 3 and 4: chunks, and attention inside them
#
# Buckets have different sizes, but hardware works best on pieces of equal size. So the sorted sequence is cut
# into chunks of $m$ tokens, twice the average size of a bucket, and a token attends to its own chunk and the one
# before. Within these chunks it attends only to earlier tokens of its own bucket. The scores are $n
# \cdot 2m$ numbers instead of $n^2$. Each round returns its output and, for step 5, the logarithm of its softmax's
# denominator, $z_i^{(r)} = \log \sum_j \exp(q_i \cdot k_j / \sqrt{d})$.


# %%
def one_round(qk: Tensor, v: Tensor, hashes: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """One round for one head: qk and v (n, d), hashes (n,) -> outputs (n, d) and their log-denominators z (n,)."""
    n, d = qk.shape
    order = hashes.argsort(stable=True)
    position, bucket = order.view(-1, m), hashes[order].view(-1, m)  # (chunks, m)
    queries, values = qk[order].view(-1, m, d), v[order].view(-1, m, d)
    keys = F.normalize(queries, dim=-1)

    def with_previous(x: Tensor, fill: float) -> Tensor:
        """A chunk and the one before it: (chunks, m, ...) -> (chunks, 2 m, ...); before the first one is nothing."""
        return torch.cat((torch.cat((torch.full_like(x[:1], fill), x[:-1])), x), dim=1)

    keys, values = with_previous(keys, 0), with_previous(values, 0)
    earlier = with_previous(position, n)[:, None, :] < position[:, :, None]  # causal, and not itself
    same = with_previous(bucket, -1)[:, None, :] == bucket[:, :, None]
    scores = (queries @ keys.mT / d**0.5).masked_fill(~(earlier & same), -torch.inf)
    z = scores.logsumexp(-1)  # -inf where a token sees nobody
    weights = (scores - z.masked_fill(z == -torch.inf, 0)[..., None]).exp()
    back = order.argsort()
    return (weights @ values).reshape(n, d)[back], z.reshape(n)[back]


# %% [markdown]
# ## Step 5: several rounds
#
# If the boundary between two sectors falls between similar tokens, that round misses the pair. Another rotation puts
# the boundaries elsewhere. Each round is weighted by its share of the total sum of exponentials, which is why $z$ was
# kept:
#
# $$
# o_i = \sum_r \exp\Bigl(z_i^{(r)} - \log \sum_s \exp z_i^{(s)}\Bigr) \, o_i^{(r)}
# $$
#
# If a token has nothing to attend to in a round, that round has $z = -\infty$ and weight zero; a plain mean would give
# it as much weight as any other round. A token with nothing to attend to in all rounds, such as the first one, attends
# to itself.


# %%
def chunked_lsh_attention(qk: Tensor, v: Tensor, hashes: Tensor, m: int) -> Tensor:
    """Queries qk and values v (n, d), hashes (rounds, n) -> (n, d)."""
    outputs, z = (torch.stack(x) for x in zip(*(one_round(qk, v, h, m) for h in hashes), strict=True))
    alone = (z == -torch.inf).all(0)
    share = z.masked_fill(alone, 0).softmax(dim=0)
    return torch.where(alone[:, None], v, (share[..., None] * outputs).sum(0))


m = 16
ours = chunked_lsh_attention(qk[0, 0], v[0, 0], hashes[0, 0], m)
theirs = reference.lsh_chunk_attention(qk, v, hashes, mask, chunk=m, causal=True, once=False)
torch.testing.assert_close(ours, theirs[0, 0])
print(f"largest difference from reference.lsh_chunk_attention: {(ours - theirs[0, 0]).abs().max():.1e}")

# %% [markdown]
# `once=False` says that a key which several rounds show counts several times. The paper divides by $N_{i,j}$, the
# number of rounds that show key $j$ to query $i$ (its equation 15), so that each counts once; so does this library,
# unless you say `deduplicate=False`.
#
# Attention is linear in the values, so values that are the identity matrix return the attention matrix itself:

# %% Attention matrices: LSH with one round has some of full attention's large weights, with four rounds most
identity = torch.eye(n)[None, None]
matrices = {"full, shared query-key": reference.shared_qk_attention(qk, identity, visible)}
for rounds in (1, 4):
    matrices[f"LSH, {rounds} round{'s' * (rounds > 1)}"] = reference.lsh_chunk_attention(
        qk, identity, hashes[:, :, :rounds], mask, chunk=m, causal=True
    )
figure, panels = plt.subplots(1, 3, figsize=(7, 2.6), sharey=True)
for panel, (title, weights) in zip(panels, matrices.items(), strict=True):
    panel.imshow(weights[0, 0], vmax=0.3, cmap="viridis")
    panel.set_title(title, fontsize=9)
    panel.set_xlabel("key")
panels[0].set_ylabel("query")
figure.tight_layout()
plt.show()

# %% [markdown]
# How much of full attention's weight falls on keys that LSH attention looks at, and how far the outputs are from full
# attention's, for more rounds and 20 draws of the rotations:

# %%
errors = {}
for rounds in (1, 2, 4, 8, 16):
    found, error = [], []
    for _ in range(20):
        drawn = reference.buckets(qk, torch.randn(1, rounds, d, n_buckets // 2))
        weights = reference.lsh_chunk_attention(qk, identity, drawn, mask, chunk=m, causal=True)
        found.append((matrices["full, shared query-key"] * (weights > 0)).sum(-1).mean())
        error.append((weights @ v - full).square().mean().sqrt() / full.square().mean().sqrt())
    errors[rounds] = torch.stack(error).mean().item()
    print(f"{rounds:2} rounds: {torch.stack(found).mean():.3f} of the weight, relative error {errors[rounds]:.3f}")

# %% [markdown]
# ## Why this library does not use chunks
#
# Where chunks are cut depends on every token. If a later token joins a bucket, it pushes the tokens sorted after it
# one place further, and one of them falls into the next chunk: it now sees other tokens than before. The causal mask
# does not prevent this: it hides later tokens, but not their effect on the cuts. A model that was trained like this
# knows a little of the future, and generation, token by token, cannot reproduce what it learnt.
#
# So `LSHAttention` lets each query see the `window` tokens *before it in its own bucket*, in sorted order. No later
# token changes these: `rule="bucket"`, the default. `rule="chunk"` is the paper's. Here the tokens from 48 on change,
# and the outputs of those before are compared:

# %%
changed = qk.clone()
changed[:, :, 48:] = 12 * F.normalize(torch.randn(1, 1, 16, d), dim=-1)
leaks = {}
for rule, attend in (
    ("chunk", lambda x, h: reference.lsh_chunk_attention(x, v, h, mask, chunk=8, causal=True)),
    ("bucket", lambda x, h: reference.lsh_attention(x, v, h, mask, window=8, causal=True)),
):
    before, after = (attend(x, reference.buckets(x, rotations)) for x in (qk, changed))
    leaks[rule] = (before - after)[0, 0, :48].abs().amax(-1).gt(1e-12).sum().item()
    print(f"rule {rule!r}: {leaks[rule]} of the 48 earlier tokens have another output")

# %% [markdown]
# The class sorts, attends in blocks and combines rounds without ever holding an $n \times n$ matrix, on a GPU in
# Triton kernels. It computes the definition, for the buckets that its own rotations give:

# %%
attention = LSHAttention(n_buckets=n_buckets, n_rounds=n_rounds, window=m, causal=True, seed=5).eval()
seeded = draw_rotations(1, n_rounds, d, n_buckets, like=qk, generator=torch.Generator().manual_seed(5))
definition = reference.lsh_attention(qk, v, reference.buckets(qk, seeded), mask, window=m, causal=True)
torch.testing.assert_close(attention(qk, v), definition)

# %% [markdown]
# ## A model that copies
#
# The Reformer paper's test is to copy: the model reads a separator, a random word, the separator again, and must
# write the word a second time. To predict a symbol it has to find a single position far back, which is what hashing is
# for. One layer is enough: with positional encodings, a token's query can match the key exactly one word length
# earlier.

# %%
torch.set_default_dtype(torch.float32)
torch.manual_seed(1)
symbols, length = 32, 24
steps = 3 if SMALL else 300


class Copier(nn.Module):
    """Embedding, one causal layer with LSH attention, and logits of the next symbol."""

    def __init__(self, dim: int = 64, heads: int = 4) -> None:
        super().__init__()
        tokens = 2 * (length + 1)
        self.symbols = nn.Embedding(symbols, dim)
        self.positions = nn.Parameter(torch.randn(tokens, dim))
        attention = LSHAttention(bucket_size=8, n_rounds=4, max_len=tokens, causal=True)
        self.layer = EncoderLayer(MultiHeadAttention(attention, dim=dim, heads=heads), FeedForward(dim, dim), dim=dim)
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, symbols))

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) -> logits (batch, length, symbols)."""
        return self.to_logits(self.layer(self.symbols(tokens) + self.positions[: tokens.shape[1]]))


def draw(batch: int) -> Tensor:
    """Sequences 0 w 0 w."""
    word = torch.randint(1, symbols, (batch, length))
    return F.pad(word, (1, 0)).repeat(1, 2)


def second_word(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and accuracy on the word's second appearance."""
    logits, targets = model(tokens[:, :-1])[:, length + 1 :], tokens[:, length + 2 :]
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), (logits.argmax(-1) == targets).float().mean()


model = Copier()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
losses, start = [], time.process_time()
for _ in range(steps):
    loss, _ = second_word(model, draw(64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
print(f"{steps} updates took {time.process_time() - start:.0f} seconds of processor time")

model.eval()
with torch.no_grad():
    _, accuracy = second_word(model, draw(500))
print(f"{100 * accuracy:.1f} % of the symbols of 500 new words are right; chance is {100 / (symbols - 1):.1f} %")

# %% The loss falls from chance to near zero; the trained attention has one bright diagonal in its lower half
with torch.no_grad(), recorded_weights(model) as recorded:
    model(draw(1))
(weights,) = recorded.values()
figure, panels = plt.subplots(1, 2, figsize=(7, 2.8))
panels[0].plot(losses, color="tab:blue")
panels[0].set(xlabel="update", ylabel="cross-entropy in nats", title="training")
panels[1].imshow(weights[0].mean(0), vmax=1)
panels[1].set(xlabel="key", ylabel="query", title="attention, mean of the heads")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Takeaways
#
# * A round is a sort by hash and attention among neighbours; several rounds are combined by their log-denominators.
# * More rounds find more of the large weights. At test time you may use more than in training: `eval_rounds`.
# * Chunks leak the future. A window inside the bucket does not, and can be decoded token by token.
#
# Read on: [LSH attention](../mechanisms/lsh.md), the class in
# [lsh/attention.py](../../my_transformers/lsh/attention.py), and the copy task at the paper's length in [Copy
# task](../experiments/copy.md). The asserts below are what a test runs.

# %%
assert errors[1] > errors[4] > errors[16]
assert leaks["chunk"] > 0 and leaks["bucket"] == 0
assert losses[-1] < losses[0]
assert SMALL or accuracy > 0.95
