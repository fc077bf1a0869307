"""The autoregressive model: what it computes, and that continuing step by step equals running everything again."""

import numpy as np
import pytest
import torch
from torch import nn

from dl_proj.models.build import build_autoregressive
from dl_proj.models.sampling import sampler
from dl_proj.models.settings import StackConfig

VOCAB, LENGTH, LABELS = 11, 21, 3

ATTENTION = {
    "full": {"kind": "full"},
    "shared_qk": {"kind": "shared_qk"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "lsh, narrow": {"kind": "lsh", "bucket_size": 4, "n_rounds": 3, "window": 2, "deduplicate": False},
    "lsh, other rounds": {"kind": "lsh", "bucket_size": 6, "n_rounds": 1, "eval_rounds": 3},
    "lsh, fixed buckets": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2, "n_buckets": 4},
    "performer": {"kind": "performer", "n_features": 8, "chunk_size": 4},
    "relative": {"kind": "relative", "n_features": 16, "n_scales": 2, "chunk_size": 4},
    "clipped_relative": {"kind": "clipped_relative", "n_features": 8, "distance": 2, "chunk_size": 4},
    "causal_linformer": {"kind": "causal_linformer", "block_size": 4, "rank": 2},
    "local": {"kind": "local", "chunk_size": 4},
}
NO_BUCKETS = [name for name in ATTENTION if "lsh" not in name] + ["lsh, fixed buckets"]  # whatever the length
STACKS = {
    "plain": {},
    "reversible": {"reversible": True},
    "post-norm": {"norm": "post"},
    "chunked": {"ffn_chunk_size": 4, "head_dim": 3, "activation": "relu"},
    "sinusoidal": {"positions": {"kind": "sinusoidal"}},
    "axial": {"positions": {"kind": "axial", "shape": (3, 7)}, "reversible": True},
    "learned sines": {"positions": {"kind": "learned_sinusoidal"}},
    "no positions": {"positions": {"kind": "none"}, "reversible": True},
}


def model(attention, stack, seed=0, n_labels=0, length=LENGTH):
    """With weights large enough that what it says depends on what it saw, in float64 and eval mode.

    Behind a label, the tokens are a grid of 4 x 5.
    """
    torch.manual_seed(seed)
    config = StackConfig.model_validate(
        {"dim": 12, "heads": 2, "depth": 2, "ffn_dim": 20, "dropout": 0.3, "attention": ATTENTION[attention]}
        | STACKS[stack]
    )
    columns = 5 if n_labels else None
    built = build_autoregressive(
        config, vocab_size=VOCAB, max_len=length, columns=columns, n_labels=n_labels, seed=seed
    )
    built = built.double().eval()
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
    torch.testing.assert_close(torch.stack(steps, dim=1), logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("attention", NO_BUCKETS)
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
    with pytest.raises(ValueError, match=r"21 \+ 2 tokens exceed the model's 21 \+ 1"):
        built.generate(prompt, 2)


@pytest.mark.parametrize("given", [1, 5, LENGTH, LENGTH + 4])
@pytest.mark.parametrize("attention", ["full", "performer", "lsh, fixed buckets", "clipped_relative"])
def test_past_its_length_a_model_slides_its_window(attention, given):
    """When it is full, the last half of it is all that the next token knows."""
    built = model(attention, "plain")
    tokens = prompt = torch.randint(VOCAB, (2, given))
    start = max(0, given - LENGTH)
    with torch.no_grad():
        for _ in range(40):
            if tokens.shape[1] - start > LENGTH:
                start = tokens.shape[1] - LENGTH // 2
            tokens = torch.cat((tokens, built(tokens[:, start:])[:, -1:].argmax(-1)), dim=1)
    assert not built.runs_on
    numbers = []

    def choose(logits, number):
        numbers.append(number)
        return logits.argmax(-1)

    assert torch.equal(torch.stack(list(built.stream_on(prompt, 40, choose=choose)), dim=1), tokens[:, given:])
    assert numbers == list(range(40))


@pytest.mark.parametrize("attention", ["performer", "relative", "local"])
def test_where_no_cache_grows_a_model_without_positions_runs_on(attention):
    """As a longer model of the same weights does, which still knows the first token."""
    built, longer = (model(attention, "no positions", length=length) for length in (LENGTH, 60))
    longer.load_state_dict(built.state_dict())
    prompt = torch.randint(VOCAB, (2, 5))
    assert built.runs_on
    assert torch.equal(torch.stack(list(built.stream_on(prompt, 50)), dim=1), longer.generate(prompt, 50))
    assert not model(attention, "sinusoidal").runs_on
    assert not model("full", "no positions").runs_on


def test_lsh_hashes_short_sequences_as_long_ones():
    """Its number of buckets is that of the model's greatest length, however far a sequence has come."""
    built = model("lsh", "axial")
    prompt = torch.randint(VOCAB, (2, 4))
    tokens = prompt
    with torch.no_grad():
        while tokens.shape[1] < 14:
            tokens = torch.cat((tokens, built(tokens)[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(built.generate(prompt, 10), tokens[:, 4:])


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


def labelled(attention, stack="plain"):
    return model(attention, stack, n_labels=LABELS)


@pytest.mark.parametrize("attention", ["full", "lsh, fixed buckets"])
def test_a_label_stands_first_and_in_every_token(attention):
    built = labelled(attention)
    tokens, labels = torch.randint(VOCAB, (2, 6)), torch.tensor([2, 0])
    rows = []
    for sequence, label in zip(tokens.tolist(), labels.tolist(), strict=True):
        vector = built.label_embedding.weight[label]
        rows.append(torch.stack([vector, *(built.embedding.weight[token] + vector for token in sequence)]))
    x = built.stack(torch.stack(rows) + built.positions.weight[:7])
    expected = x @ built.to_logits.weight.T + built.to_logits.bias
    torch.testing.assert_close(built(tokens, labels=labels), expected, rtol=0, atol=1e-12)
    nothing = torch.empty(2, 0, dtype=torch.int64)
    torch.testing.assert_close(built(nothing, labels=labels), expected[:, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("stack", ["plain", "reversible"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_with_labels_no_token_sees_itself_or_those_behind_it(attention, stack):
    """Logits at place t are of token t, which only the label and the tokens before t may change."""
    built = labelled(attention, stack)
    tokens, labels = torch.randint(VOCAB, (2, LENGTH - 1)), torch.tensor([1, 2])
    before = built(tokens, labels=labels)
    assert before.shape == (2, LENGTH, VOCAB)
    for t in (0, 1, 8, LENGTH - 2):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1 + torch.randint(VOCAB - 1, (2,))) % VOCAB
        after = built(changed, labels=labels)
        torch.testing.assert_close(before[:, : t + 1], after[:, : t + 1], rtol=0, atol=1e-12)
        assert (before[:, t + 1] - after[:, t + 1]).abs().amax(-1).gt(1e-6).all()


@pytest.mark.parametrize("stack", ["post-norm", "axial"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_label_reaches_every_place_of_its_own_sequence(attention, stack):
    built = labelled(attention, stack)
    tokens = torch.randint(VOCAB, (2, LENGTH - 1))
    one, two = (built(tokens, labels=torch.tensor([0, label])) for label in (1, 2))
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-12)
    assert (one[1] - two[1]).abs().amax(-1).gt(1e-6).all()


def test_the_mask_does_not_hide_the_label():
    built = labelled("shared_qk")
    tokens, labels = torch.randint(VOCAB, (2, 6)), torch.tensor([1, 2])
    everything = torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(built(tokens, labels=labels, mask=everything), built(tokens, labels=labels))
    mask = everything.clone()
    mask[0, 2:4] = False
    other = tokens.clone()
    other[0, 2:4] = (other[0, 2:4] + 1) % VOCAB
    one, two = built(tokens, labels=labels, mask=mask), built(other, labels=labels, mask=mask)
    real = [0, 1, 2, 5, 6]  # places whose input is the label or a token that is not masked
    torch.testing.assert_close(one[0, real], two[0, real], rtol=0, atol=0)
    assert not torch.allclose(one[0, 5:], built(tokens, labels=labels)[0, 5:])


@torch.no_grad()
def naive_drawing(built, prompt, length, labels, choose, fill=False):
    """The whole prefix again for each token; ``fill``: with noise behind it, up to the length of the training's."""
    tokens = prompt
    for number in range(length):
        seen = tokens
        if fill:
            seen = torch.cat((tokens, torch.randint(VOCAB, (len(tokens), LENGTH - 1 - tokens.shape[1]))), dim=1)
        logits = built(seen, labels=labels)[:, tokens.shape[1]].numpy()
        new = [choose(row, sequence, number) for sequence, row in enumerate(logits)]
        tokens = torch.cat((tokens, torch.tensor(new)[:, None]), dim=1)
    return tokens[:, prompt.shape[1] :]


def greedy(row, sequence, number):
    return row.argmax()


def drawing(uniform):
    """Draws by the distribution function over the tokens from the most to the least probable."""

    def choose(row, sequence, number):
        order = np.argsort(-row)
        probability = np.exp(row[order] - row.max())
        reached = probability.cumsum() / probability.sum()
        return order[np.searchsorted(reached, uniform[sequence, number].item(), side="right")]

    return choose


@pytest.mark.parametrize("given", [0, 1, 5])
@pytest.mark.parametrize("attention", NO_BUCKETS)
def test_with_labels_generate_equals_running_the_prefix_alone(attention, given):
    built = labelled(attention)
    built.to_logits.weight.data *= 0.2  # several tokens are probable
    prompt, labels = torch.randint(VOCAB, (3, given)), torch.tensor([2, 0, 1])
    assert torch.equal(built.generate(prompt, 12, labels=labels), naive_drawing(built, prompt, 12, labels, greedy))
    uniform = torch.rand(3, 12, dtype=torch.float64)
    drawn = built.generate(prompt, 12, labels=labels, choose=sampler(uniform))
    assert torch.equal(drawn, naive_drawing(built, prompt, 12, labels, drawing(uniform)))
    assert not torch.equal(drawn, built.generate(prompt, 12, labels=labels))


@pytest.mark.parametrize("stack", ["post-norm", "axial", "learned sines"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_with_labels_generate_equals_running_everything_again(attention, stack):
    built = labelled(attention, stack)
    prompt, labels = torch.randint(VOCAB, (2, 3)), torch.tensor([2, 1])
    drawn = built.generate(prompt, LENGTH - 3, labels=labels)
    assert torch.equal(drawn, naive_drawing(built, prompt, LENGTH - 3, labels, greedy, fill=True))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("given", [0, 4])
def test_a_sequence_does_not_depend_on_those_beside_it(attention, given):
    built = labelled(attention)
    built.to_logits.weight.data *= 0.2
    prompt, labels = torch.randint(VOCAB, (3, given)), torch.tensor([0, 2, 2])
    uniform = torch.rand(3, 15, dtype=torch.float64)
    together = built.generate(prompt, 15, labels=labels, choose=sampler(uniform))
    for i in range(3):
        one = slice(i, i + 1)
        alone = built.generate(prompt[one], 15, labels=labels[one], choose=sampler(uniform[one]))
        assert torch.equal(alone, together[one])
    assert len({tuple(row) for row in together.tolist()}) == 3


def test_labels_are_given_if_and_only_if_the_model_has_them():
    tokens, labels = torch.randint(VOCAB, (2, 4)), torch.tensor([0, 1])
    for run in (lambda m, **given: m(tokens, **given), lambda m, **given: m.generate(tokens, 3, **given)):
        for built, given in ((model("full", "plain"), {"labels": labels}), (labelled("full"), {})):
            with pytest.raises(ValueError, match="if and only if the model has n_labels"):
                run(built, **given)


def test_without_labels_something_must_be_given():
    with pytest.raises(ValueError, match="must have at least one token"):
        model("full", "plain").generate(torch.empty(2, 0, dtype=torch.int64), 3)


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_label_takes_a_position(attention):
    built = labelled(attention)
    labels = torch.tensor([1])
    for given in (0, 6, LENGTH):
        prompt = torch.randint(VOCAB, (1, given))
        assert built.generate(prompt, LENGTH - given, labels=labels).shape == (1, LENGTH - given)
        with pytest.raises(ValueError, match=rf"{given} \+ {LENGTH + 1 - given} tokens exceed"):
            built.generate(prompt, LENGTH + 1 - given, labels=labels)


def test_progress_wraps_the_steps():
    """One for each new token."""
    asked, done = [], []

    def progress(steps):
        asked.append(list(steps))
        for step in steps:
            yield step
            done.append(step)

    built = labelled("full")
    prompt, labels = torch.randint(VOCAB, (2, 4)), torch.tensor([0, 1])
    with_bar = built.generate(prompt, 5, labels=labels, progress=progress)
    assert asked == [done] == [list(range(5))]
    assert torch.equal(with_bar, built.generate(prompt, 5, labels=labels))
