"""What every schema does with what it is given."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dl_proj.experiments.copy.settings import SynthTrainConfig
from dl_proj.experiments.images.classification.predict_settings import PredictConfig
from dl_proj.experiments.images.classification.shift_settings import ShiftConfig
from dl_proj.experiments.language.data_settings import TextDataConfig
from dl_proj.experiments.translation.data_settings import PairsConfig, PairTokenizerConfig
from dl_proj.settings.base import Strict, expanded


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_in_a_path_is_the_home_folder(home):
    """Wherever the schema says Path: alone, beside null, in a list, in a section."""
    data = TextDataConfig(path="~/a.txt", root="~")
    assert (data.path, data.root) == (home / "a.txt", home)
    assert PairTokenizerConfig(joint=False, paths=["~/a", "b"]).paths == (home / "a", Path("b"))
    pairs = PairsConfig.model_validate({"corpus": {"kind": "csv", "train": "~/a.csv"}})
    assert pairs.corpus.train == home / "a.csv"


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 2100, "\xe9" * 128, "a\0b"])
@pytest.mark.parametrize(
    ("schema", "key", "others"),
    [
        (SynthTrainConfig, "init_from", {"train": {"max_steps": 1}}),
        (SynthTrainConfig, "runs_dir", {"train": {"max_steps": 1}}),
        (PredictConfig, "checkpoint", {}),
        (ShiftConfig, "checkpoints", {}),
    ],
)
def test_a_name_that_no_file_can_have(schema, key, others, name):
    """Whether the schema says Path, or a word that may be one."""
    several = key == "checkpoints"
    schema.model_validate({key: ["x" * 255] if several else "x" * 255, **others})
    with pytest.raises(ValidationError) as refusal:
        schema.model_validate({key: ["x", name] if several else name, **others})
    (mistake,) = refusal.value.errors()
    assert mistake["loc"] == (key,) and mistake["type"] in ("long_path", "null_in_path")


def test_other_tildes_stay():
    class Settings(Strict):
        word: str
        path: Path

    made = Settings(word="~/a", path="a/~/b")
    assert (made.word, made.path) == ("~/a", Path("a/~/b"))
    assert expanded("~nobody-has-this-name/a") == Path("~nobody-has-this-name/a")
