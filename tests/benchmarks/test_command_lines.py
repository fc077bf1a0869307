"""Benchmarks' command lines: --help measures nothing, and committed results are written when asked for only."""

import json
import runpy
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import cached_decoding, command_line, decoding_by_length, libraries
from my_transformers.full_settings import FullSettings

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") or path.name == "__main__.py"
)


def committed() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (ROOT / "benchmarks" / "results").iterdir()}


def test_there_is_something_to_look_at():
    assert {"benchmarks/cached_decoding.py", "benchmarks/gpu/__main__.py", "benchmarks/gpu/tests.py"} <= {*PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_measures_nothing(program, tmp_path, monkeypatch, capfd):
    """Run as a program in this process, which has imported what each new one would import for seconds."""
    monkeypatch.setattr(nn.Module, "__call__", partial(pytest.fail, "a layer was called"))
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.chdir(tmp_path)
    before = committed()
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    out, err = capfd.readouterr()
    assert (end.value.code, err) == (0, "")
    assert out.startswith("usage:")
    measures_nothing = any(word in program for word in ("/gpu/", "/tables/", "/figures.py"))
    assert measures_nothing or ("--output_dir" in out and "--commit_results" in out)
    assert not any(tmp_path.iterdir())
    assert committed() == before


def tiny_decoding(monkeypatch):
    for name, value in {"LENGTH": 16, "TURN": 2, "MECHANISMS": {"full": FullSettings()}}.items():
        monkeypatch.setattr(decoding_by_length, name, value)
    monkeypatch.setattr(decoding_by_length, "DEVICE", torch.device("cpu"))
    return decoding_by_length.main, [], "decoding_by_length_cpu.json"


def tiny_cached(monkeypatch):
    monkeypatch.setattr(cached_decoding, "measure", lambda name: {"checkpoint": name, "ratio": 2.0})
    return cached_decoding.main, [], "cached_decoding.json"


def tiny_libraries(monkeypatch):
    found = {"comparison": "full", "length": 1024, "against": ["sdpa"]}
    case = {"seconds": [1.0, 2.0], "MiB": 1.0}
    monkeypatch.setattr(libraries, "compare", lambda *_: found | {"cases": {"ours": case, "sdpa": case}})
    monkeypatch.setattr(libraries, "DEVICE", torch.device("cpu"))
    return libraries.main, ["--only", "Linformer, k = 128"], "libraries_cpu.json"


@pytest.mark.parametrize("tiny", [tiny_decoding, tiny_cached, tiny_libraries])
def test_results_go_to_the_output_folder_unless_they_are_to_be_committed(tiny, tmp_path, monkeypatch, capsys):
    main, words, name = tiny(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "COMMITTED", tmp_path / "committed")
    before = committed()
    main(words)
    main([*words, "--output_dir", "here"])
    assert not (tmp_path / "committed").exists()
    main([*words, "--commit_results"])
    assert f"written: here/{name}" in capsys.readouterr().out
    for folder in ("runs/benchmarks", "here", "committed"):
        assert json.loads((tmp_path / folder / name).read_text())["machine"]["torch"] == torch.__version__
    assert committed() == before


@pytest.mark.parametrize(
    ("main", "words", "told"),
    [
        (cached_decoding.main, ["nope"], "'nope' is neither a folder with model.safetensors"),
        (libraries.main, ["--only", "nope"], "no comparison has 'nope' in its name"),
        (libraries.main, ["--rounds", "0"], "argument --rounds: must be 1 or more, got 0"),
        (decoding_by_length.main, ["--commit_results", "--output_dir", "x"], "not allowed with argument"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(main, words, told, capsys, monkeypatch):
    monkeypatch.setattr(nn.Module, "__call__", partial(pytest.fail, "a layer was called"))
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert told in capsys.readouterr().err
