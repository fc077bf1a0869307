"""Which mechanisms can be exported, with which axes of any size: over the registry, in onnxruntime and PyTorch."""

import onnx
import pytest
import torch

from dl_proj.exporting.graphs import Input, graph_of, onnx_runner, write_onnx, write_program
from dl_proj.models.attention_settings import SCHEMAS
from dl_proj.models.build import build_language_model
from dl_proj.models.settings import LanguageModelConfig
from my_transformers import SETTINGS

MAX_LEN, VOCAB = 40, 16
SMALL = {  # several chunks, blocks and buckets within MAX_LEN
    "local": {"chunk_size": 8},
    "lsh": {"bucket_size": 4, "n_rounds": 2},
    "transformers_lsh": {"chunk_size": 8, "n_rounds": 2},
    "clipped_relative": {"distance": 2, "chunk_size": 8},
    "causal_linformer": {"block_size": 16, "rank": 4},
} | {kind: {"chunk_size": 8} for kind in ("performer", "relative", "linear")}
LENGTHS = {  # True: a graph serves any length; else the one that it was made for
    "full": True,
    "shared_qk": True,
    "lsh": True,
    "local": True,
    "transformers_lsh": False,
    "performer": True,
    "relative": True,
    "clipped_relative": True,
    "linformer": True,
    "causal_linformer": False,
    "linear": True,
    "nystrom": True,
}
EACH = [(declared.kind, True in declared.directions) for declared in SETTINGS]
EACH += [("lsh", False), ("performer", False)]  # whose graphs differ by direction: buckets by length, sums over all


def model_of(kind, causal, **others):
    config = LanguageModelConfig(dim=16, heads=2, ffn_dim=16, attention=SCHEMAS[kind](**SMALL.get(kind, {})), **others)
    torch.manual_seed(0)
    return build_language_model(config, causal=causal, vocab_size=VOCAB, max_len=MAX_LEN).eval()


def inputs_of(any_length):
    length = MAX_LEN - 3 if any_length else MAX_LEN
    axes = {0: "batch", 1: "length"} if any_length else {0: "batch"}
    return {"tokens": Input(torch.randint(VOCAB, (3, length)), axes)}


@torch.no_grad()
def assert_same(run, model, any_length):
    for length in (MAX_LEN, 1, 9, 30) if any_length else (MAX_LEN,):
        for batch in (1, 4):
            tokens = torch.randint(VOCAB, (batch, length))
            torch.testing.assert_close(run({"tokens": tokens}), model(tokens), rtol=1e-5, atol=1e-5)


def test_the_table_is_what_the_settings_declare():
    declared = {one.kind: one().exports_any_length for one in SETTINGS}
    assert declared == LENGTHS


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "causal"), EACH)
def test_graph_of_every_mechanism_gives_the_models_logits(kind, causal, tmp_path):
    model, inputs = model_of(kind, causal), inputs_of(LENGTHS[kind])
    program = graph_of(model, inputs, max_len=MAX_LEN)
    write_program(program, tmp_path / "model.pt2")
    write_onnx(program, inputs, tmp_path / "model.onnx")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for run in (lambda given: loaded(**given), onnx_runner(tmp_path / "model.onnx")):
        assert_same(run, model, LENGTHS[kind])
    graph = onnx.load(tmp_path / "model.onnx").graph
    (tokens,) = [[size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim] for one in graph.input]
    assert tokens == (["batch", "length"] if LENGTHS[kind] else ["batch", MAX_LEN])


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [
        {"reversible": True, "depth": 2},
        {"positions": {"kind": "axial", "shape": (5, 8)}},
        {"ffn_chunk_size": 8, "norm": "post"},
    ],
    ids=["reversible", "axial", "chunked"],
)
def test_graph_of_other_layers_and_positions_gives_the_models_logits(others, tmp_path):
    model, inputs = model_of("full", True, **others), inputs_of(True)
    write_onnx(graph_of(model, inputs, max_len=MAX_LEN), inputs, tmp_path / "model.onnx")
    assert_same(onnx_runner(tmp_path / "model.onnx"), model, True)


@pytest.mark.slow
def test_exporting_leaves_the_model_as_it_is():
    model = model_of("linear", True, ffn_chunk_size=8).train()
    graph_of(model, inputs_of(True), max_len=MAX_LEN)
    assert model.training
    layer = model.stack.layers[0]
    assert (layer.attention.mechanism.chunk_size, layer.feed_forward.chunk_size) == (8, 8)
