"""The autoregressive model: what it computes, and that continuing step by step equals running everything again."""

import pytest
import torch
from torch import nn

from dl_proj.configs.model import StackConfig
from dl_proj.models.build import build_autoregressive

VOCAB, LENGTH = 11, 21

ATTENTION = {
    "full": {"kind": "full"},
    "shared_qk": {"kind": "shared_qk"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "lsh, narrow": {"kind": "lsh", "bucket_size": 4, "n_rounds": 3, "window": 2, "deduplicate": False},
    "lsh, other rounds": {"kind": "lsh", "bucket_size": 6, "n_rounds": 1, "eval_rounds": 3},
    "lsh, fixed buckets": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2, "n_buckets": 4},
}
STACKS = {
    "plain": {},
    "reversible": {"reversible": True},
    "post-norm": {"norm": "post"},
    "chunked": {"ffn_chunk_size": 4, "head_dim": 3, "activation": "relu"},
    "sinusoidal": {"positions": {"kind": "sinusoidal"}},
    "axial": {"positions": {"kind": "axial", "shape": (3, 7)}, "reversible": True},
}


def model(attention, stack, seed=0):
    """With weights large enough that what it says depends on what it saw, in float64 and eval mode."""
    torch.manual_seed(seed)
    config = StackConfig.model_validate(
        {"dim": 12, "heads": 2, "depth": 2, "ffn_dim": 20, "dropout": 0.3, "attention": ATTENTION[attention]}
        | STACKS[stack]
    )
    built = build_autoregressive(config, vocab_size=VOCAB, max_len=LENGTH, seed=seed).double().eval()
    for name, parameter in built.named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=3.0 if name == "embedding.weight" else 0.6)
    nn.init.zeros_(built.to_logits.bias)
    return built


@torch.no_grad()
def naive_continuation(built, prompt, length):
    """The whole prefix again for each token; what stands behind it is noise that no causal model can see.

    The noise keeps the sequence as long as LSH's number of buckets was chosen for. Gives the tokens and their logits.
    """
    tokens, found = prompt, []
    for _ in range(length):
        noise = torch.randint(VOCAB, (len(tokens), LENGTH - tokens.shape[1]))
        found.append(built(torch.cat((tokens, noise), dim=1))[:, tokens.shape[1] - 1])
        tokens = torch.cat((tokens, found[-1].argmax(-1, keepdim=True)), dim=1)
    return tokens[:, prompt.shape[1] :], torch.stack(found, dim=1)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_generate_equals_running_everything_again(attention, stack):
    built = model(attention, stack)
    prompt = torch.randint(VOCAB, (3, 5))
    tokens, logits = naive_continuation(built, prompt, LENGTH - 5)
    steps = []
    built.to_logits.register_forward_hook(lambda module, inputs, output: steps.append(output))
    assert torch.equal(built.generate(prompt, LENGTH - 5), tokens)
    torch.testing.assert_close(torch.cat(steps, dim=1)[:, 4:], logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", ["full", "shared_qk", "lsh, fixed buckets"])
def test_generate_equals_running_the_prefix_alone(attention):
    """Where nothing depends on the sequence's length, no noise is needed."""
    built = model(attention, "plain")
    tokens = prompt = torch.randint(VOCAB, (2, 3))
    with torch.no_grad():
        for _ in range(10):
            tokens = torch.cat((tokens, built(tokens)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(built.generate(prompt, 10), tokens[:, 3:])


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_longest_continuation_and_one_more(attention):
    built = model(attention, "plain")
    prompt = torch.randint(VOCAB, (1, LENGTH))
    assert torch.equal(built.generate(prompt, 1), built(prompt)[:, -1:].argmax(-1))
    assert built.generate(prompt[:, :1], LENGTH).shape == (1, LENGTH)
    with pytest.raises(ValueError, match=r"21 \+ 2 tokens are more than the model's 21 \+ 1"):
        built.generate(prompt, 2)


def test_lsh_hashes_as_in_training_on_shorter_sequences():
    """A grid of 3 x 7 positions, but sequences of 13: buckets follow from those."""
    built = model("lsh", "axial")
    prompt = torch.randint(VOCAB, (2, 4))
    tokens = prompt
    with torch.no_grad():
        while tokens.shape[1] < 14:
            padded = torch.cat((tokens, torch.zeros(2, 13 - tokens.shape[1], dtype=torch.int64)), dim=1)
            tokens = torch.cat((tokens, built(padded)[:, tokens.shape[1] - 1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(built.generate(prompt, 10, max_len=13), tokens[:, 4:])
    with pytest.raises(ValueError, match="more than the model's 13"):
        built.generate(prompt, 11, max_len=13)


def test_continuing_leaves_no_graph_behind():
    built = model("full", "plain")
    assert not built.generate(torch.ones(1, 2, dtype=torch.int64), 3).requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_no_token_sees_those_behind_it(attention, stack):
    built = model(attention, stack)
    tokens = torch.randint(VOCAB, (2, LENGTH))
    changed = tokens.clone()
    changed[:, 9:] = torch.randint(VOCAB, (2, LENGTH - 9))
    before, after = built(tokens), built(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


def test_the_forward_is_embedding_positions_stack_logits():
    built = model("full", "plain")
    tokens = torch.randint(VOCAB, (2, 6))
    x = built.embedding.weight[tokens] + built.positions.weight[:6]
    x = built.stack(x)
    torch.testing.assert_close(built(tokens), x @ built.to_logits.weight.T + built.to_logits.bias)


def test_the_mask_reaches_the_stack():
    built = model("shared_qk", "plain")
    tokens = torch.randint(VOCAB, (2, 6))
    mask = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    other = tokens.clone()
    other[0, :2] = (other[0, :2] + 1) % VOCAB
    torch.testing.assert_close(built(tokens, mask=mask)[0, 2:], built(other, mask=mask)[0, 2:], rtol=0, atol=0)
    assert not torch.allclose(built(tokens)[0, 2:], built(other)[0, 2:])


def test_dropout_falls_on_the_embedded_input_too():
    built = model("full", "plain")
    for module in built.stack.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    tokens = torch.randint(VOCAB, (2, 6))
    assert torch.equal(built(tokens), built(tokens))
    built.train()
    assert not torch.equal(built(tokens), built(tokens))
