"""Swapping the attention of trained models: full for full changes nothing, and weights stay."""

import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from my_transformers.full_settings import FullSettings, SharedQKSettings
from my_transformers.interop import swap_attention
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.performer.settings import PerformerSettings

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 48}
UNEVEN = {"initializer_range": 0.1}


def text_batch():
    ids = torch.randint(3, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(20) < torch.tensor([[20], [13]])).long()}


def pictures():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def small_distilbert():
    return DistilBertModel(DistilBertConfig(vocab_size=60, dim=32, n_heads=4, n_layers=3, hidden_dim=48, **UNEVEN))


def small_gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=4, n_positions=64, **UNEVEN))


def small_vit():
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    return ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4, **UNEVEN), add_pooling_layer=False)


MODELS = {
    "bert": (lambda: BertModel(BertConfig(**SIZES, **UNEVEN), add_pooling_layer=False), text_batch),
    "distilbert": (small_distilbert, text_batch),
    "gpt2": (small_gpt2, text_batch),
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **UNEVEN)), text_batch),
    "vit": (small_vit, pictures),
    "torchvision vit": (lambda: VisionTransformer(16, 4, 3, 4, 32, 48, num_classes=5), pictures),
}


def built(name):
    torch.manual_seed(0)
    model, inputs = MODELS[name]
    model = model().eval()
    if name == "torchvision vit":
        nn.init.normal_(model.heads.head.weight)  # zero at the start: all outputs would be equal
    return model, inputs()


@pytest.mark.parametrize("name", MODELS)
def test_full_for_full_changes_nothing_and_a_performer_moves_more_with_every_layer(name):
    model, inputs = built(name)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert [one.change < 1e-5 for one in swap_attention(model, FullSettings(), inputs=inputs)] == [True] * 3
    moved = swap_attention(model, PerformerSettings(n_features=4), inputs=inputs)
    assert [one.layer for one in moved] == [0, 1, 2]
    assert all(1e-4 < one.change < 2 for one in moved)
    assert moved[0].change < moved[2].change
    kept = model.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in weights.items())
    assert len(kept) > len(weights)  # the directions


def test_the_measure_is_the_relative_change_on_real_tokens():
    model, inputs = built("bert")
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        before = model(**inputs).last_hidden_state[real]
        (moved,) = swap_attention(model, PerformerSettings(n_features=4), layers=[1], inputs=inputs)
        after = model(**inputs).last_hidden_state[real]
    assert moved.name == "encoder.layer.1.attention.self"
    assert moved.change == pytest.approx(((after - before).norm() / before.norm()).item())


def test_a_swapped_model_is_trained_with_what_the_mechanism_has_of_its_own_and_loaded_again():
    model, inputs = built("bert")
    swap_attention(model, LinformerSettings(rank=(4,), sharing="layerwise"), max_len=20)
    projections = [p for name, p in model.named_parameters() if "swapped" in name]
    assert len(projections) == 1  # shared by the layers
    model(**inputs).last_hidden_state.square().sum().backward()
    assert projections[0].grad.abs().sum() > 0
    again, _ = built("bert")
    swap_attention(again, LinformerSettings(rank=(4,), sharing="layerwise"), max_len=20)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(**inputs).last_hidden_state, model(**inputs).last_hidden_state)


def test_generation_of_a_swapped_model_uses_its_cache():
    model, inputs = built("gpt2")
    swap_attention(model, PerformerSettings(n_features=32), layers=[0, 2])
    given = {"input_ids": inputs["input_ids"], "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    given["eos_token_id"] = None
    assert torch.equal(model.generate(**given), model.generate(**given, use_cache=False))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_built_encoder_of_torch_is_swapped_where_its_fast_path_would_skip_it():
    """With padding in evaluation nn.TransformerEncoder makes nested tensors of its inputs."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).eval()
    inputs = torch.randn(2, 9, 16), None, torch.arange(9) >= torch.tensor([[9], [6]])
    real = ~inputs[2]
    with torch.no_grad():
        before = encoder(*inputs)
        swap_attention(encoder, FullSettings())
        torch.testing.assert_close(encoder(*inputs)[real], before[real], rtol=1e-5, atol=1e-5)
        swap_attention(encoder, PerformerSettings(n_features=4))
        assert (encoder(*inputs) - before)[real].abs().max() > 1e-3


def test_what_cannot_be_swapped_is_refused_and_the_model_left_alone():
    model, inputs = built("bert")
    with torch.no_grad():
        before = model(**inputs).last_hidden_state
        for settings, layers, says in (
            (SharedQKSettings(), None, "shares queries and keys"),
            (FullSettings(), [0, 3], r"\[3\] do not exist"),
            (LinformerSettings(rank=(600,)), None, "600"),
        ):
            with pytest.raises(ValueError, match=says):
                swap_attention(model, settings, layers=layers, inputs=inputs)
        assert torch.equal(model(**inputs).last_hidden_state, before)
    with pytest.raises(ValueError, match="no attention"):
        swap_attention(nn.Linear(2, 2), FullSettings())
