# %% [markdown]
# # Swap the attention of a model that you have
#
# You have a trained encoder with plain softmax attention, and want to know what happens if another mechanism takes
# its place. In this library a mechanism fills one slot of `MultiHeadAttention`, whose projections have the layout of
# `torch.nn.MultiheadAttention`. So the trained weights can be kept, and three questions answered by measuring:
#
# 1. Do the outputs stay the same, if the mechanism is full attention too? They must.
# 2. How far do they move with an approximation (Performer), by its number of random features?
# 3. How much is lost with mechanisms that look at less (local attention, Linformer), and how much does a brief
#    fine-tuning restore?

# %%
import copy
import os
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from my_transformers import (
    FullAttention,
    LinformerAttention,
    LocalAttention,
    MeanProjection,
    Mechanism,
    MultiHeadAttention,
    PerformerAttention,
)

SMALL = os.environ.get("TUTORIAL_SIZE") == "small"  # for the tests: fewer training steps and features
torch.manual_seed(0)
plt.rcParams.update({"figure.dpi": 110})

# %% [markdown]
# ## The model that you have
#
# A pre-norm encoder as found in many projects, around `torch.nn.MultiheadAttention`. It classifies handwritten
# digits of 8 x 8 pixels, which come with scikit-learn, reading them as a sequence of 16 patches of 2 x 2 pixels.


# %%
class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.feed_forward(self.norm_feed_forward(x))


class Encoder(nn.Module):
    """Patches (batch, 16, 4) -> logits (batch, 10)."""

    def __init__(self, dim: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.patches, self.positions = nn.Linear(4, dim), nn.Parameter(0.5 * torch.randn(16, dim))
        self.layers = nn.Sequential(*(Layer(dim, heads) for _ in range(depth)))
        self.to_logits = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

    def forward(self, patches: Tensor) -> Tensor:
        return self.to_logits(self.layers(self.patches(patches) + self.positions).mean(1))


digits = load_digits()
shuffled = torch.randperm(len(digits.data))
pixels = torch.tensor(digits.data, dtype=torch.float32)[shuffled] / 16
images = pixels.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)  # rows of patches, each of 2 x 2 pixels
labels = torch.tensor(digits.target)[shuffled]
training, test = (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


def fit(model: nn.Module, steps: int, lr: float) -> nn.Module:
    """Train with AdamW and a learning rate that rises and falls."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(training[0]), (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(training[0][chosen]), training[1][chosen]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return 100 * (model(test[0]).argmax(-1) == test[1]).float().mean().item()


plain = fit(Encoder(), steps=20 if SMALL else 400, lr=1e-3)
print(f"full attention: {accuracy(plain):.1f} % of the test images")

# %% [markdown]
# ## The swap
#
# `nn.MultiheadAttention` stacks the three projections in `in_proj_weight`: queries, keys, values, each with its heads
# in order. `MultiHeadAttention.to_heads` has the same layout, so the weights are copied as they are. The calls
# differ in two ways: torch's attention gets x three times and returns a pair, and its
# `key_padding_mask` is True where a token is *padding*, where `mask` here is True for a *real* token. A small class
# translates, so that the model itself stays as it is.
#
# Mechanisms that share queries and keys (LSH) have two projections instead of three. They cannot take over these
# weights: a model has to be trained with shared queries and keys.


# %%
class InPlaceOfTorch(nn.Module):
    """Any mechanism, called like torch.nn.MultiheadAttention with batch_first=True, and with its weights."""

    def __init__(self, old: nn.MultiheadAttention, mechanism: Mechanism) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(mechanism, dim=old.embed_dim, heads=old.num_heads)
        self.attention.to_heads.load_state_dict({"weight": old.in_proj_weight, "bias": old.in_proj_bias})
        self.attention.to_out.load_state_dict(old.out_proj.state_dict())

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, None]:
        if need_weights or key is not value:
            raise ValueError("this returns no weights, and takes keys and values of the same tokens")
        context = None if key is query else key
        mask = None if key_padding_mask is None else ~key_padding_mask
        return self.attention(query, context=context, mask=mask), None


def swapped(model: Encoder, mechanism: Callable[[int], Mechanism]) -> Encoder:
    """A copy of the model with another mechanism in each layer, which ``mechanism`` makes of the layer's number."""
    model = copy.deepcopy(model)
    for number, layer in enumerate(model.layers):
        layer.attention = InPlaceOfTorch(layer.attention, mechanism(number))
    return model.eval()


same = swapped(plain, lambda layer: FullAttention())
with torch.no_grad():
    torch.testing.assert_close(same(test[0]), plain(test[0]), rtol=1e-4, atol=1e-4)
    print(f"largest change of a logit: {(same(test[0]) - plain(test[0])).abs().max():.1e}")

# %% [markdown]
# ## A Performer: how many features?
#
# A Performer estimates the same softmax weights with $m$ random features (Choromanski et al. 2021), so it can stand in
# for full attention without any training. The error of a weight before normalising falls as $1/\sqrt{m}$, and grows
# quickly with the size of queries and keys: its relative variance is about
# $\exp(\lVert q + k \rVert^2 / \sqrt{d}) / m$. Its effect after normalising, two layers and the classifier
# has to be measured. For each $m$, five models with other random directions are compared with the plain one on 100 test
# images: how far the logits move, relative to their size, and how many predictions stay the same.

# %%
features = [16, 64, 256] if SMALL else [16, 64, 256, 1024, 4096]
shown = test[0][:100]
moved, agreed = [], []
with torch.no_grad():
    exact = plain(shown)
    for m in features:
        logits = [
            swapped(plain, lambda layer: PerformerAttention(12, n_features=m, seed=10 * draw + layer))(shown)  # noqa: B023
            for draw in range(5)
        ]
        moved.append(torch.stack([(one - exact).norm() / exact.norm() for one in logits]))
        agreed.append(torch.stack([(one.argmax(-1) == exact.argmax(-1)).float().mean() for one in logits]))
        stay = 100 * agreed[-1].mean()
        print(f"{m:5} features: logits move by {moved[-1].mean():.3f}, {stay:.1f} % of the predictions stay")

# %% With more features the logits move less, and more predictions stay the same
movements, agreements = torch.stack(moved), 100 * torch.stack(agreed)
figure, panels = plt.subplots(1, 2, figsize=(7, 2.8))
for panel, values, label in (
    (panels[0], movements, "relative change of the logits"),
    (panels[1], agreements, "predictions that stay, %"),
):
    panel.plot(features, values, ".", color="tab:blue", alpha=0.4)
    panel.plot(features, values.mean(1), color="tab:blue")
    panel.set(xscale="log", xlabel="random features m", ylabel=label)
    panel.set_ylim(bottom=0)
    panel.set_xticks(features, [str(m) for m in features])
    panel.minorticks_off()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Mechanisms that look at less, and a brief fine-tuning
#
# Local attention sees the query's own row of patches and the rows beside it. A Linformer with mean projection sees four
# means of four patches instead of 16 patches. Neither approximates the old weights; the model has to get used to it.
# Each copy, including the one with full attention, is fine-tuned in the same way, with a third of the learning rate.

# %%
candidates: dict[str, Callable[[int], Mechanism]] = {
    "full": lambda layer: FullAttention(),
    "performer, 64 features": lambda layer: PerformerAttention(12, n_features=64, seed=layer),
    "local, 3 rows of 4": lambda layer: LocalAttention(chunk_size=4),
    "linformer, rank 4": lambda layer: LinformerAttention(MeanProjection(max_len=16, rank=4)),
}
before, after = {}, {}
print("test accuracy in %          swapped   fine-tuned")
for name, mechanism in candidates.items():
    model = swapped(plain, mechanism)
    before[name] = accuracy(model)
    after[name] = accuracy(fit(model, steps=10 if SMALL else 200, lr=3e-4))
    print(f"{name:26} {before[name]:8.1f} {after[name]:12.1f}")

# %% [markdown]
# ## Takeaways
#
# * Full attention swapped for full attention must change nothing. Make this your first test in your own model.
# * A Performer approximates trained weights, but may need many features; how many depends on the size of queries and
#   keys. Measure it as above, and expect to fine-tune: the model then learns with the features that it has.
# * With other mechanisms it is a different model, which starts from the same weights.
# * [`swap_attention`](../plugs.md) makes such a swap in one call, also in models of transformers and torchvision.
# * With 16 tokens nothing is saved; [Performance](../performance.md) has the costs by length.
#
# Read on: [in your own model](../modules.md) for masks, `torch.compile` and caches, and [the
# mechanisms](../mechanisms/index.md). The asserts below are what a test runs.

# %%
assert movements[0].mean() > movements[-1].mean()
assert before["full"] == accuracy(plain)
assert SMALL or agreed[-1].mean() > 0.8 > agreed[0].mean()
assert SMALL or accuracy(plain) > 93
assert SMALL or all(after[name] > 80 for name in candidates)
