"""From a file and flags to a configuration: what wins, what a kind brings and drops, what YAML means."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_scripts import GONE, as_yaml, tiny, tiny_classifier, tiny_yaml

from dl_proj.experiments.copy.settings import SynthComparisonConfig, SynthTrainConfig
from dl_proj.experiments.images.classification.settings import ClassifierTrainConfig
from dl_proj.experiments.language.import_settings import ImportReformerConfig
from dl_proj.experiments.settings import ConstantConfig, NoamConfig, OneCycleConfig, WarmupCosineConfig
from dl_proj.experiments.translation.settings import TranslateConfig
from dl_proj.models.attention_settings import SCHEMAS
from dl_proj.models.settings import AxialPositionsConfig, LearnedPositionsConfig
from dl_proj.settings.errors import ConfigError
from dl_proj.settings.load import differences, load_config, merge, parse_flags
from dl_proj.settings.read_yaml import read_yaml

FullConfig, LocalConfig, LSHConfig, SharedQKConfig = (SCHEMAS[kind] for kind in ("full", "local", "lsh", "shared_qk"))


def loaded(changes=None, *flags, schema=SynthTrainConfig):
    """The configuration that a script would run: the tiny file, changed, and flags over it."""
    path = tiny_yaml("c.yaml", changes)
    options, overrides = parse_flags(schema, ["--config", str(path), *flags], Path("preset.yaml"))
    return load_config(schema, options.config, overrides)


LSH = {"model.attention": {"kind": "lsh", "bucket_size": 4, "n_rounds": 3, "window": 5, "dropout": 0.25}}

# flags, then what they change (dotted attribute: value); everything else stays the file's
FLAGS = {
    "a number": (["--model.dim", "24"], {"model.dim": 24}),
    "with =": (["--model.dim=24"], {"model.dim": 24}),
    "a fraction": (["--optimizer.lr", "1e-4"], {"optimizer.lr": 1e-4}),
    "no": (["--data.fresh", "false"], {"data.fresh": False}),
    "yes": (["--model.reversible", "true"], {"model.reversible": True}),
    "nothing": (["--train.max_steps", "null", "--train.epochs", "2"], {"train.max_steps": None, "train.epochs": 2}),
    "a path": (["--runs_dir", "else/where"], {"runs_dir": Path("else/where")}),
    "text that looks like a number": (["--experiment_name", "7"], {"experiment_name": "7"}),
    "a pair with a comma": (["--optimizer.betas", "0.5,0.75"], {"optimizer.betas": (0.5, 0.75)}),
    "a pair as JSON": (["--optimizer.betas", "[0.5, 0.75]"], {"optimizer.betas": (0.5, 0.75)}),
    "an empty list": (["--train.trackers", "[]"], {"train.trackers": ()}),
    "the word no": (["--train.precision", "no"], {"train.precision": "no"}),
    "a section as JSON": (
        ["--optimizer", '{"lr": 0.5, "name": "adamw"}'],
        {"optimizer.lr": 0.5, "optimizer.name": "adamw"},
    ),
    "a section as JSON and a flag in it": (
        ["--optimizer", '{"lr": 0.5, "eps": 0.1}', "--optimizer.lr", "0.25"],
        {"optimizer.lr": 0.25, "optimizer.eps": 0.1},
    ),
    "three sections": (
        ["--seed", "9", "--train.monitor.patience", "2", "--data.corruption", "0.5"],
        {"seed": 9, "train.monitor.patience": 2, "data.corruption": 0.5},
    ),
    "a key of the kind in the file": (["--model.attention.n_rounds", "8"], {"model.attention.n_rounds": 8}),
    "the kind that the file has already": (["--model.attention.kind", "lsh"], {}),
    "that kind and a key": (
        ["--model.attention.kind", "lsh", "--model.attention.window", "null"],
        {"model.attention.window": None},
    ),
    "another kind": (["--model.attention.kind", "full"], {"model.attention": FullConfig()}),
    "another kind with a key": (
        ["--model.attention.kind", "shared_qk", "--model.attention.dropout", "0.5"],
        {"model.attention": SharedQKConfig(dropout=0.5)},
    ),
    "another kind as JSON": (["--model.attention", '{"kind": "full"}'], {"model.attention": FullConfig()}),
    "a kind for what the file leaves out": (
        ["--model.positions.kind", "axial", "--model.positions.shape", "3,4"],
        {"model.positions": AxialPositionsConfig(shape=(3, 4))},
    ),
    "a schedule": (
        ["--schedule.kind", "noam", "--schedule.warmup_steps", "2"],
        {"schedule": NoamConfig(warmup_steps=2)},
    ),
}


def with_value(values, dotted, value):
    key, _, rest = dotted.partition(".")
    return values | {key: with_value(values[key], rest, value) if rest else value}


@pytest.mark.parametrize("case", FLAGS)
def test_a_flag_overrides_the_file_and_nothing_else(case):
    flags, changed = FLAGS[case]
    expected = loaded(LSH).model_dump()
    for dotted, value in changed.items():
        expected = with_value(expected, dotted, value.model_dump() if hasattr(value, "model_dump") else value)
    assert loaded(LSH, *flags).model_dump() == expected


def test_another_kind_starts_from_its_own_defaults_also_where_both_have_the_key():
    """dropout stands in the file for lsh; full has it too, but the file never spoke of full."""
    assert loaded(LSH, "--model.attention.kind", "full").model.attention == FullConfig(dropout=0.0)
    file = {"schedule": {"kind": "constant", "warmup_steps": 1}, "train.max_steps": 5000}
    assert loaded(file, "--schedule.kind", "noam").schedule == NoamConfig(warmup_steps=4000)
    assert loaded(file, "--schedule.kind", "warmup_cosine").schedule == WarmupCosineConfig(warmup_steps=0)
    assert loaded(file, "--schedule.kind", "one_cycle").schedule == OneCycleConfig()
    axial = {"model.positions": {"kind": "axial", "shape": [3, 4]}}
    assert loaded(axial, "--model.positions.kind", "learned").model.positions == LearnedPositionsConfig()


def test_a_list_of_kinds():
    """In a file, and as JSON in its place; saved and read again it is the same."""
    file = {"model.attention": GONE, "model.attentions": [{"kind": "full"}]}
    assert loaded(file).model.attentions == (FullConfig(),)
    flags = ["--model.depth", "2", "--model.attentions", '[{"kind": "local", "back": 2}, {"kind": "full"}]']
    config = loaded(file, *flags)
    assert config.model.attentions == (LocalConfig(back=2), FullConfig())
    assert SynthTrainConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
    flags = ["--model.attentions", "null", "--model.attention.kind", "lsh", "--model.attention.bucket_size", "4"]
    assert loaded(file, *flags).model.mechanisms == (LSHConfig(bucket_size=4),)


def test_a_flag_in_a_section_that_the_file_lacks_changes_the_schemas_own_section():
    """Not the class's: an import's text is enwik8, a layer's attention LSH."""
    path = as_yaml("c.yaml", {"source": "x"})
    imported = load_config(ImportReformerConfig, path, {"data": {"window": 3}})
    assert imported.data == ImportReformerConfig(source="x").data.model_copy(update={"window": 3})
    assert imported.data.source == "enwik8"
    assert loaded({"model.attention": GONE}, "--model.attention.bucket_size", "3").model.attention == LSHConfig(
        bucket_size=3
    )
    other = loaded({"model.attention": GONE}, "--model.attention.kind", "local", "--model.attention.chunk_size", "3")
    assert other.model.attention == LocalConfig(chunk_size=3)


def test_the_file_overrides_the_defaults_and_leaves_the_others():
    config = loaded({"seed": 5})
    assert config.seed == 5
    assert config.schedule == ConstantConfig()
    assert config.model.attention == SharedQKConfig()
    assert SynthTrainConfig.model_validate(tiny({"model.attention": GONE, "data.length": 60})).model.attention == (
        LSHConfig()
    )


def test_a_kind_beside_settings_whose_kind_goes_without_saying():
    """The comparison's lsh has one kind only; naming it in a flag keeps what the file says."""
    Path("c.yaml").write_text("checkpoints: [a]\nlsh: {bucket_size: 5}\n")
    config = load_config(SynthComparisonConfig, Path("c.yaml"), {"lsh": {"kind": "lsh", "window": "7"}})
    assert config.lsh == LSHConfig(bucket_size=5, window=7)


def test_the_environment_sets_nothing(monkeypatch):
    for name in ("SEED", "seed", "MODEL", "model", "EXPERIMENT_NAME", "experiment_name", "model.dim", "TRAIN"):
        monkeypatch.setenv(name, "7")
    Path(".env").write_text("seed=7\n")
    assert parse_flags(SynthTrainConfig, ["--model.heads", "4"], Path("p.yaml"))[1] == {"model": {"heads": "4"}}
    assert loaded() == SynthTrainConfig.model_validate(tiny())


def test_only_what_was_given_is_an_override():
    options, overrides = parse_flags(SynthTrainConfig, [], Path("p.yaml"))
    assert overrides == {}
    assert (options.config, options.resume) == (None, None)
    options, overrides = parse_flags(SynthTrainConfig, ["--seed", "1", "--resume", "last"], Path("p.yaml"))
    assert (options.resume, overrides) == ("last", {"seed": "1"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1e-04", 1e-4), ("1.e-4", 1e-4), (".001", 1e-3), ("1", 1.0), ("'0.5'", 0.5)],
)
def test_numbers_that_yaml_1_1_takes_for_words(text, value):
    tiny_yaml("c.yaml")
    file = Path("c.yaml").read_text().replace("lr: 0.01", f"lr: {text}")
    Path("c.yaml").write_text(file)
    lr = load_config(SynthTrainConfig, Path("c.yaml")).optimizer.lr
    assert lr == value
    assert isinstance(lr, float)


REFUSED = object()
ODD_NUMBERS = {  # as written: the whole number, the number and the word that it is
    "010": (10, 10.0, "010"),
    "007": (7, 7.0, "007"),
    "08": (8, 8.0, "08"),
    "1:30": (REFUSED, REFUSED, "1:30"),
    "1:30.5": (REFUSED, REFUSED, "1:30.5"),
    "190:20:30": (REFUSED, REFUSED, "190:20:30"),
    "0o10": (REFUSED, REFUSED, "0o10"),
    "0x1F": (REFUSED, REFUSED, "0x1F"),
    "0b11": (REFUSED, REFUSED, "0b11"),
    "1_000": (1000, 1000.0, "1_000"),
    "1_0.5": (REFUSED, 10.5, "1_0.5"),
    "1e2": (REFUSED, 100.0, "1e2"),
    "1.5e3": (REFUSED, 1500.0, "1.5e3"),
    "+5": (5, 5.0, "+5"),
    "12": (12, 12.0, "12"),
}


@pytest.mark.parametrize("written", ODD_NUMBERS)
def test_numbers_are_read_as_they_are_written_in_a_file_as_in_a_flag(written):
    """By YAML 1.1, 010 is 8 and 1:30 is 90."""

    def value_of(path, overrides, read):
        try:
            return read(load_config(schema, path, overrides))
        except ConfigError as error:
            assert len(error.lines) == 1 and f": {key}: must be " in error.lines[0] and repr(written) in error.lines[0]
            return REFUSED

    whole, number, word = ODD_NUMBERS[written]
    labels = {"data.dataset": "image_folder", "data.image_size": 8, "data.labels": ["a", "b"]}
    for schema, config, key, old, new, expected, read in (
        (SynthTrainConfig, tiny({"seed": 0}), "seed", "seed: 0", "seed: {}", whole, lambda c: c.seed),
        (SynthTrainConfig, tiny(), "optimizer.lr", "lr: 0.01", "lr: {}", number, lambda c: c.optimizer.lr),
        (
            ClassifierTrainConfig,
            tiny_classifier(labels),
            "data.labels",
            "- a",
            "- {}",
            word,
            lambda c: c.data.labels[0],
        ),
    ):
        text = as_yaml("c.yaml", config).read_text()
        assert text.count(old) == 1
        Path("d.yaml").write_text(text.replace(old, new.format(written)))
        given = written if key != "data.labels" else f"{written},b"
        _, overrides = parse_flags(schema, [f"--{key}", given], Path("p.yaml"))
        for found in (value_of(Path("d.yaml"), None, read), value_of(Path("c.yaml"), overrides, read)):
            assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("given", ["010,0.9", "1_0.5,0.9"])
def test_odd_numbers_in_a_flags_list_are_refused(given):
    """The library that reads the flags takes such a list for JSON."""
    flags = ["--seed", "010", "--optimizer.betas", given, "--model.dim=16"]
    with pytest.raises(ConfigError) as refused:
        parse_flags(SynthTrainConfig, flags, Path("p.yaml"))
    assert refused.value.lines == (
        f"flags: --optimizer.betas: must be a list of plain numbers, as in 1,0.5 (got '{given}')",
    )
    with pytest.raises(ConfigError, match=r"^flags: --optimizer\.betas: must be a list of plain numbers"):
        parse_flags(SynthTrainConfig, [f"--optimizer.betas={given}"], Path("p.yaml"))


def test_keys_are_read_as_they_are_written():
    """A variant's name is a folder's."""
    Path("s.yaml").write_text("base: a.yaml\noutput_dir: out\nvariants: {010: {seed: 010}, 1: {seed: 0x1F}}\n")
    variants = read_yaml(Path("s.yaml"))["variants"]
    assert list(variants) == ["010", 1]
    assert variants["010"] == {"seed": "010"}


def test_no_is_a_precision_not_a_truth_value():
    """YAML 1.1 reads ``precision: no`` as false."""
    tiny_yaml("c.yaml")
    text = Path("c.yaml").read_text()
    for written in ("no", "'no'", "No"):
        Path("c.yaml").write_text(f"{text}  precision: {written}\n")
        assert load_config(SynthTrainConfig, Path("c.yaml")).train.precision == "no"
    Path("c.yaml").write_text(f"{text}  precision: yes\n")
    with pytest.raises(ConfigError, match=r"train\.precision: must be 'no', 'bf16' or 'fp16'"):
        load_config(SynthTrainConfig, Path("c.yaml"))


def test_yaml_anchors_work():
    Path("c.yaml").write_text("checkpoints: &names [a, b]\neval_rounds: [4]\nlsh: {<<: {window: 9}, bucket_size: 3}\n")
    config = load_config(SynthComparisonConfig, Path("c.yaml"))
    assert config.checkpoints == ("a", "b")
    assert config.lsh == LSHConfig(window=9, bucket_size=3)


ROUND_TRIPS = {
    "tiny": {},
    "lsh": LSH,
    "every kind another": {
        "model.attention": {"kind": "lsh", "bucket_size": 4, "rule": "chunk", "attend_across_buckets": True},
        "model.positions": {"kind": "axial", "shape": [3, 4]},
        "schedule": {"kind": "one_cycle", "start_divisor": 10},
    },
    "a name that YAML 1.1 reads as a number": {"experiment_name": "010"},
    "words that YAML reads as something else": {"experiment_name": "1e5", "train.precision": "no", "runs_dir": "null"},
    "nothing where a number may be": {"train.max_steps": None, "train.epochs": 3, "model.head_dim": None},
    "small and large numbers": {"optimizer.eps": 1e-300, "optimizer.lr": 1e17, "seed": 2**31 - 1, "data.corruption": 1},
    "lists": {"train.trackers": [], "optimizer.betas": [0.0, 0.123456789012345]},
}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_a_dumped_configuration_loads_as_the_same(case):
    config = loaded(ROUND_TRIPS[case])
    Path("dumped.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    assert load_config(SynthTrainConfig, Path("dumped.yaml")) == config


def test_a_dumped_comparison_loads_as_the_same():
    config = SynthComparisonConfig(checkpoints=("a",), eval_rounds=(2,), lsh=LSHConfig(bucket_size=3), n_test=7)
    Path("dumped.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(SynthComparisonConfig, Path("dumped.yaml")) == config


words = st.text("abc", min_size=1, max_size=2)
trees = st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(words, inner, min_size=1, max_size=3))
sections = st.dictionaries(words, trees, max_size=4)


def leaves(tree, path=()):
    """{path: value} of a nested mapping."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {leaf: value for key, inner in tree.items() for leaf, value in leaves(inner, (*path, key)).items()}


@given(sections, sections)
def test_merge_keeps_what_flags_do_not_speak_of(file, flags):
    def spoken_of(leaf):
        return any(leaf[: len(flag)] == flag or flag[: len(leaf)] == leaf for flag in leaves(flags))

    kept = {leaf: value for leaf, value in leaves(file).items() if not spoken_of(leaf)}
    assert leaves(merge(file, flags)) == kept | leaves(flags)


def test_merge_changes_neither_of_its_arguments():
    file, flags = {"a": {"kind": "x", "b": 1}}, {"a": {"b": 2}}
    merge(file, flags)["a"]["c"] = 3
    assert (file, flags) == ({"a": {"kind": "x", "b": 1}}, {"a": {"b": 2}})


def test_differences_name_what_differs():
    one = {"a": 1, "b": {"c": [1], "d": None}, "e": {"f": 0}}
    other = {"a": 1, "b": {"c": [2], "d": 0}, "e": {"g": 0}}
    found = {"b.c": ([1], [2]), "b.d": (None, 0), "e.f": (0, None), "e.g": (None, 0)}
    assert {key: (old, new) for key, old, new in differences(one, other)} == found
    assert list(differences(one, one)) == []


WORDS = {  # arguments: the words among them, the fields, the file
    (): ([], {}, None),
    ("a b", "c"): (["a b", "c"], {}, None),
    ("a", "--beam_size", "2", "b", "--config", "x.yaml", "c"): (["a", "b", "c"], {"beam_size": "2"}, "x.yaml"),
    ("--config=x.yaml", "", "- a", "-5"): (["", "- a", "-5"], {}, "x.yaml"),
    ("a", "--", "--beam_size", "--config", "--", "--help"): (
        ["a", "--beam_size", "--config", "--", "--help"],
        {},
        None,
    ),
    ("--", "--beam_size", "b"): (["--beam_size", "b"], {}, None),
    ("--beam_size", "2", "--", "b"): (["b"], {"beam_size": "2"}, None),
}


@pytest.mark.parametrize("argv", WORDS, ids=str)
def test_words_among_flags(argv):
    options, overrides = parse_flags(TranslateConfig, list(argv), Path("p.yaml"), words="SENTENCE")
    assert (options.words, overrides, options.config and str(options.config)) == WORDS[argv]


def test_words_where_there_are_none_and_flags_that_are_none():
    for words, argv in (
        (None, ["a"]),
        (None, ["--", "a"]),
        ("X", ["a", "--no_such", "b"]),
        ("X", ["a", "--beam_size"]),
    ):
        with pytest.raises(ConfigError, match=r"^flags: ") as refused:
            parse_flags(TranslateConfig, argv, Path("p.yaml"), words=words)
        assert len(refused.value.lines) == 1
    assert parse_flags(TranslateConfig, [], Path("p.yaml"))[0].words == []


@pytest.mark.parametrize(
    "argv", [["--seed", "1", "--seed=2"], ["--optimizer.betas", "[0.5]", "--optimizer.betas", "[0.7]"]]
)
def test_the_same_flag_twice_is_refused(argv):
    with pytest.raises(ConfigError) as refused:
        parse_flags(SynthTrainConfig, argv, Path("p.yaml"))
    assert [line.startswith(f"flags: {argv[0]}: ") for line in refused.value.lines] == [True]


ODD_VALUES = {  # what stands for the value of seed or experiment_name, and the key that the message names
    "experiment_name: {x: !!bool maybe}": "experiment_name.x",
    "seed: !!python/object/apply:os.system ['touch ran']": "seed",
    "seed: !!timestamp foo": "seed",
    "experiment_name: !!bool ''": "experiment_name",
    "experiment_name: " + "x" * 300: "experiment_name",
    "runs_dir: " + "x" * 300: "runs_dir",
    'runs_dir: "a\\0b"': "runs_dir",
    "train: {max_steps: 1" + "0" * 400 + ", log_every: 1}": "train.max_steps",
    "seed: 0x" + "f" * 5000: "seed",
    "seed: " + "9" * 5000: "seed",
    "seed: " + "[" * 60 + "]" * 60: "seed.0.0",
    "seed: &a [*a]": "seed",
    "seed:\n" + "".join(f"- &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(10)): "seed.5",
}


@pytest.mark.parametrize("text", ODD_VALUES, ids=lambda text: text[:30])
def test_odd_values_are_refused_with_their_key(text):
    """Aliases that explode too, before anything is made of them."""
    config = tiny({text.partition(":")[0]: GONE} if text.partition(":")[0] in tiny() else {})
    as_yaml("c.yaml", config)
    Path("c.yaml").write_text(Path("c.yaml").read_text() + text + "\n")
    with pytest.raises(ConfigError) as refused:
        load_config(SynthTrainConfig, Path("c.yaml"))
    assert any(f": {ODD_VALUES[text]}" in line and len(line) < 300 for line in refused.value.lines)
    assert not Path("ran").exists()
