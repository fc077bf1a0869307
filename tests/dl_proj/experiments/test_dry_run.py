"""--dry_run and --quick: what a training would cost, and whether it works at all."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_scripts import (
    TEXT,
    as_yaml,
    assert_refused,
    files_below,
    tiny,
    tiny_classifier,
    tiny_generator,
    tiny_language,
    tiny_translation,
    write_pairs,
)
from torch import nn

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.copy.train import build_copy_model, copy_experiment
from dl_proj.experiments.dry_run import Costs, measured_costs, parts_of, report
from dl_proj.experiments.experiment import build_trainer
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.images.classification.train import build_classification_model
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import build_configured
from dl_proj.text.tokenizers import Tokenizer
from my_custom_ai import Ratio
from my_custom_ai.custom_train import Monitor, Pace, RunDirectory, start

TRAININGS = {
    "synth_train": tiny({"model.reversible": True, "model.depth": 2}),
    "cls_train": tiny_classifier(),
    "generation_train": tiny_generator(),
    "lm_train": tiny_language({"data.tokenizer": {"kind": "bpe", "vocab_size": 300}, "data.window": 8}),
    "translation_train": tiny_translation(),
}


@pytest.fixture(autouse=True)
def texts():
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    write_pairs()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_dry_run_tells_what_the_training_then_is_and_leaves_no_run(name, script):
    as_yaml("c.yaml", TRAININGS[name])
    outcome = script(name, "--config", "c.yaml", "--dry_run")
    assert outcome.code == 0
    assert not Path("runs").exists()
    assert script(name, "--config", "c.yaml").code == 0
    figures = json.loads(next(Path("runs").glob("*/*/metrics.json")).read_text())
    assert f" {figures['parameters']:,} parameters\n" in outcome.out
    rows = re.findall(r"^\| \S+ +\| .+? \| ([\d,]+) +\| [\d.]+% +\|$", outcome.out, re.MULTILINE)
    assert sum(int(row.replace(",", "")) for row in rows) == figures["parameters"]
    for line in ("FLOPs", "memory", "time", "training", "evaluation", "total"):
        assert re.search(rf"^  {line} +\S", outcome.out, re.MULTILINE), line


@pytest.mark.parametrize("flag", ["--dry_run", "--quick"])
def test_a_run_that_is_resumed_is_no_try(flag, script):
    assert_refused(script("synth_train", flag, "--resume", "last"), [(flag, "--resume", "last")])


def test_a_wrong_setting_is_found_before_anything_is_measured(script):
    as_yaml("c.yaml", tiny({"train.batch_size": 65}))
    outcome = script("synth_train", "--config", "c.yaml", "--dry_run")
    assert_refused(outcome, [("c.yaml: train.batch_size", 65, 64)])


MODELS = {
    "equal layers": tiny({"model.depth": 3}),
    "two kinds of layers": tiny({"model.depth": 3, "model.attention": {"kind": "lsh"}})
    | {"model": {"dim": 8, "heads": 2, "depth": 3, "attentions": [{"kind": "local"}, {"kind": "shared_qk"}]}},
    "shared by all layers": tiny_classifier(
        {"model.depth": 2, "model.attention": {"kind": "linformer", "rank": 2, "sharing": "layerwise"}}
    ),
    "a parameter of the model's own": tiny_classifier({"model.pooling": "class_token"}),
    "one matrix on both ends": tiny_language({"model.tied": True}),
}


@pytest.mark.parametrize("case", MODELS)
def test_the_parts_make_up_the_whole(case):
    if "dataset" in MODELS[case]["data"]:
        model = build_classification_model(ClassifierTrainConfig.model_validate(MODELS[case]), 10)
    elif "window" in MODELS[case]["data"]:
        model = build_configured(LanguageTrainConfig.model_validate(MODELS[case]), Tokenizer())
    else:
        model = build_copy_model(SynthTrainConfig.model_validate(MODELS[case]))
    rows = parts_of(model)
    counts = {row["part"]: int(row["parameters"].replace(",", "")) for row in rows}
    assert sum(int(row["parameters"].replace(",", "")) for row in rows) == sum(p.numel() for p in model.parameters())
    assert counts["stack.layers.*.feed_forward"] == sum(
        p.numel() for layer in model.stack.layers for p in layer.feed_forward.parameters()
    )
    attention = [row["module"] for row in rows if row["part"] == "stack.layers.*.attention"]
    expected = {
        "equal layers": ["3 x SharedQKAttention"],
        "two kinds of layers": ["2 x LocalAttention", "SharedQKAttention"],
        "shared by all layers": ["2 x LinformerAttention"],
        "a parameter of the model's own": ["FullAttention"],
        "one matrix on both ends": ["FullAttention"],
    }
    assert attention == expected[case]
    assert ("itself" in counts) == (case == "a parameter of the model's own")


def test_what_is_measured_is_a_step_of_the_training():
    """A linear model of 100 x 100 numbers: 2 * 100 * 100 operations an example forward, as many for its gradient."""
    config = SynthTrainConfig.model_validate(tiny({"train.trackers": []}))
    model = nn.Linear(100, 100, bias=False)

    class Sum:
        def measure(self, model, batch):
            return {"loss": Ratio(model(torch.ones(len(batch), 100)).sum(), len(batch))}

    experiment = copy_experiment(config)
    experiment = type(experiment)(model, Sum(), experiment.train_data, experiment.val_data, experiment.test_data)
    trainer = build_trainer(config, experiment, 16, RunDirectory("none"), start("cpu"))
    costs = measured_costs(trainer, experiment)
    assert costs.flops == 2 * 8 * (2 * 100 * 100)
    weights_and_moments = 3 * 4 * 100 * 100
    gradient = 4 * 100 * 100
    assert weights_and_moments + gradient <= costs.peak_bytes < weights_and_moments + 4 * gradient
    assert 0 < costs.seconds < 1 and 0 < costs.evaluation_seconds < 1
    assert not Path("none").exists()


def test_the_whole_is_its_steps_and_evaluations():
    pace = Pace(total_steps=1000, batch_size=2, eval_every=300, eval_batch_size=10)
    trainer = SimpleNamespace(pace=pace, monitor=Monitor(), accelerator=SimpleNamespace(num_processes=2))
    experiment = SimpleNamespace(val_data=range(50), test_data=range(205))
    text = report(
        Costs(flops=3_000_000_000, peak_bytes=2_000_000, seconds=0.5, evaluation_seconds=2.0), trainer, experiment
    )
    lines = {line[2:12].strip(): line[13:] for line in text.splitlines()}
    assert lines["FLOPs"].startswith("3 billion per step")
    assert lines["memory"].startswith("2 MB")
    assert lines["training"] == "8 min for 1,000 steps"
    assert lines["evaluation"] == "46 s for 4 x 3 batches, and 11 for the test", "of each process"
    assert lines["total"] == "about 9 min"


# -- --quick --

QUICK = {
    "cls_train": ["--config", "cls_digits.yaml"],
    "synth_train": ["--config", "demo.yaml", "--data.length", "32", "--data.n_train", "640"],
    "generation_train": ["--config", "gen_digits.yaml"],
    "lm_train": ["--config", "lm_demo.yaml", "--data.path", "text.txt", "--data.window", "16", "--data.root", "tokens"],
    "translation_train": [
        *("--data.corpus.folder", "pairs", "--data.corpus.test", "test"),
        *("--data.tokenizer.vocab_size", "280", "--train.batch_tokens", "400"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_preset_is_tried_to_the_end_in_a_folder_of_its_own(name, script):
    outcome = script(name, *QUICK[name], "--quick", "--train.device", "cpu")
    assert outcome.code == 0, outcome
    (run,) = Path("runs").glob("*-quick/version_0")
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["steps"] == 20
    assert any(key.startswith("test/") for key in figures)
    pace = yaml.safe_load((run / "config.yaml").read_text())["train"]
    assert (pace["max_steps"], pace["epochs"], pace["max_eval_batches"]) == (20, None, 2)


@pytest.mark.slow
def test_flags_count_more_than_quick(script):
    as_yaml("c.yaml", tiny())
    flags = ["--train.epochs", "1", "--train.max_eval_batches", "1", "--experiment_name", "mine"]
    assert script("synth_train", "--config", "c.yaml", "--quick", *flags).code == 0
    config = yaml.safe_load(Path("runs/mine/version_0/config.yaml").read_text())
    assert (config["train"]["max_steps"], config["train"]["epochs"]) == (None, 1)
    assert config["train"]["max_eval_batches"] == 1
    assert all(path.startswith(("runs/mine/", "c.yaml", "text.txt", "pairs/")) for path in files_below("."))
