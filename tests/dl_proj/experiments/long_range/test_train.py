"""lra_train.py from end to end, what its model pools, and the mistakes that its settings find."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_scripts import TINY_LONG_RANGE, as_yaml, assert_refused, changed, saved_tensors, tiny_long_range
from torch import nn

import dl_proj
from dl_proj.experiments.long_range.published import PUBLISHED, TASKS, published_rows
from dl_proj.experiments.long_range.sequences import Sequences
from dl_proj.experiments.long_range.settings import LongRangeTrainConfig
from dl_proj.experiments.long_range.train import build_sequence_classifier, long_range_experiment

RUN = Path("runs/tiny-lra/version_0")
KINDS = {
    "full": {"kind": "full"},
    "local": {"kind": "local", "chunk_size": 4},
    "linear": {"kind": "linear"},
    "lsh": {"kind": "lsh", "bucket_size": 4, "n_rounds": 2},
    "linformer": {"kind": "linformer", "rank": 6},
    "performer": {"kind": "performer", "n_features": 16, "kernel": "relu"},
    "nystrom": {"kind": "nystrom", "n_landmarks": 4, "kernel_size": 3},
}


def model_of(changes=None, n_classes=10):
    """In float64, with weights so large that every token counts."""
    config = LongRangeTrainConfig.model_validate(tiny_long_range({"model.classifier_dim": 64} | (changes or {})))
    built = build_sequence_classifier(config, n_classes)
    for name, parameter in built.double().eval().named_parameters():
        if "norm" not in name:
            nn.init.normal_(parameter, std=0.6)
    return built


@pytest.mark.parametrize("pooling", ["mean", "class_token"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_invisible_and_every_token_counts(kind, pooling):
    """Whatever stands at a place that is not real, and whether there is such a place."""
    model = model_of({"model.attention": KINDS[kind], "model.pooling": pooling, "model.depth": 2})
    tokens = torch.randint(15, (3, 1, 18))
    mask = torch.arange(18) < torch.tensor([18, 11, 5]).view(3, 1, 1)
    logits = model(tokens, mask)
    torch.testing.assert_close(model(torch.where(mask, tokens, (tokens + 1) % 15), mask), logits)
    torch.testing.assert_close(model(tokens, mask.new_ones(3, 1, 18))[0], model(tokens)[0])
    for row, n in enumerate((18, 11, 5)):
        torch.testing.assert_close(model(tokens[row : row + 1, :, :n]), logits[row : row + 1])
    other = tokens.clone()
    other[1, 0, 10] = (tokens[1, 0, 10] + 1) % 15
    moved = (model(other, mask) - logits).abs().amax(1)
    if not (kind == "lsh" and pooling == "class_token"):  # which sees one bucket only
        assert moved[1] > 1e-6
    assert moved[[0, 2]].max() < 1e-9


def test_what_is_pooled_is_the_mean_over_real_tokens_and_two_layers_follow():
    model = model_of()
    tokens, mask = torch.randint(15, (2, 1, 9)), torch.ones(2, 1, 9, dtype=torch.bool)
    mask[1, 0, 4:] = False
    seen = model.stack(model.positions(model.embedding(tokens[:, 0])), mask=mask[:, 0])
    first, _, last = model.to_logits
    for row, n in enumerate((9, 4)):
        pooled = seen[row, :n].mean(0)
        torch.testing.assert_close(model(tokens, mask)[row], last(first(pooled).clamp(min=0)))


def test_two_documents_share_their_tower():
    model = model_of({"data": {"kind": "retrieval", "max_length": 12}}, n_classes=2)
    one, other = torch.randint(256, (2, 4, 12))
    vectors = [model.stack(model.positions(model.embedding(text))).mean(1) for text in (one, other)]
    a, b = vectors
    expected = model.to_logits(torch.cat((a, b, a * b, a - b), dim=1))
    torch.testing.assert_close(model(torch.stack((one, other), dim=1)), expected)


@pytest.fixture
def trained(script):
    outcome = script("lra_train", "--config", as_yaml("c.yaml", TINY_LONG_RANGE))
    assert outcome.code == 0, outcome.lines
    return outcome


def test_a_training_ends_with_its_own_figure_beside_those_of_the_papers(trained):
    figures = json.loads((RUN / "metrics.json").read_text())
    table = trained.out.split("\n\n")[-1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    named = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    assert named[0]["source"] == str(RUN)
    assert float(named[0]["test accuracy"]) == pytest.approx(figures["test/accuracy"], abs=5e-5)
    assert [(row["named"], row["test accuracy"]) for row in named[1:]] == [
        ("Transformer", "0.3637"),
        ("Standard", "0.3710"),
    ]
    assert [row["source"] for row in named[1:]] == ["Tay et al. 2021, table 1", "Xiong et al. 2021, table 3"]


def test_the_published_tables_are_whole():
    """Xiong et al. print the means themselves."""
    assert all(len(figures) == len(TASKS) for table in PUBLISHED.values() for _, figures in table.values())
    means = [round(sum(figures) / len(TASKS), 2) for _, figures in PUBLISHED["Xiong et al. 2021, table 3"].values()]
    assert means == [58.77, 55.04, 55.59, 53.63, 58.95]
    (row,) = published_rows("pathfinder", ["local", "local"])
    assert (row["named"], row["test accuracy"]) == ("Local Attention", 0.6663)
    assert published_rows("listops", ["relative"]) == []


def test_a_trained_model_is_loaded_evaluated_and_asked(trained, script):
    loaded = dl_proj.load(RUN, device="cpu")
    experiment = long_range_experiment(loaded.config)
    figures, right = json.loads((RUN / "metrics.json").read_text()), []
    for (tokens,), label in (experiment.test_data[i] for i in range(16)):
        (said,) = loaded.predict([bytes(tokens.tolist())])
        assert sum(said.values()) == pytest.approx(1)
        right.append(next(iter(said)) == str(label))
    assert sum(right) / 16 == figures["test/accuracy"]
    one, other = loaded.predict(["[MAX 2 9 [MIN 4 7 ] 0 ]", "[SM 1 2 ]"])
    assert one == pytest.approx(loaded.predict(["( [MAX 2 ) 9 [MIN 4 7 ] 0 ]"])[0])
    assert one != other
    for wrong in ("[ADD 1 2 ]", "", b"\x0f", "1 " * 19, ("1", "2")):
        with pytest.raises(ValueError, match=r"symbol|must be|must have"):
            loaded.predict([wrong])
    outcome = script("evaluate", "--checkpoint", RUN, "--device", "cpu", "--data.n_val", "4")
    assert outcome.code == 0, outcome.lines
    assert f"| {figures['test/accuracy']:.4f} " in outcome.out
    assert "| long_range, listops |" in outcome.out, "accuracies of the tasks stand in tables of their own"


def test_an_interrupted_training_goes_on_to_the_same_weights(trained, script):
    whole = saved_tensors(RUN)
    longer = ["--config", "c.yaml", "--experiment_name", "again"]
    assert script("lra_train", *longer, "--train.max_steps", "2").code == 0
    outcome = script("lra_train", "--resume", "runs/again/version_0", "--train.max_steps", "3")
    assert outcome.code == 0, outcome.lines
    parts = saved_tensors(Path("runs/again/version_0"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items() if name.startswith("model"))
    assert any(name.startswith("model") for name in whole)


def test_batches_of_similar_length_hold_less_padding(script, monkeypatch):
    """In training and evaluation; the first batch is the trainer's trial of its objective."""
    seen, collate = [], Sequences.collate
    monkeypatch.setattr(Sequences, "collate", lambda data, items: seen.append(items) or collate(data, items))

    def padding(similar):
        seen.clear()
        changes = {"train.similar_sizes": similar, "train.max_steps": 8, "train.eval_batch_size": 4}
        assert script("lra_train", "--config", as_yaml("c.yaml", changed(TINY_LONG_RANGE, changes))).code == 0
        lengths = [[len(tokens) for (tokens,), _ in items] for items in seen]
        assert sum(len(batch) == 8 for batch in lengths) == 8
        return [sum(max(b) * len(b) - sum(b) for b in lengths if len(b) == n) for n in (8, 4)]

    for few, many in zip(padding(True), padding(False), strict=True):
        assert few < many / 2


def test_other_data_is_not_what_a_run_goes_on_with(trained, script):
    shutil.rmtree("data")
    config = RUN / "config.yaml"
    config.write_text(config.read_text().replace("n_test: 16", "n_test: 17"))
    outcome = script("lra_train", "--resume", RUN, "--train.max_steps", "4")
    assert outcome.code == 2
    assert any("test data" in line for line in outcome.lines)


def test_a_sweep_prints_what_is_published_once(script):
    as_yaml("c.yaml", TINY_LONG_RANGE)
    variants = json.dumps({"linformer": {"model.attention": KINDS["linformer"]}, "full": {}})
    outcome = script("sweep", "--base", "c.yaml", "--variants", variants, "--common", '{"task": "long_range"}')
    assert outcome.code == 0, outcome.lines
    for name, count in (("Transformer", 1), ("Linformer", 2)):
        assert len(re.findall(rf"\| {name} ", outcome.out.split("written: ")[1])) == count


def test_examples_are_drawn_or_printed(script):
    outcome = script("lra_examples", "--data.side", "16", "--number", "4", "--output", "page.png")
    assert outcome.code == 0, outcome.lines
    assert outcome.out.splitlines()[-1].endswith(": apart 50.0%, joined 50.0%")
    with Image.open("page.png") as page:
        assert min(page.size) > 200
    outcome = script("lra_examples", "--config", as_yaml("c.yaml", TINY_LONG_RANGE), "--number", "3")
    assert re.fullmatch(r"(\d: \[\w+ .* \]\n){3}.*: 0 \d.*\n", outcome.out), outcome.out
    assert not Path("data").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data.min_length": 30}, [("c.yaml: data", "min_length", 30, 18)]),
        ({"data.kind": "lists"}, [("c.yaml: data.kind", "'lists'")]),
        ({"data.side": 8}, [("c.yaml: data.side", 8)]),
        ({"data": {"kind": "text", "source": "folder"}}, [("c.yaml: data", "path", "folder")]),
        ({"data": {"kind": "text", "path": "x"}}, [("c.yaml: data", "path", "x", "imdb")]),
        ({"model.attention": {"kind": "linformer", "rank": 19}}, [("c.yaml: model.attention.rank", 19, 18)]),
        ({"model.attention": {"kind": "causal_linformer"}}, [("c.yaml: model.attention.kind", "causal_linformer")]),
        ({"model.attention": {"kind": "transformers_lsh"}}, [("c.yaml: model.attention.kind", "transformers_lsh")]),
        (
            {"data": {"kind": "pathfinder", "side": 16}, "train.similar_sizes": True},
            [("c.yaml: train.similar_sizes", "pathfinder", True)],
        ),
        ({"train.batch_size": 65}, [("c.yaml: train.batch_size", 65, 64)]),
        ({"schedule": {"kind": "warmup_linear", "warmup_steps": 3}}, [("c.yaml: schedule.warmup_steps", 3, 3)]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_mistakes(changes, expected, script):
    assert_refused(script("lra_train", "--config", as_yaml("c.yaml", changed(TINY_LONG_RANGE, changes))), expected)
