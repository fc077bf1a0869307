"""What every schema does with what it is given."""

from pathlib import Path

import pytest

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


def test_other_tildes_stay():
    class Settings(Strict):
        word: str
        path: Path

    made = Settings(word="~/a", path="a/~/b")
    assert (made.word, made.path) == ("~/a", Path("a/~/b"))
    assert expanded("~nobody-has-this-name/a") == Path("~nobody-has-this-name/a")
