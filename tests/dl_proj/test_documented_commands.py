"""What the README and the pages under docs say to type works, in the order in which it stands.

Each page in a folder like a fresh checkout, and in this process, with trainings cut to a few updates of small models. A
command that several pages have is run only on the first, unless a page continues with what it leaves in runs/.
What cannot run here is listed with the reason; its flags are read all the same. A new page needs nothing but, perhaps,
a file of its reader's in stand_ins.py.
"""

import argparse
import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import pytest
from documented import PAGES, ROOT, Step, steps_of
from stand_ins import small_downloads, write_stand_ins

from dl_proj.cli import CONFIGS
from dl_proj.commands import COMMANDS, main
from dl_proj.settings.load import file_or_preset, is_training, load_config, parse_flags

pytestmark = pytest.mark.filterwarnings(  # of runpy, if another test imported the module before
    r"ignore:.*found in sys\.modules after import of package:RuntimeWarning"
)

CANNOT_RUN = {  # the beginnings of commands, and why
    r"make ": "sets up an environment from a package index",
    r"(python -m )?pip ": "installs from a package index",
    r"(export|tar) ": "is for the machine with the GPU",
    r"python -m benchmarks\.gpu(?!.*--list)": "takes hours on a GPU",
    r"python \w+\.py .*configs/(gpu|paper)/": "takes hours on a GPU",
    r"python sweep\.py .*--executor (slurm|ray)": "needs a cluster; tests/dl_proj/experiments starts small ones",
    r"torchrun ": "starts several processes; tests/dl_proj/experiments/test_several_processes.py does",
    r"python benchmarks/": "measures for minutes; tests/benchmarks calls each with less to measure",
    r"(docker|debootstrap|python3 \.ci/container\.py) ": "needs an engine or root; see tests/test_container.py",
    r"python lm_train\.py .*--data\.hub\.name roneneldan": "needs a network",
    r"python import_reformer\.py .*--source (google/|my_reformer)": "needs a network, or a saved Reformer",
}
STEPS = {page: steps_of(page) for page in PAGES}
NOT_RUN = [
    step
    for steps in STEPS.values()
    for step in steps
    if not step.python and any(re.match(pattern, step.text) for pattern in CANNOT_RUN)
]

FIRST_ON: dict[str, Path] = {}  # the first page with a command, by its words
for _page, _steps in STEPS.items():
    for _step in _steps:
        if not _step.python:
            FIRST_ON.setdefault(" ".join(_step.words), _page)

A_TRAINING = {  # by which flags it is cut; what a command says of them, and of their sections, gives way
    "train.max_steps": "2",
    "train.epochs": "null",
    "train.eval_every": "2",
    "train.save_every": "2",
    "train.eval_batch_size": "100",
    "train.trackers": "[]",
    "schedule": '{"kind": "constant", "warmup_steps": 0}',
}
A_SMALL_MODEL = {"model.dim": "16", "model.heads": "2", "model.ffn_dim": "16"}
A_BATCH = {"train.batch_size": "4"}
PAIRS = {"train.batch_tokens": "300", "data.tokenizer.vocab_size": "300"}
BY_SCRIPT = {
    "synth_train": A_BATCH | {"data.n_val": "8", "data.n_test": "8"},
    "cls_train": A_BATCH,
    "generation_train": A_BATCH,
    "lm_train": A_BATCH,
    "lra_train": A_BATCH,
    "lra_examples": {"number": "4"},
    "translation_train": PAIRS,
    "synth_models_comparison": {"n_test": "8"},
    "shift_test": {"max_shift": "2"},
    "mnist_generator": {"per_label": "1"},
    "lm_generate": {"length": "40"},
    "performance_studies": {"config": "perf_study_small.yaml", "studies": '["reconstruction"]'},
}


def without(words: list[str], flags: dict[str, str]) -> list[str]:
    """A command without these flags, their values, and those of their sections."""
    kept, names = [], tuple(f"--{name}" for name in flags)
    drop = False
    for word in words:
        if word.startswith("--"):
            name = word.partition("=")[0]
            drop = name in names or name.startswith(tuple(f"{one}." for one in names))
        if not drop:
            kept.append(word)
    return kept


def cut(name: str, flags: list[str]) -> list[str]:
    """The flags of a script, with those that make it short in the place of its own."""
    command = COMMANDS[name]
    training = is_training(resolve_name(command.schema))
    shorter = (A_TRAINING if training else {}) | BY_SCRIPT.get(name, {})
    if name in ("lra_train", "lra_examples"):
        shorter = shorter | few_made(configured(name, flags).data.kind)
    starts_anew = training and not {"--init_from", "--resume", "--help"} & {*flags}
    if starts_anew and hasattr(configured(name, flags).model, "heads"):
        shorter = shorter | A_SMALL_MODEL
    if training and "--resume" in flags and {"--train.max_steps", "--train.epochs"} & {*flags}:
        shorter |= {"train.max_steps": "4"}  # it goes on
    if name == "sweep":
        flags, shorter = cut_sweep(flags)
    if name == "evaluate" and "--checkpoint" not in flags:  # of all shipped models, the copy tasks' test words
        shorter = {"data.n_test": "16"}
    if name == "baselines":
        shorter = cut_baselines(configured(name, flags))
    return without(flags, shorter) + [word for one, value in shorter.items() for word in (f"--{one}", value)]


def few_made(kind: str) -> dict[str, str]:
    """The settings of a task's data with which little is made; as many tokens as its sweep's Linformer projects to."""
    if kind not in ("listops", "pathfinder"):
        return {"data.image_size": "8"} if kind == "image" else {}
    lengths = {"data.min_length": "10", "data.max_length": "256"} if kind == "listops" else {}
    return lengths | {f"data.n_{part}": "8" for part in ("train", "val", "test")}


def cut_sweep(flags: list[str]) -> tuple[list[str], dict[str, str]]:
    """Two variants of a sweep and two of its seeds; the trainings are cut as the others are."""
    config = configured("sweep", flags)
    common = cut_common(config)
    if not any("model.kind" in changes for changes in config.all_variants.values()):
        common |= {key: json.loads(value) for key, value in A_SMALL_MODEL.items()}
    seeds = {"seeds": json.dumps(config.seeds[:2])} if config.seeds else {}
    return flags, seeds | {"only": json.dumps([*config.all_variants][:2]), "common": json.dumps(common)}


def cut_baselines(config: Any) -> dict[str, str]:
    """Of images one seed; what is not trained is quick."""
    of_images = "dataset:" in file_or_preset(config.base, CONFIGS).read_text(encoding="utf-8")
    return {"common": json.dumps(cut_common(config))} | ({"seeds": "1"} if of_images else {})


def cut_common(config: Any) -> dict[str, Any]:
    """The settings that all variants have in common, with those that make a training short."""
    base = file_or_preset(config.base, CONFIGS).read_text(encoding="utf-8")
    own = PAIRS if "task: translation" in base else A_BATCH
    if kind := re.search(r"^  kind: (listops|pathfinder)$", base, flags=re.MULTILINE):
        own = own | few_made(kind[1])
    return dict(config.common) | {key: json.loads(value) for key, value in (A_TRAINING | own).items()}


def configured(name: str, flags: list[str]) -> Any:
    """The configuration that a script would run."""
    command = COMMANDS[name]
    schema, preset = resolve_name(command.schema), CONFIGS / command.preset
    options, overrides = parse_flags(schema, flags, preset, words=command.words)
    return load_config(schema, file_or_preset(options.config or preset, CONFIGS), overrides)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A working folder with what is in the repository; no command may write there but into docs and runs."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("docs", "runs", "data"):
            (tmp_path / path.name).symlink_to(path)
    subprocess.run(["cp", "-r", ROOT / "docs", tmp_path / "docs"], check=True)
    write_stand_ins(tmp_path)
    before = committed()
    with small_downloads():
        yield tmp_path
    assert committed() == before


def committed() -> dict[Path, int]:
    folders = ("dl_proj", "my_transformers", "my_custom_ai", "benchmarks")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def is_run(page: Path, step: Step) -> bool:
    """Whether a step can run here, and has not run on an earlier page, or later steps may need what it leaves."""
    if step.python or step in NOT_RUN:
        return step.python
    later = [one for one in STEPS[page] if one.line > step.line]
    needed = any("runs/" in one.text or "--resume" in one.text for one in later)
    return needed or FIRST_ON[" ".join(step.words)] == page


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in STEPS if any(is_run(page, step) for step in STEPS[page])],
    ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix(),
)
def test_what_a_page_says_to_type_works(page: Path, checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for step in STEPS[page]:
        if not is_run(page, step):
            continue
        try:
            exec(compile(step.text, str(step), "exec"), namespace) if step.python else run(step)
        except BaseException as error:
            out, err = capfd.readouterr()
            pytest.fail(f"{step}\n{out[-2000:]}\n{err[-2000:]}\n{error!r}", pytrace=not isinstance(error, SystemExit))
        capfd.readouterr()


def run(step: Step) -> None:
    """A command; what it reads from a pipe, and what is redirected into a file, is so here."""
    words = step.words
    with contextlib.ExitStack() as stack:
        variables = {}
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        stack.enter_context(mock.patch.dict(os.environ, variables))
        if "|" in words:
            before, words = words[: words.index("|")], words[words.index("|") + 1 :]
            piped = subprocess.run(before, capture_output=True, check=True).stdout
            stack.enter_context(mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8")))
        if words[-2:-1] == [">"]:
            *words, _, path = words
            file = stack.enter_context(Path(path).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(file))
        call(words)


def call(words: list[str]) -> None:
    """A script, or another program in Python, in this process; few others are allowed."""
    if (script := script_of(words)) is not None:
        name, flags = script
        argv, work = ["dl-proj", name, *cut(name, flags)], main
    else:
        argv, work = program_of(words)
    with mock.patch.object(sys, "argv", argv):
        try:
            work()
        except SystemExit as end:
            if end.code:
                raise


def script_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The name and the flags of one of our commands, however it is called."""
    match words:
        case ["python", "-m", "dl_proj", name, *flags] | ["dl-proj", name, *flags]:
            pass
        case ["python", file, *flags] if file.endswith(".py"):
            name = file.removesuffix(".py")
        case ["torchrun", *_] if files := [word for word in words if word.endswith(".py")]:
            name, flags = files[0].removesuffix(".py"), words[words.index(files[0]) + 1 :]
        case _:
            return None
    name = name.replace("-", "_")
    return (name, flags) if name in COMMANDS else None


def program_of(words: list[str]) -> tuple[list[str], Callable[[], object]]:
    """What a program would find in sys.argv, and a function that runs it."""
    match words:
        case ["dl-proj", *_]:
            return words, main
        case ["python", "-m", module, *flags]:
            return [module, *flags], lambda: runpy.run_module(module, run_name="__main__")
        case ["python", file, *flags]:
            return [file, *flags], lambda: runpy.run_path(file, run_name="__main__")
        case ["cat" | "cp" | "head" | "ls" | "mkdir" | "mv", *_]:
            return words, lambda: subprocess.run(words, check=True)
    raise AssertionError("neither a command that can run here nor one in CANNOT_RUN")


class Read(Exception):
    """A program's flags were read."""


@pytest.mark.parametrize("step", [step for step in NOT_RUN if step.words[0] in ("python", "torchrun")], ids=str)
def test_flags_of_what_cannot_run_here_are_read(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pip" in step.words:
        return
    monkeypatch.chdir(ROOT)
    if (script := script_of(step.words)) is not None:
        configured(*script)
        return
    read = argparse.ArgumentParser.parse_args

    def only_read(parser: argparse.ArgumentParser, *given: Any) -> None:
        read(parser, *given)
        raise Read

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_read)
    argv, work = program_of(step.words)
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(Read):
        work()


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    for pattern in CANNOT_RUN:
        assert any(re.match(pattern, step.text) for step in NOT_RUN), pattern


def test_blocks_are_taken_apart(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text\n```\npython a.py --x 1  # why\n\n# what\npython b.py \\\n    'c d' | cat > e\n```\n"
        "```\nIt was said\n```\n```python\nx = 1\n```\n```yaml\npython: 1\n```\n```console\n$ dl-proj x\nprinted\n```\n"
    )
    found = [(step.line, step.words) for step in steps_of(page) if not step.python]
    assert found == [
        (3, ["python", "a.py", "--x", "1"]),
        (6, ["python", "b.py", "c d", "|", "cat", ">", "e"]),
        (19, ["dl-proj", "x"]),
    ]
    assert [(step.line, step.text) for step in steps_of(page) if step.python] == [(13, "x = 1\n")]
