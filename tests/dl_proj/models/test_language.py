"""Models of token sequences that look both ways; tied embeddings; and text given token by token."""

import pytest
import torch
from torch import nn

from dl_proj.models.build import build_language_model
from dl_proj.models.generation import AutoregressiveModel
from dl_proj.models.sampling import sampler
from dl_proj.models.settings import LanguageModelConfig
from my_custom_ai.custom_train import load_weights, save_weights

VOCAB, LENGTH = 11, 20

BIDIRECTIONAL = {
    "full": {"kind": "full"},
    "shared_qk": {"kind": "shared_qk"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "lsh, chunks": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2, "rule": "chunk"},
    "performer": {"kind": "performer", "n_features": 8},
    "relative": {"kind": "relative", "n_features": 16, "n_scales": 2},
    "clipped_relative": {"kind": "clipped_relative", "n_features": 8, "distance": 2},
    "linformer": {"kind": "linformer", "rank": 5},
}


def model(causal, seed=0, **settings):
    """With weights so large that what it says depends on what it saw, in float64 and eval mode."""
    config = LanguageModelConfig.model_validate({"dim": 12, "heads": 2, "depth": 2, "ffn_dim": 20} | settings)
    torch.manual_seed(seed)
    built = build_language_model(config, causal=causal, vocab_size=VOCAB, max_len=LENGTH, seed=seed)
    built = built.double().eval()
    for name, parameter in built.named_parameters():
        if "norm" not in name and "_proj" not in name:
            nn.init.normal_(parameter, std=0.6)
    return built


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_the_forward_is_embedding_positions_stack_logits(causal, tied):
    built = model(causal, tied=tied, attention={"kind": "full"})
    tokens = torch.randint(VOCAB, (3, LENGTH))
    x = built.stack(built.embedding.weight[tokens] + built.positions.weight)
    matrix = built.embedding.weight if tied else built.to_logits.weight
    torch.testing.assert_close(built(tokens), x @ matrix.T + built.to_logits.bias)


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("attention", BIDIRECTIONAL)
def test_every_place_sees_both_sides(attention, reversible):
    """Itself, too: a mask that stands there says where it is. Under LSH, who shares a bucket in one layer."""
    built = model(False, attention=BIDIRECTIONAL[attention], reversible=reversible)
    tokens = torch.randint(VOCAB, (1, LENGTH))
    before = built(tokens)
    moved = torch.stack([(built(other_at(tokens, place)) - before)[0].abs().amax(-1) > 1e-9 for place in range(LENGTH)])
    assert moved.diagonal().all()
    assert moved.triu(1).any() and moved.tril(-1).any()
    if "lsh" not in attention:
        assert moved.all()


def other_at(tokens, place):
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % VOCAB
    return other


def test_logits_at_some_places_are_those_of_all_at_these():
    built = model(False, attention={"kind": "full"})
    tokens, at = torch.randint(VOCAB, (3, LENGTH)), torch.rand(3, LENGTH) < 0.3
    torch.testing.assert_close(built(tokens, at=at), built(tokens)[at])
    assert built(tokens, at=torch.zeros_like(at)).shape == (0, VOCAB)


def test_a_masked_model_cannot_continue_anything():
    assert not isinstance(model(False, attention={"kind": "full"}), AutoregressiveModel)
    assert isinstance(model(True, attention={"kind": "full"}), AutoregressiveModel)


def test_padding_is_invisible_where_a_mask_says_so():
    built = model(False, attention={"kind": "full"})
    tokens, mask = torch.randint(VOCAB, (2, LENGTH)), torch.ones(2, LENGTH).bool()
    mask[1, 15:] = False
    expected = built(tokens[1:, :15])
    torch.testing.assert_close(built(tokens, mask=mask)[1:, :15], expected)


@pytest.mark.parametrize("causal", [False, True])
def test_a_tied_model_has_one_matrix_which_both_uses_train(causal, tmp_path):
    tied, apart = (model(causal, tied=tied, attention={"kind": "full"}) for tied in (True, False))
    apart.load_state_dict(tied.state_dict())
    tokens = torch.randint(VOCAB, (2, LENGTH))
    for net in (tied, apart):
        net(tokens).square().sum().backward()
    expected = apart.embedding.weight.grad + apart.to_logits.weight.grad
    torch.testing.assert_close(tied.embedding.weight.grad, expected)
    assert [tuple(p.shape) for p in tied.parameters()].count((VOCAB, 12)) == 1
    save_weights(tmp_path / "model.safetensors", tied)
    again = model(causal, seed=1, tied=True, attention={"kind": "full"})
    load_weights(tmp_path / "model.safetensors", again)
    torch.testing.assert_close(again(tokens), tied(tokens))
    assert again.to_logits.weight is again.embedding.weight


def test_a_tied_model_starts_without_an_opinion():
    """Small embeddings: the first logits are nearly alike, so the first loss is nearly log vocab."""
    torch.manual_seed(0)
    config = LanguageModelConfig(dim=64, heads=4, tied=True, attention={"kind": "full"})
    built = build_language_model(config, causal=True, vocab_size=256, max_len=LENGTH).eval()
    assert built(torch.randint(256, (4, LENGTH))).std() < 0.3


CAUSAL = {"attention": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}, "reversible": True, "tied": True}


def test_streamed_tokens_are_those_that_are_generated():
    built = model(True, **CAUSAL)
    prompt, uniform = torch.randint(VOCAB, (3, 4)), torch.rand(3, 9, dtype=torch.float64)
    choose = sampler(uniform, temperature=2.0)
    streamed = torch.stack(list(built.stream(prompt, 9, choose=choose)), dim=1)
    assert torch.equal(streamed, built.generate(prompt, 9, choose=choose))
    assert streamed.unique().numel() > 3


def test_a_token_is_given_before_the_next_is_drawn():
    built, drawn = model(True, **CAUSAL), []

    def choose(logits, number):
        drawn.append(number)
        assert not logits.requires_grad
        return logits.argmax(-1)

    stream = built.stream(torch.randint(VOCAB, (1, 4)), 5, choose=choose)
    assert drawn == [], "nothing is computed before it is asked for"
    for number in range(5):
        assert not next(stream).requires_grad
        assert drawn == list(range(number + 1))
        assert torch.is_grad_enabled(), "in between, the caller's settings hold"
    assert list(stream) == []


def test_a_stream_of_too_much_is_refused():
    built = model(True, **CAUSAL)
    with pytest.raises(ValueError, match=r"4 \+ 18 tokens exceed the model's 20 \+ 1"):
        next(built.stream(torch.randint(VOCAB, (1, 4)), 18))
    assert built.generate(torch.randint(VOCAB, (1, 4)), 0).shape == (1, 0)
