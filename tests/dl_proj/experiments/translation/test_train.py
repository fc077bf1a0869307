"""translation_train.py from end to end: what it leaves behind, that its figures are true, sweeps."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import sacrebleu
import tokenizers
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file
from tiny_scripts import (
    COSTS,
    PAIRS,
    as_yaml,
    call,
    one_thread,
    saved_tensors,
    tiny_translation,
    write_pairs,
)

from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import build_configured, saved_beside, translation_experiment
from dl_proj.settings.load import load_config
from my_custom_ai.custom_train.checkpoint import load_tensors

RUN = Path("runs/tiny-mt/version_0")
SEPARATE = {"data.tokenizer": {"vocab_size": 270, "joint": False}}
LEARNING = {
    "data.tokenizer.vocab_size": 310,
    "data.max_length": 16,
    "model.dim": 32,
    "train": {"max_steps": 40, "batch_tokens": 300, "eval_batch_size": 3, "eval_every": 20, "device": "cpu"},
    "train.monitor": {"metric": "val/bleu", "mode": "max"},
}
TEST = [
    *PAIRS[47:55],
    ("", "ein Hund ."),
    ("a dog .", " \t"),
    ("a man . " * 9, "ein Mann ."),
]  # of which eight fit


@pytest.fixture(autouse=True)
def pairs(monkeypatch):
    """And pictures, which take longer than the training, stay empty."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **settings: Path(path).touch())
    write_pairs()


def run_of(script, changes=None):
    """Train, expect success, and give the final figures."""
    as_yaml("c.yaml", tiny_translation({**(changes or {}), "train.trackers": []}))
    outcome = script("translation_train", "--config", "c.yaml")
    assert outcome.code == 0, outcome.lines
    return figures_of()


def figures_of(run=RUN):
    return json.loads((run / "metrics.json").read_text())


def rows_of(run=RUN):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(values):
    return {name: value for name, value in values.items() if name not in COSTS}


def test_figures_of_all_splits_are_written(script):
    figures = run_of(script, {"train.log_every": 1})
    names = {"loss", "cross_entropy", "perplexity", "accuracy", "bits_per_byte"}
    translated = {"bleu", "length_ratio", *(f"precision_{n}" for n in range(1, 5))}
    assert set(figures) == {
        "parameters",
        "steps",
        *COSTS - {"tokens_per_second"},
        "test/bleu_low",
        "test/bleu_high",
    } | {f"test/{name}" for name in names | translated}
    measured = {f"val/{name}" for name in names | translated} | {f"train/{name}" for name in names}
    assert set(rows_of()[0]) == {"step", "lr", "seconds"} | measured


@pytest.mark.parametrize(("kind", "decoder"), [("linformer", "full"), ("performer", "performer")])
def test_attention_by_its_usual_flag(kind, decoder, script):
    """Of the encoder, and of the decoder where it can be causal; the best weights are of such a model."""
    as_yaml("c.yaml", tiny_translation({"train.trackers": []}))
    outcome = script("translation_train", "--config", "c.yaml", "--model.attention.kind", kind)
    assert outcome.code == 0, outcome.lines
    config = load_config(TranslationTrainConfig, RUN / "config.yaml")
    model = config.model
    assert (model.encoder_attention.kind, model.decoder_attention.kind) == (kind, decoder)
    built = build_configured(config, saved_beside(config, RUN))
    assert {*built.state_dict()} == {*load_file(RUN / "checkpoints/best/model.safetensors")}


def test_who_trains_hears_what_is_left_out(script):
    write_pairs(pairs=[*PAIRS[:47], *TEST], sizes=(40, 7, len(TEST)))
    as_yaml("c.yaml", tiny_translation(LEARNING | {"train.max_steps": 1, "train.trackers": []}))
    lines = [line for line in script("translation_train", "--config", "c.yaml").lines if " pairs: " in line]
    reason = "1 with more than 16 tokens (data.max_length)"
    assert lines[2] == f"test pairs: 8; skipped of 11: 2 with an empty side, {reason}"
    assert lines[0].startswith("training pairs: 40; skipped of 40: 0 with")


@pytest.mark.parametrize(("rank", "lines"), [("0", 3), ("1", 0)])
def test_of_several_processes_the_first_says_it(rank, lines, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", rank)
    write_pairs(pairs=[*PAIRS[:47], *TEST], sizes=(40, 7, len(TEST)))
    translation_experiment(TranslationTrainConfig.model_validate(tiny_translation(LEARNING)))
    assert capsys.readouterr().err.count(" pairs: ") == lines


# -- figures --


@pytest.fixture(scope="module", params=["joint", "separate"])
def learned(request, tmp_path_factory):
    """The folder of a training that was long enough to get some words right, and its configuration."""
    folder = tmp_path_factory.mktemp(request.param)
    write_pairs(folder / "pairs", [*PAIRS[:47], *TEST], (40, 7, len(TEST)))
    own = {"data.corpus.folder": str(folder / "pairs"), "data.root": str(folder / "data"), "runs_dir": str(folder)}
    changes = LEARNING | own | {"data.tokenizer.joint": request.param == "joint", "train.trackers": []}
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("dl_proj.experiments.experiment.draw_curves", lambda metrics, path: path.touch())
        path = as_yaml(folder / "c.yaml", tiny_translation(changes))
        assert call("translation_train", "--config", path).code == 0
    return folder / "tiny-mt/version_0"


def loaded(run):
    """The best weights and the library's own tokenizers."""
    best = run / "checkpoints/best"
    config = load_config(TranslationTrainConfig, best / "config.yaml")
    model = build_configured(config, saved_beside(config, best))
    model.load_state_dict(load_file(best / "model.safetensors"))
    names = (
        ["tokenizer.json"] * 2 if config.data.tokenizer.joint else ["source_tokenizer.json", "target_tokenizer.json"]
    )
    sides = [tokenizers.Tokenizer.from_file(str(best / name)) for name in names]
    return model.eval(), sides


@torch.no_grad()
def naive_figures(run, pairs):
    """A pair at a time, without padding; greedy translations by running the model again for each token."""
    model, (of_source, of_target) = loaded(run)
    start, (nats, right, n_bytes) = of_target.get_vocab_size(), ([], [], 0)
    hypotheses = []
    for source, target in pairs:
        x = torch.tensor([[*of_source.encode(f" {source}").ids, of_source.get_vocab_size()]])
        tokens = [*of_target.encode(f" {target}").ids, start]
        log_p = model(x, torch.tensor([[start, *tokens[:-1]]]))[0].double().log_softmax(-1)
        nats += [-log_p[i, token].item() for i, token in enumerate(tokens)]
        right += [log_p[i].argmax().item() == token for i, token in enumerate(tokens)]
        n_bytes += len(f" {target}".encode())
        greedy = [start]
        while len(greedy) < 16:
            greedy.append(model(x, torch.tensor([greedy]))[0, -1].argmax().item())
            if greedy[-1] == start:
                break
        hypotheses.append(of_target.decode([token for token in greedy if token != start]).removeprefix(" "))
    bleu = sacrebleu.corpus_bleu(hypotheses, [[target for _, target in pairs]], smooth_method="none")
    assert bleu.score > 2, "something was learnt"
    return {
        "loss": sum(nats) / len(nats),
        "cross_entropy": sum(nats) / len(nats),
        "perplexity": math.exp(sum(nats) / len(nats)),
        "bits_per_byte": sum(nats) / math.log(2) / n_bytes,
        "accuracy": sum(right) / len(right),
        "bleu": bleu.score,
        "length_ratio": bleu.sys_len / bleu.ref_len,
    } | {f"precision_{n}": precision / 100 for n, precision in enumerate(bleu.precisions, 1)}


def test_the_figures_are_those_of_a_naive_computation(learned):
    """Of the pairs that are not left out, by the best weights."""
    figures = figures_of(learned)
    for name, value in naive_figures(learned, TEST[:8]).items():
        assert figures[f"test/{name}"] == pytest.approx(value, rel=1e-4), name


def test_evaluate_gives_the_same_figures_with_the_saved_tokenizers(learned, script):
    """Also where the training pairs, from which subwords would be learnt otherwise, have changed since."""
    pairs = learned.parents[1] / "pairs"
    for file in (pairs / "train.en", pairs / "train.de"):
        file.write_text(file.read_text().replace("a", "u"))
    assert script("evaluate", "--checkpoint", learned, "--device", "cpu", "--batch_size", 5).code == 0
    with Path("runs/evaluation/evaluation.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["task"], row["attention"]) == ("translation", "full")
    figures = {name: value for name, value in figures_of(learned).items() if name.startswith("test/")}
    assert len(figures) == 13
    for name, value in figures.items():
        assert float(row[name.removeprefix("test/")]) == pytest.approx(value, rel=1e-5), name


def test_it_learns(learned):
    """What follows what, and which words."""
    assert figures_of(learned)["test/perplexity"] < 4


def test_the_best_weights_are_those_of_the_best_bleu(learned):
    scores = {float(row["val/bleu"]): int(row["step"]) for row in rows_of(learned) if row["val/bleu"]}
    assert len(scores) > 1
    _, note = load_tensors(learned / "checkpoints/best/model.safetensors")
    assert (note["val/bleu"], note["step"]) == (pytest.approx(max(scores), rel=1e-6), scores[max(scores)])


# -- configurations --

LSH = {"kind": "lsh", "bucket_size": 4, "n_rounds": 2}
LINFORMER = {"kind": "linformer", "rank": 4}
CONFIGURATIONS = {
    "linformer in the encoder and across": {"model.encoder_attention": LINFORMER, "model.cross_attention": LINFORMER},
    "lsh, tied, post-norm": {
        "model.encoder_attention": LSH,
        "model.decoder_attention": LSH,
        "model.tied": True,
        "model.norm": "post",
    },
    "bf16, epochs, noam": {
        "train.precision": "bf16",
        "train.max_steps": None,
        "train.epochs": 1,
        "optimizer.lr": 1.0,
        "schedule": {"kind": "noam", "warmup_steps": 2},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_every_configuration_trains(case, script):
    figures = run_of(script, CONFIGURATIONS[case])
    assert 2 < figures["test/loss"] < 7
    assert figures["test/perplexity"] == pytest.approx(math.exp(figures["test/loss"]))
    assert 0 <= figures["test/bleu"] <= 100


# -- interrupted and resumed --


def test_a_kill_between_the_first_files(script):
    """There is a run with a configuration and one of two tokenizers: it begins anew."""
    run_of(script, SEPARATE)
    tensors = saved_tensors(RUN)
    for path in RUN.iterdir():
        if path.name not in ("config.yaml", "source_tokenizer.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert script("translation_train", "--config", "c.yaml", "--resume", "last").code == 0
    resumed = saved_tensors(RUN)
    assert resumed.keys() == tensors.keys() and all(torch.equal(resumed[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("changes", [{}, SEPARATE], ids=["joint", "separate"])
def test_a_resumed_run_keeps_its_subwords(changes, script):
    """Those in the run's folder, whatever the pairs say now; the record of its data would refuse that."""
    run_of(script, changes)
    saved = {path.name: path.read_bytes() for path in RUN.glob("*tokenizer.json")}
    assert saved
    write_pairs(pairs=[(source.upper(), target.upper()) for source, target in PAIRS])
    (RUN / "data.json").unlink()
    assert script("translation_train", "--config", "c.yaml", "--resume", "last").code == 0
    assert {path.name: path.read_bytes() for path in RUN.glob("*tokenizer.json")} == saved


# -- a sweep --


def test_a_sweep_by_bleu(script):
    as_yaml("base.yaml", tiny_translation({"task": "translation"} | LEARNING | {"train.max_steps": 3}))
    variants = {"vanilla": {}, "linformer": {f"model.{side}_attention": LINFORMER for side in ("encoder", "cross")}}
    common = {"train.trackers": []}
    sweep = {"base": "base.yaml", "output_dir": "swept", "metric": "val/bleu", "common": common, "variants": variants}
    outcome = script("sweep", "--config", as_yaml("s.yaml", sweep))
    assert outcome.code == 0, outcome.lines
    with Path("swept/sweep.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert [rows[name]["model.encoder_attention.kind"] for name in variants] == ["", "linformer"]
    for name, row in rows.items():
        figures = figures_of(Path("swept") / name / "version_0")
        assert (row["best step"], float(row["test/bleu"])) == ("3", pytest.approx(figures["test/bleu"]))
        history = [row["val/bleu"] for row in rows_of(Path("swept") / name / "version_0") if row["val/bleu"]]
        assert float(row["val/bleu"]) in [pytest.approx(float(score), rel=1e-6) for score in history]
    assert int(rows["linformer"]["parameters"]) - int(rows["vanilla"]["parameters"]) == 2 * 2 * 4 * 16
