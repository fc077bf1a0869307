"""compare_runs.py: what its page shows is what the runs' files say, in a real browser, too."""

import html
import json
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
import yaml
from tiny_scripts import assert_refused

from dl_proj.settings.load import merge

PAGE = Path("runs/comparison.html")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_run(name, changes=None, figures=None, steps=(10, 20), accuracy=0.5):
    """The files of a finished run, as a training leaves them."""
    run = Path("runs") / name / "version_0"
    (run / "checkpoints/best").mkdir(parents=True)
    config = {
        "task": "classification",
        "experiment_name": name,
        "runs_dir": "runs",
        "seed": 1,
        "model": {"dim": 16, "attention": {"kind": "full"}},
        "train": {"monitor": {"metric": "val/accuracy", "mode": "max"}, "device": "cpu"},
    }
    text = yaml.safe_dump(merge(config, changes or {}))
    for folder in (run, run / "checkpoints/best"):
        (folder / "config.yaml").write_text(text)
    lines = [f"{step},{0.5 * step},{1 / step},\n{step},,,{accuracy * step / steps[-1]}" for step in steps]
    (run / "metrics.csv").write_text("\n".join(["step,seconds,train/loss,val/accuracy", *lines]) + "\n")
    figures = {"parameters": 7, "steps": 20, "seconds": 10.0, "test/accuracy": accuracy, "test/accuracy/0": 1.0} | (
        figures or {}
    )
    (run / "metrics.json").write_text(json.dumps(figures))
    (run / "curves.png").touch()
    return run


@pytest.fixture
def runs():
    """Two mechanisms, the first with two seeds."""
    lsh = {"model": {"attention": {"kind": "lsh", "n_rounds": 4, "window": None}}}
    return [
        make_run("full-seed1", figures={"device": "a CPU, 1 thread"}, accuracy=0.8),
        make_run("full-seed2", {"seed": 2}, {"device": "a card"}, accuracy=0.9),
        make_run("lsh", lsh, {"test/accuracy_low": 0.6, "test/accuracy_high": 0.8}, accuracy=0.7),
    ]


def data():
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', PAGE.read_text())[1]
    return json.loads(text)


def rows(task):
    """Cells by column: of groups and of single runs, by their names."""
    found = {}
    for group in task["groups"]:
        for row in (group, *group["runs"]):
            found[row["name"]] = dict(zip(task["columns"], row["cells"], strict=True))
    return found


def test_a_row_is_of_runs_that_differ_in_their_seed_alone(runs, script):
    assert script("compare_runs", "runs").code == 0
    (task,) = data()["tasks"]
    assert [group["name"] for group in task["groups"]] == ["full (2 runs)", "lsh"]
    cells = rows(task)
    mean, deviation = statistics.fmean((0.8, 0.9)), statistics.stdev((0.8, 0.9))
    assert cells["full (2 runs)"]["test/accuracy"] == f"{mean:.4f} ± {deviation:.4f}"
    assert cells["full (2 runs)"]["seed"] == "1 to 2"
    assert cells[str(runs[1])]["test/accuracy"] == "0.9000"
    assert cells["full (2 runs)"]["device"] == "a CPU, 1 thread; a card" and cells["lsh"]["device"] == ""
    assert (cells["full (2 runs)"]["attention.kind"], cells["lsh"]["attention.kind"]) == ("full", "lsh")
    assert (cells["full (2 runs)"]["other settings"], cells["lsh"]["other settings"]) == ("", "n_rounds 4")
    assert cells["lsh"]["test/accuracy, 95 %"] == "0.6000 to 0.8000"
    assert "dim" not in task["columns"] and "test/accuracy/0" not in task["columns"], "equal; of one class"


def test_the_curves_are_the_histories(runs, script):
    assert script("compare_runs", "runs").code == 0
    (task,) = data()["tasks"]
    assert (task["metric"], task["metrics"]) == ("val/accuracy", ["val/accuracy", "train/loss"])
    curves = task["groups"][0]["runs"][1]["curves"]
    assert curves["val/accuracy"] == [[10, 5.0, 0.45], [20, 15.0, 0.9]]
    assert curves["train/loss"] == [[10, 5.0, 0.1], [20, 15.0, 0.05]]
    pictures = [picture["href"] for group in task["groups"] for run in group["runs"] for picture in run["pictures"]]
    assert [(PAGE.parent / picture).resolve() for picture in pictures] == [
        (run / "curves.png").resolve() for run in runs
    ]


def test_each_task_has_its_table_and_a_run_is_counted_once(runs, script):
    make_run("copying", {"task": "copy"})
    outcome = script("compare_runs", runs[0], "runs/copying", "runs/full-seed1", "mnist-cls-full")
    assert outcome.code == 0, outcome.lines
    tasks = {
        task["name"]: [run["name"] for group in task["groups"] for run in group["runs"]] for task in data()["tasks"]
    }
    assert tasks["copy"] == ["runs/copying/version_0"]
    assert tasks["classification"][0] == str(runs[0])
    assert len(tasks["classification"]) == 2 and tasks["classification"][1].endswith("checkpoints/mnist-cls-full")


def test_a_run_that_has_not_ended_is_there_with_its_curves(runs, script):
    (runs[1] / "metrics.json").unlink()
    assert script("compare_runs", "runs").code == 0
    cells = rows(data()["tasks"][0])
    unfinished = cells[f"{runs[1]} (not finished)"]
    assert (unfinished["test/accuracy"], unfinished["steps"], unfinished["best val/accuracy"]) == ("", "20", "0.9000")
    assert cells["full (2 runs)"]["test/accuracy"] == "0.8000", "the mean is over what has ended"


DAMAGES = {
    "no YAML": ("config.yaml", "a: [\n"),
    "no task": ("config.yaml", "seed: 1\n"),
    "figures that are cut": ("metrics.json", '{"seconds": 1'),
    "figures that are a list": ("metrics.json", "[1]"),
    "a history that is none": ("metrics.csv", "step,val/loss\nfour,1\n"),
    "binary": ("metrics.csv", "\0\1\2"),
    "no settings at all": ("config.yaml", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_and_the_others_are_compared(damage, runs, script):
    name, text = DAMAGES[damage]
    (runs[0] / name).write_text(text) if text else (runs[0] / name).unlink()
    outcome = script("compare_runs", "runs")
    assert outcome.code == 0
    (line,) = outcome.lines
    assert line.startswith(f"left out: {runs[0]}")
    assert data()["left_out"] == [line.removeprefix("left out: ")]
    assert len(data()["tasks"][0]["groups"]) == 2


def test_nothing_to_compare(script):
    assert_refused(script("compare_runs", "nowhere"), [("nowhere",)])
    Path("runs").mkdir()
    assert_refused(script("compare_runs"), [("runs", "config.yaml")])


def in_the_browser(script_to_add=""):
    """The page's document after its script, and one more, have run; with all names of hosts unknown."""
    path = Path("opened.html")
    path.write_text(PAGE.read_text().replace("</body>", f"<script>{script_to_add}</script></body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    call = [CHROMIUM, *flags, f"--user-data-dir={Path('profile').absolute()}", "--virtual-time-budget=2000"]
    done = subprocess.run(
        [*call, "--dump-dom", path.absolute().as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def curves_in(document):
    return [html.unescape(name) for name in re.findall(r'<polyline [^>]*data-run="([^"]*)"', document)]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_in_a_real_browser(runs, script):
    evil = "a</script><script>document.title='evil'</script>"
    make_run("evil", {"model": {"attention": {"kind": evil}}})
    assert script("compare_runs", "runs").code == 0
    assert not re.search(r"<link|\bsrc=|url\(|@import|fetch\(", PAGE.read_text()), "needs nothing else"
    names = [str(run) for run in (Path("runs/evil/version_0"), *runs)]
    document = in_the_browser()
    assert curves_in(document) == names
    assert "<title>Runs compared</title>" in document, "a name is no markup"
    assert html.escape(evil, quote=False) in document
    assert "0.8500 ± 0.0707" in document
    off = f"document.querySelector('[aria-label=\"{runs[1]}\"]').click()"
    assert curves_in(in_the_browser(off)) == [name for name in names if name != str(runs[1])]
    assert curves_in(in_the_browser("document.querySelector('[aria-label=\"full (2 runs)\"]').click()")) == [
        names[0],
        names[3],
    ]
    steps, times = (
        re.findall(r'<polyline points="([^"]*)"', text)
        for text in (
            document,
            in_the_browser("document.querySelector('section label > input:not([aria-label])').click()"),
        )
    )
    assert steps != times
    loss = "const s = document.querySelector('select'); s.value = 'train/loss'; s.dispatchEvent(new Event('change'))"
    assert re.search(r"<text [^>]*>train/loss</text>", in_the_browser(loss))
