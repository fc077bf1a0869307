"""Our mechanisms in models of transformers: exact where they are exact, near where they approximate, or refused."""

import sys

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PegasusXConfig,
    PegasusXModel,
)

from my_transformers.full_settings import FullSettings
from my_transformers.interop.transformers import register
from my_transformers.linformer.settings import CausalLinformerSettings, LinformerSettings
from my_transformers.local_settings import LocalSettings
from my_transformers.lsh.settings import LSHSettings
from my_transformers.performer.settings import PerformerSettings
from my_transformers.relative.settings import RelativeSettings

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
LONG = {"max_position_embeddings": 64}
UNEVEN = 0.2  # standard deviation of weights that makes attention uneven; the default, 0.02, is nearly a mean


def llama(std=UNEVEN, **others):
    torch.manual_seed(0)
    own = {"num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": None, "initializer_range": std}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **LONG, **own, **others)).eval()


def bert(std=UNEVEN, **others):
    torch.manual_seed(0)
    config = BertConfig(**SIZES, **LONG, initializer_range=std, **others)
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def batch():
    """Two samples of 24 tokens, of which the second has 17 real ones, at the end as in a prompt."""
    ids = torch.randint(3, 60, (2, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_min(0)}


@torch.no_grad()
def outputs(model, batch, implementation=None):
    if implementation is not None:
        model.set_attn_implementation(implementation)
    out = model(**batch)
    return getattr(out, "logits", getattr(out, "last_hidden_state", None))[batch["attention_mask"].bool()]


@pytest.mark.parametrize("model_of", [llama, bert])
@pytest.mark.parametrize("theirs", ["sdpa", "eager"])
def test_full_equals_their_own_attention_on_real_tokens(model_of, theirs, batch):
    (name,) = register(FullSettings())
    model = model_of()
    own = outputs(model, batch, theirs)
    torch.testing.assert_close(outputs(model, batch, name), own, rtol=0, atol=1e-5)


def test_a_decoder_whose_attention_does_not_say_that_it_is_causal_sees_no_later_tokens(batch):
    """Its is_causal is False; only the mask that transformers makes hides later tokens."""
    (name,) = register(FullSettings())
    torch.manual_seed(0)
    sizes = {
        f"{part}_{key}": n for part in ("encoder", "decoder") for key, n in (("layers", 2), ("attention_heads", 4))
    }
    config = PegasusXConfig(vocab_size=60, d_model=32, init_std=UNEVEN, encoder_ffn_dim=48, decoder_ffn_dim=48, **sizes)
    model = PegasusXModel(config).eval()
    assert not model.decoder.layers[0].self_attn.is_causal
    given = {key: batch[key] for key in ("input_ids", "attention_mask")} | {"decoder_input_ids": batch["input_ids"]}
    for more in ({}, {"decoder_attention_mask": batch["attention_mask"].flip(1)}):  # all real, and with padding
        shown = more.get("decoder_attention_mask", torch.ones_like(batch["input_ids"])).bool()
        found = []
        for one in ("eager", name):
            model.set_attn_implementation(one)
            with torch.no_grad():
                found.append(model(**given, **more).last_hidden_state[shown])
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_of", [llama, bert])
def test_performer_comes_nearer_with_features_and_is_near_with_4096(model_of, batch):
    model = model_of(std=0.1)
    exact, off = outputs(model, batch), {}
    for m in (64, 4096):
        (name,) = register(PerformerSettings(n_features=m), name=f"performer-{m}")
        off[m] = (outputs(model, batch, name) - exact).norm() / exact.norm()
    assert off[4096] < 0.05
    assert off[4096] < off[64] / 2


def test_scale_of_the_model_is_used(batch):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, bos_token_id=0
    )
    config.scale_attn_by_inverse_layer_idx = True
    model = GPT2LMHeadModel(config).eval()
    (name,) = register(FullSettings())
    own = outputs(model, batch, "eager")
    torch.testing.assert_close(outputs(model, batch, name), own, rtol=0, atol=1e-5)


CACHED = {
    "full": FullSettings(),
    "performer": PerformerSettings(n_features=32),
    "local": LocalSettings(chunk_size=4),
    "causal-linformer": CausalLinformerSettings(projection="mean", block_size=8, rank=(2,)),
}


@pytest.mark.parametrize("settings", CACHED.values(), ids=CACHED)
def test_cached_steps_equal_the_whole_sequence(settings, batch):
    """The prompt at once, then one token, then three, against one forward of all; logits, not only the likeliest."""
    (name,) = register(settings, name=f"cached-{settings.kind}")
    for count in (1, 2):  # without padding, and with
        part = {key: value[:count] for key, value in batch.items()}
        model = llama().double()
        whole = outputs(model, part, name)
        cache, found = None, []
        for first, end in ((0, 20), (20, 21), (21, 24)):
            new = {key: value[:, first:end] for key, value in part.items()} | {"attention_mask": part["attention_mask"]}
            with torch.no_grad():
                out = model(**{k: v[:, :end] if k == "attention_mask" else v for k, v in new.items()}, cache=cache)
            cache = out.cache
            found.append(out.logits)
        steps = torch.cat(found, dim=1)[part["attention_mask"].bool()]
        torch.testing.assert_close(steps, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("settings", CACHED.values(), ids=CACHED)
def test_generation_with_cache_equals_generation_without(settings, batch):
    (name,) = register(settings, name=f"cached-{settings.kind}")
    model = llama(attn_implementation=name)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with_cache, without = (
        model.generate(**given, max_new_tokens=12, do_sample=False, use_cache=use) for use in (True, False)
    )
    assert with_cache.shape == (2, 36)
    assert torch.equal(with_cache, without)


@pytest.mark.parametrize("settings", CACHED.values(), ids=CACHED)
def test_padding_on_the_left_changes_nothing(settings, batch):
    """Also where chunks and blocks are counted from the first token."""
    (name,) = register(settings, name=f"cached-{settings.kind}")
    model = llama().double()
    padded = outputs(model, batch, name)[24:]
    alone = outputs(model, {key: value[1:, 7:] for key, value in batch.items()})
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-9)


def test_layers_have_directions_of_their_own_and_the_same_after_saving(batch, tmp_path):
    (name,) = register(PerformerSettings(n_features=16), name="saved")
    model = bert(attn_implementation=name)
    first = outputs(model, batch)
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path, add_pooling_layer=False, attn_implementation=name).eval()
    assert torch.equal(outputs(again, batch), first)
    one, two = (layer.attention.self._dl_proj_mechanisms[name, False].projection for layer in model.encoder.layer)
    assert not torch.equal(one, two)


def test_dropout_is_the_models_in_training_only(batch):
    (name,) = register(FullSettings())
    model = bert(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0, attn_implementation=name)
    still = outputs(model, batch)
    assert not torch.equal(outputs(model.train(), batch), outputs(model, batch))
    assert torch.equal(outputs(model.eval(), batch), still)


REFUSED = {  # settings, what the message must name
    "shared queries and keys": (LSHSettings(), llama, "shares queries and keys"),
    "direction": (LinformerSettings(projection="mean"), llama, "causal=True"),
    "own parameters": (LinformerSettings(rank=(8,)), bert, "swap_attention"),
    "own positions": (RelativeSettings(), bert, "swap_attention"),
    "a state": (PerformerSettings(redraw_every=5), bert, "swap_attention"),
    "larger than the model": (LinformerSettings(projection="mean", rank=(200,)), bert, "200"),
}


@pytest.mark.parametrize(("settings", "model_of", "names"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_by_name(settings, model_of, names, batch):
    (name,) = register(settings, name="refused")
    with pytest.raises(ValueError, match=f"{settings.kind}.*{names}"):
        outputs(model_of(), batch, name)


def test_masks_that_are_not_padding_are_refused(batch):
    (name,) = register(FullSettings())
    model = llama(attn_implementation=name)
    with pytest.raises(ValueError, match="differ between queries"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(2, 1, 24, 24, dtype=torch.bool))
    packed = torch.arange(12).repeat(2, 2)
    with pytest.raises(ValueError, match="packed"):
        model(input_ids=batch["input_ids"], position_ids=packed, use_cache=False)
    with pytest.raises(ValueError, match=r"\(2, 24, 24\)"):
        model(input_ids=batch["input_ids"], attention_mask=torch.ones(2, 24, 24, dtype=torch.bool))
    with pytest.raises(ValueError, match="DynamicCache"):
        model.generate(batch["input_ids"], max_new_tokens=3, cache_implementation="static")


def test_weights_are_refused_also_where_the_config_asks_for_them(batch):
    """Instead of an empty tuple."""
    (name,) = register(FullSettings())
    with pytest.raises(ValueError, match="attention weights"):
        outputs(bert(output_attentions=True), batch, name)


@pytest.mark.parametrize("name", ["a/b", "my-flash"])
def test_names_that_transformers_reads_as_kernels_are_refused(name):
    with pytest.raises(ValueError, match="must not contain"):
        register(FullSettings(), name=name)


def test_without_transformers_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install 'transformers>=5'"):
        register()
