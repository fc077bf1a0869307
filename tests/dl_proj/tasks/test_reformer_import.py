"""Reformers made at random by the transformers library give the same logits here."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import ReformerConfig, ReformerForMaskedLM, ReformerModelWithLMHead

from dl_proj.configs.model import LanguageModelConfig
from dl_proj.models.build import build_language_model
from dl_proj.tasks.reformer_import import read_settings, translated_settings, translated_weights, unsupported

SMALL = {
    "attn_layers": ["local", "lsh"],
    "hidden_size": 16,
    "num_attention_heads": 2,
    "attention_head_size": 6,
    "feed_forward_size": 20,
    "vocab_size": 11,
    "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [6, 10],
    "max_position_embeddings": 64,
    "lsh_attn_chunk_length": 4,
    "local_attn_chunk_length": 4,
    "num_buckets": 4,
    "hash_seed": 3,
    "initializer_range": 0.4,  # their default makes attention all but uniform
    "is_decoder": True,
}


def theirs(folder=None, **changes):
    """A model at random, with vectors that are not 0 or 1, saved."""
    torch.manual_seed(0)
    config = ReformerConfig(**SMALL | changes)
    kind = ReformerModelWithLMHead if config.is_decoder else ReformerForMaskedLM
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name != "lm_head.bias":
                parameter.add_(0.3 * torch.randn_like(parameter))
    if folder is not None:
        model.save_pretrained(folder)
    return model


def ours(folder, max_len=64):
    settings = read_settings(folder / "config.json")
    assert unsupported(settings) == []
    config = LanguageModelConfig.model_validate(translated_settings(settings))
    model = build_language_model(
        config, causal=settings["is_decoder"], vocab_size=settings["vocab_size"], max_len=max_len
    )
    model.load_state_dict(translated_weights(load_file(folder / "model.safetensors"), settings, max_len))
    return model.eval()


CASES = {
    "local": {"attn_layers": ["local", "local"]},
    "local, chunk alone": {"attn_layers": ["local"], "local_num_chunks_before": 0},
    "lsh": {"attn_layers": ["lsh", "lsh"]},
    "lsh, 3 rounds": {"attn_layers": ["lsh", "lsh"], "num_hashes": 3},
    "mixed": {"attn_layers": ["local", "lsh", "local", "lsh"], "num_hashes": 2},
    "chunks of two sizes": {"lsh_attn_chunk_length": 6, "num_hashes": 2},
    "larger local chunks": {"local_attn_chunk_length": 8, "num_hashes": 2},
    "factors": {"attn_layers": ["lsh", "local"], "num_buckets": [2, 4], "num_hashes": 2},
    "three factors": {"attn_layers": ["lsh"], "num_buckets": [4, 2, 2]},
    "one factor": {"attn_layers": ["lsh"], "num_buckets": [6]},
    "positions one by one": {"axial_pos_embds": False},
    "gelu in chunks": {"hidden_act": "gelu", "chunk_size_feed_forward": 1},
    "another epsilon": {"layer_norm_eps": 0.1},
}
LENGTHS = (1, 3, 4, 5, 8, 12, 13, 24, 37)


def compare(model, mine, length, *, tolerance, masked=False):
    """Logits at real tokens."""
    tokens = torch.randint(1, 11, (3, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones(3, length, dtype=torch.bool)
    if masked:
        mask[0, length // 2 :] = False
        mask[1, ::3] = False
        mask[:, 0] = True
    with torch.no_grad():
        wanted = model(tokens, **({"attention_mask": mask} if masked else {})).logits
        found = mine(tokens, mask=mask if masked else None)
    assert wanted.abs().max() > 1, "something to compare"
    torch.testing.assert_close(found[mask], wanted[mask], rtol=0, atol=tolerance)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_same_logits(case, causal, tmp_path, monkeypatch):
    """In float32, and in float64 to its precision, where nothing is rounded away."""
    model = theirs(tmp_path, is_decoder=causal, **CASES[case])
    mine = ours(tmp_path)
    everything = [(length, masked) for length in LENGTHS for masked in (False, True)]
    for length, masked in everything:
        in_rounds = case == "chunks of two sizes" and 4 < length <= 6  # for them, where one chunk of ours holds all
        compare(model, mine, length, tolerance=2e-2 if in_rounds else 2e-5, masked=masked)
    draw = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *sizes, dtype, **how: draw(*sizes, **how).to(dtype))  # the same numbers
    for length, masked in everything:
        compare(model.double(), mine.double(), length, tolerance=1e-11, masked=masked)
