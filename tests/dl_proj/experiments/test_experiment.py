"""Every setting of a training reaches the engine: none is accepted and ignored."""

import json
from pathlib import Path

import pytest
import torch
from tiny_scripts import GONE, call, tiny, tiny_yaml

import dl_proj.experiments.copy.train as copy_training
import dl_proj.experiments.experiment
from dl_proj.experiments.copy.settings import SynthDataConfig, SynthTrainConfig
from dl_proj.experiments.experiment import build_schedule
from dl_proj.experiments.settings import (
    ConstantConfig,
    ExperimentConfig,
    MonitorConfig,
    NoamConfig,
    OneCycleConfig,
    OptimizerConfig,
    TrainConfig,
    WarmupCosineConfig,
)
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import load_config
from my_custom_ai.custom_train import RunDirectory


class Handed(Exception):
    """Carries what the trainer was made of, in place of training."""


@pytest.fixture
def handed_over(monkeypatch):
    """What ``train_to_copy`` hands to the engine: the trainer's arguments and those of the accelerator."""
    begun = {}
    begin = dl_proj.experiments.experiment.start

    def start(device, precision, matmul_precision, wait_minutes):
        begun.update(device=device, precision=precision, matmul_precision=matmul_precision, wait_minutes=wait_minutes)
        return begin("cpu", "no")

    def stop(model, task, optimizer, **others):
        raise Handed(dict(model=model, task=task, optimizer=optimizer, **others))

    monkeypatch.setattr(dl_proj.experiments.experiment, "start", start)
    monkeypatch.setattr(dl_proj.experiments.experiment, "Trainer", stop)

    def hand_over(changes=None):
        with pytest.raises(Handed) as end:
            copy_training.train_to_copy(SynthTrainConfig.model_validate(tiny(changes)))
        return end.value.args[0] | {"start": dict(begun)}

    return hand_over


def rates(handed):
    return [group["lr"] for group in handed["optimizer"].param_groups]


def group(name):
    return lambda handed: handed["optimizer"].param_groups[0][name]


def pace(name):
    return lambda handed: getattr(handed["pace"], name)


def monitor(name):
    return lambda handed: getattr(handed["monitor"], name)


# for each section and field: (another value, other changes that it needs, where it is seen, what is seen there)
FIELDS = {
    (OptimizerConfig, "optimizer"): {
        "name": ("adamw", {}, lambda handed: type(handed["optimizer"]), torch.optim.AdamW),
        "lr": (0.5, {}, rates, [0.5, 0.5]),
        "weight_decay": (0.25, {}, lambda h: [g["weight_decay"] for g in h["optimizer"].param_groups], [0.25, 0.0]),
        "betas": ([0.5, 0.75], {}, group("betas"), (0.5, 0.75)),
        "eps": (0.125, {}, group("eps"), 0.125),
    },
    (MonitorConfig, "train.monitor"): {
        "metric": ("val/accuracy", {"train.monitor.mode": "max"}, monitor("metric"), "val/accuracy"),
        "mode": ("max", {"train.monitor.metric": "val/accuracy"}, monitor("mode"), "max"),
        "patience": (4, {}, monitor("patience"), 4),
        "min_delta": (0.5, {}, monitor("min_delta"), 0.5),
        "target": (0.5, {}, monitor("target"), 0.5),
    },
    (TrainConfig, "train"): {
        "max_steps": (77, {}, pace("total_steps"), 77),
        "epochs": (3, {"train.max_steps": None}, pace("total_steps"), 3 * 64 // 8),
        "batch_size": (4, {}, pace("batch_size"), 4),
        "eval_batch_size": (5, {}, pace("eval_batch_size"), 5),
        "accumulate": (2, {}, pace("accumulate"), 2),
        "clip_norm": (0.5, {}, pace("clip_norm"), 0.5),
        "eval_every": (9, {}, pace("eval_every"), 9),
        "save_every": (9, {}, pace("save_every"), 9),
        "save_minutes": (0.5, {}, pace("save_minutes"), 0.5),
        "wait_minutes": (2.5, {}, lambda h: h["start"]["wait_minutes"], 2.5),
        "log_every": (9, {}, pace("log_every"), 9),
        "max_eval_batches": (3, {}, pace("max_eval_batches"), 3),
        "precision": ("bf16", {}, lambda h: h["start"]["precision"], "bf16"),
        "matmul_precision": ("high", {}, lambda h: h["start"]["matmul_precision"], "high"),
        "device": ("auto", {}, lambda h: h["start"]["device"], "auto"),
        "parallel": ("fsdp", {}, lambda h: h["parallel"], "fsdp"),
        "num_workers": (2, {}, pace("num_workers"), 2),
        "trackers": ([], {}, pace("trackers"), ()),
        "monitor": ({"patience": 5}, {}, monitor("patience"), 5),
    },
    (ExperimentConfig, ""): {
        "experiment_name": ("other", {}, lambda h: h["run"].path, Path("runs/other/version_0")),
        "runs_dir": ("elsewhere", {}, lambda h: h["run"].path, Path("elsewhere/tiny/version_0")),
        "seed": (5, {}, lambda h: (h["seed"], h["train_data"].seed, h["val_data"].seed), (5, 5, 5)),
        "optimizer": ({"lr": 0.25}, {}, rates, [0.25, 0.25]),
        "schedule": (
            {"kind": "constant", "warmup_steps": 2},
            {},
            lambda h: [h["schedule"](step) for step in range(3)],
            [0.5, 1.0, 1.0],
        ),
        "train": ({"max_steps": 5, "device": "cpu"}, {"train.batch_size": 2}, pace("total_steps"), 5),
    },
}
CASES = [(schema, section, name) for (schema, section), fields in FIELDS.items() for name in fields]


@pytest.mark.parametrize(("schema", "fields"), [(schema, fields) for (schema, _), fields in FIELDS.items()])
def test_the_table_is_complete(schema, fields):
    of_weights = {"init_from", "init_strict"}  # see test_starting_weights.py
    assert set(fields) == set(schema.model_fields) - of_weights


@pytest.mark.parametrize(("schema", "section", "name"), CASES)
def test_each_setting_reaches_the_engine(schema, section, name, handed_over):
    value, others, look, expected = FIELDS[schema, section][name]
    assert look(handed_over()) != expected, "the case shows nothing"
    assert look(handed_over({f"{section}.{name}".lstrip("."): value, **others})) == expected


def test_the_seed_decides_the_initial_weights_and_the_hashes(handed_over):
    lsh = {"model.attention": {"kind": "lsh", "bucket_size": 4}}
    one, same, other = (handed_over(lsh | {"seed": seed})["model"] for seed in (1, 1, 2))
    assert torch.equal(one.embedding.weight, same.embedding.weight)
    assert not torch.equal(one.embedding.weight, other.embedding.weight)
    assert [m.stack.layers[0].attention.mechanism.seed for m in (one, other)] == [1, 2]


def test_each_setting_of_the_data_reaches_the_datasets(handed_over, monkeypatch):
    seen = {}
    train_and_test = copy_training.train_and_test

    def watch(config, experiment, dim, resume):
        seen["experiment"] = experiment
        return train_and_test(config, experiment, dim, resume)

    monkeypatch.setattr(copy_training, "train_and_test", watch)
    values = {
        "vocab_size": 9,
        "length": 15,
        "n_train": 40,
        "fresh": False,
        "n_val": 7,
        "n_test": 9,
        "corruption": 0.25,
    }
    of_recall = {"n_pairs": 3, "gap_power": 0.5, "filler": "random"}
    assert {"task", *values, *of_recall} == set(SynthDataConfig.model_fields)
    handed = handed_over({f"data.{name}": value for name, value in values.items()})
    experiment = seen["experiment"]
    datasets = {"train": experiment.train_data, "val": experiment.val_data, "test": experiment.test_data}
    assert handed["train_data"] is datasets["train"]
    assert handed["val_data"] is datasets["val"]
    for split, data in datasets.items():
        assert (data.split, len(data)) == (split, values[f"n_{split}"])
        assert (data.vocab_size, data.length, data.corruption, data.fresh) == (9, 15, 0.25, False)
    assert handed["model"].embedding.num_embeddings == 9
    assert handed["model"].positions.max_len == 14
    assert handed["task"].second_start == 8
    handed_over({"data": {"task": "recall", "vocab_size": 19, "length": 20, **of_recall}})
    experiment = seen["experiment"]
    for data in (experiment.train_data, experiment.val_data, experiment.test_data):
        assert (data.vocab_size, data.length) == (19, 20)
        assert {name: getattr(data, name) for name in of_recall} == of_recall
    assert experiment.model.positions.max_len == 20
    handed_over()
    fresh = [
        d.fresh for d in (seen["experiment"].train_data, seen["experiment"].val_data, seen["experiment"].test_data)
    ]
    assert fresh == [True, False, False], "validation and test stay what they are"


def test_a_resumed_run_stays_where_it_is(handed_over):
    run = RunDirectory(Path("old/run"))
    with pytest.raises(Handed) as end:
        copy_training.train_to_copy(SynthTrainConfig.model_validate(tiny()), run)
    assert end.value.args[0]["run"] is run
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("settings", "n_examples", "processes", "steps"),
    [
        ({"epochs": 3, "batch_size": 10}, 105, 1, 30),  # what does not fill a batch is left out
        ({"epochs": 3, "batch_size": 10, "accumulate": 4}, 105, 1, 7),
        ({"epochs": 3, "batch_size": 10}, 105, 2, 15),
        ({"epochs": 1, "batch_size": 10, "accumulate": 40}, 105, 1, 1),
        ({"max_steps": 9, "batch_size": 10, "accumulate": 4}, 105, 2, 9),
    ],
)
def test_steps_of_a_training(settings, n_examples, processes, steps):
    assert TrainConfig(**settings).steps(n_examples, processes) == steps


def test_each_schedule_gets_its_settings():
    """Values that follow from the papers' formulas, at the places where each setting shows."""
    constant = build_schedule(ConstantConfig(warmup_steps=4), 10, 64)
    assert [constant(t) for t in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    cosine = build_schedule(WarmupCosineConfig(warmup_steps=2, final_factor=0.25), 11, 64)
    assert [cosine(t) for t in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert cosine(6) == pytest.approx((1 + 0.25) / 2), "half way down"
    assert cosine(10) == pytest.approx(0.25)
    cycle = build_schedule(OneCycleConfig(warmup_share=0.5, start_divisor=4, final_divisor=10), 12, 64)
    assert [cycle(t) for t in (0, 5)] == [pytest.approx(0.25), pytest.approx(1.0)]
    assert cycle(11) == pytest.approx(1 / 40)
    noam = build_schedule(NoamConfig(warmup_steps=16), 100, 64)
    assert noam(15) == pytest.approx(64**-0.5 * 16**-0.5)
    assert noam(3) == pytest.approx(64**-0.5 * 4 * 16**-1.5)
    assert noam(63) == pytest.approx(64**-0.5 * 64**-0.5)


def test_the_noam_schedule_gets_the_models_width(handed_over):
    changes = {"schedule": {"kind": "noam", "warmup_steps": 1}, "optimizer.lr": 1.0}
    narrow, wide = (handed_over(changes | {"model.dim": dim})["schedule"](0) for dim in (16, 64))
    assert (narrow, wide) == (0.25, 0.125)


# what the file says, what flags say, and what comes of it: max_steps, epochs, warm-up
LENGTHS = {
    "steps for epochs": ({"epochs": 5, "warmup": 7}, {"max_steps": 30}, (30, None, 7)),
    "epochs for steps": ({"max_steps": 50, "warmup": 7}, {"epochs": 30}, (None, 30, 7)),
    "the warm-up no longer fits": ({"max_steps": 500, "warmup": 70}, {"max_steps": 70}, (70, None, 7)),
    "it just fits": ({"max_steps": 500, "warmup": 70}, {"max_steps": 71}, (71, None, 70)),
    "a single step": ({"epochs": 5, "warmup": 7}, {"max_steps": 1}, (1, None, 0)),
    "fewer epochs": ({"epochs": 6, "warmup": 30}, {"epochs": 2}, (None, 2, 10)),
    "more epochs": ({"epochs": 6, "warmup": 30}, {"epochs": 12}, (None, 12, 30)),
    "another flag": ({"max_steps": 50, "warmup": 7}, {"batch_size": 2}, (50, None, 7)),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_flags_for_the_length_replace_that_of_the_file(case):
    file, flags, expected = LENGTHS[case]
    pace = {"max_steps": GONE, "epochs": GONE} | file
    schedule = {"kind": "constant", "warmup_steps": pace.pop("warmup")}
    changes = {"schedule": schedule, "train.max_steps": pace["max_steps"]}
    tiny_yaml("c.yaml", changes | ({"train.epochs": file["epochs"]} if "epochs" in file else {}))
    config = load_config(SynthTrainConfig, Path("c.yaml"), {"train": {key: str(value) for key, value in flags.items()}})
    assert (config.train.max_steps, config.train.epochs, config.schedule.warmup_steps) == expected


def test_a_warm_up_among_the_flags_is_not_changed():
    tiny_yaml("c.yaml", {"schedule": {"kind": "noam"}, "train.max_steps": 9000})
    flags = {"train": {"max_steps": "30"}}
    assert load_config(SynthTrainConfig, Path("c.yaml"), flags).schedule.warmup_steps == 3, "noam's own default is 4000"
    with pytest.raises(ConfigError, match=r"schedule.warmup_steps 40 must be less than the 30 steps"):
        load_config(SynthTrainConfig, Path("c.yaml"), flags | {"schedule": {"warmup_steps": "40"}})


def test_at_its_start_a_script_says_what_it_trains(script):
    tiny_yaml("c.yaml", {"train.accumulate": 2, "model.attention": {"kind": "lsh", "bucket_size": 4}})
    outcome = script("synth_train", "--config", "c.yaml", "--train.precision", "bf16")
    run, device, model, data, training, end = outcome.out.splitlines()[:6]
    figures = json.loads(Path("runs/tiny/version_0/metrics.json").read_text())
    assert run == "runs/tiny/version_0"
    assert device.split()[:2] == ["device", "cpu"] and device.endswith("bfloat16 autocast")
    assert "LSH-4" in model and model.endswith(f" {figures['parameters']:,} parameters")
    assert [word for word in data.split() if word.isdigit()] == ["64", "16", "16"]
    assert [word for word in training.split() if word.strip(",").isdigit()] == ["3", "2", "8", "2"]
    assert end.startswith("runs/tiny/version_0: parameters")


def test_a_resumed_run_says_where_it_goes_on(script):
    tiny_yaml("c.yaml")
    assert script("synth_train", "--config", "c.yaml").code == 0
    outcome = script("synth_train", "--resume", "runs/tiny/version_0")
    assert outcome.out.startswith("runs/tiny/version_0, resumed after step 3\n")


def test_the_final_test_shows_a_bar(capfd):
    tiny_yaml("c.yaml", {"train.eval_batch_size": 4})
    call("synth_train", "--config", "c.yaml")
    assert "tiny: test: 100%" in capfd.readouterr().err
