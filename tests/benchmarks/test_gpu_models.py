"""The GPU stage "models": its FLOPs beside torch's own count, the cards' rates, and its tables."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import models
from benchmarks.gpu.by_length import key_of
from dl_proj.models.attention_settings import AttentionSchema
from dl_proj.models.build import build_language_model
from dl_proj.models.settings import LanguageModelConfig
from my_transformers import PerformerAttention
from my_transformers.full_settings import FullSettings
from my_transformers.linformer.settings import LinformerSettings
from my_transformers.lsh.settings import LSHSettings
from my_transformers.performer.settings import PerformerSettings

BATCH, LENGTH = 3, 24


def config_of(attention, reversible=False):
    return LanguageModelConfig(
        dim=32, heads=2, depth=3, ffn_dim=80, attention=AttentionSchema.of(attention), reversible=reversible
    )


def counted(call):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    by_operator = counter.get_flop_counts()["Global"]
    of_attention = by_operator.pop(torch.ops.aten.bmm)
    return sum(by_operator.values()), of_attention


def test_flops_of_full_attention_are_those_that_torch_counts():
    config = config_of(FullSettings())
    model = build_language_model(config, causal=True, vocab_size=models.VOCABULARY, max_len=LENGTH)
    text = torch.randint(models.VOCABULARY, (BATCH, LENGTH + 1))
    linear, attention = counted(models.training_step(model, text))
    expected = linear + attention * (LENGTH + 1) / (2 * LENGTH)  # torch computes the whole square of weights
    assert models.model_flops(model, config, BATCH, LENGTH) == expected
    config = config_of(FullSettings(), reversible=True)  # what it computes twice counts once
    model = build_language_model(config, causal=True, vocab_size=models.VOCABULARY, max_len=LENGTH)
    assert models.model_flops(model, config, BATCH, LENGTH) == expected


def test_flops_of_performer_are_those_that_torch_counts_without_causality():
    heads, head_dim, features = 2, 64, 256
    mechanism = PerformerAttention(head_dim, n_features=features)
    q, k, v = (torch.randn(1, heads, 128, head_dim) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        mechanism(q, k, v)
    own, hashing = models._attention_flops(PerformerSettings(n_features=features), heads * head_dim, 128)
    assert hashing == 0
    assert 128 * own == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_flops_of_lsh_grow_with_rounds_until_the_window_is_full():
    short, _ = models._attention_flops(LSHSettings(bucket_size=64, n_rounds=1), 32, 101)
    assert short == 4 * 32 * 50  # all in one window: 0 to 100 keys, 50 on average
    long, hashing = models._attention_flops(LSHSettings(bucket_size=64, n_rounds=4), 32, 4096)
    assert (long, hashing) == (4 * 32 * 4 * 128, 4 * 32 * 64)
    with pytest.raises(ValueError, match="linformer"):
        models._attention_flops(LinformerSettings(), 32, 64)


def test_peak_rate_is_the_cards_or_else_what_was_measured(tmp_path):
    sanity = tmp_path / "sanity.json"
    for name, tera in {
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA L40S": 362,
        "NVIDIA L4": 121,
        "NVIDIA GeForce RTX 4090": 165,
    }.items():
        assert models.peak_rate(name, sanity) == tera * 1e12
    for name in ("NVIDIA L40", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert models.peak_rate(name, sanity) is None
    sanity.write_text(json.dumps({"cases": {"bfloat16 product": {"TFLOP/s": {"median": 90, "min": 80, "max": 100}}}}))
    assert models.peak_rate("NVIDIA L40", sanity) == 1e14
    sanity.write_text(json.dumps({"cases": {"bfloat16 product": {"error": "OutOfMemoryError", "lasting": True}}}))
    assert models.peak_rate("NVIDIA L40", sanity) is None


def case(seconds, length, peak=1e12):
    size = {"batch": 8192 // length, "length": length}
    return {"seconds": seconds, "peak": 3 * 2**29, **size, "flops": 1e11, "peak FLOP/s": peak}


def test_tables_show_speed_memory_and_utilisation():
    found = {
        (models.FULL, 2048, models.PLAIN): case([0.4, 0.5, 9.0], 2048),
        ("LSH-2", 2048, models.PLAIN): case([0.25], 2048),
        ("LSH-2", 4096, models.PLAIN): case([0.25], 4096),
        (models.FULL, 4096, models.PLAIN): {"error": "OutOfMemoryError: CUDA", "lasting": True},
        ("LSH-2", 2048, models.REVERSIBLE): case([0.5], 2048, peak=None),
    }
    tables = models.tables({"cases": {key_of(*key): one for key, one in found.items()}})
    speed, times, memory, utilisation = (tables[title] for title in tables if title.startswith("Plain"))
    assert speed == [
        {"": models.FULL, "2,048": "16.4", "4,096": "out of memory"},
        {"": "LSH-2", "2,048": "32.8", "4,096": "32.8"},
    ]
    assert times[1] == {"": "LSH-2", "2,048": "2.00", "4,096": None}
    assert memory[1]["2,048"] == "1.50"
    assert [row["2,048"] for row in utilisation] == ["20.0", "40.0"]
    assert not any("utilisation" in title for title in tables if title.startswith("Reversible"))
