"""The GPU's plan: cut, crashed and killed it loses one case, and the whole of it runs on a CPU."""

import contextlib
import importlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import layers, models, plan, tests, trainings
from benchmarks.gpu.plan import PLAN, Stage, run_plan
from benchmarks.gpu.report import report
from benchmarks.gpu.results import Results, fail_running_case, forget_failures, is_complete
from benchmarks.gpu.stage import Case, Deadline, go_through
from dl_proj.commands import run_script

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def results_at(path, **changed):
    return Results(path, **({"stage": "s", "device": CPU, "tiny": True} | changed))


def cases_in(path):
    return json.loads(path.read_text())["cases"]


def fail_with(error):
    def call():
        raise error

    return call


def test_a_second_start_goes_on_with_what_is_missing_and_with_what_may_succeed_now(tmp_path):
    calls = []

    def case(key, call, seconds=0.0):
        return Case(key, lambda: (calls.append(key), call())[1], seconds)

    errors = {"memory": torch.OutOfMemoryError("full"), "library": ImportError("none"), "chance": ValueError("today")}
    cases = [
        case("first", lambda: {"value": 1}),
        *(case(key, fail_with(error)) for key, error in errors.items()),
        case("long", lambda: {"value": 2}, seconds=1000.0),
        case("last", lambda: {"value": 3}),
    ]
    assert not go_through(cases, results_at(tmp_path / "s.json"), Deadline(100))
    assert calls == ["first", "memory", "library", "chance", "last"]
    found = cases_in(tmp_path / "s.json")
    assert {key: case.get("lasting") for key, case in found.items()} == {
        "first": None, "memory": True, "library": True, "chance": False, "last": None,
    }  # fmt: skip
    assert found["chance"]["error"] == "ValueError: today"
    assert not is_complete(tmp_path / "s.json")

    calls.clear()
    assert not go_through(cases, results_at(tmp_path / "s.json"), Deadline(2000))
    assert calls == ["chance", "long"]
    assert not is_complete(tmp_path / "s.json"), "a case is to be tried again"
    cases[3] = case("chance", lambda: {"value": 4})
    assert go_through(cases, results_at(tmp_path / "s.json"), Deadline(2000))
    assert is_complete(tmp_path / "s.json")

    assert forget_failures(tmp_path / "s.json") == 2
    assert not is_complete(tmp_path / "s.json")
    assert cases_in(tmp_path / "s.json").keys() == {"first", "chance", "long", "last"}


def test_after_an_error_of_the_cuda_context_the_process_ends_and_the_case_is_not_tried_again(tmp_path):
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")
    cases = [Case("bad", fail_with(broken), 0), Case("good", dict, 0)]
    with pytest.raises(SystemExit, match="1"):
        go_through(cases, results_at(tmp_path / "s.json"), Deadline(100))
    assert go_through(cases, results_at(tmp_path / "s.json"), Deadline(100))
    assert cases_in(tmp_path / "s.json").keys() == {"bad", "good"}


@pytest.mark.parametrize(
    ("changed", "told"), [({"tiny": False}, "tiny True, but now it is False"), ({"stage": "t"}, "'t'")]
)
def test_results_of_another_kind_are_refused(tmp_path, changed, told):
    results_at(tmp_path / "s.json").add("case", {})
    with pytest.raises(ValueError, match=told):
        results_at(tmp_path / "s.json", **changed)


def test_the_plan_refuses_a_folder_of_another_size(tmp_path, capsys):
    Results(tmp_path / "sanity.json", stage="sanity", device=CPU, tiny=False).add("copy", {})
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cpu", "--tiny", "--output_dir", str(tmp_path)])
    assert "has tiny False, but now it is True; use another output folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["device", "torch"])
def test_results_of_another_machine_are_refused(tmp_path, name):
    results = results_at(tmp_path / "s.json")
    results.found["machine"][name] = "other"
    results.add("case", {})
    with pytest.raises(ValueError, match=f"has {name} 'other', but now it is .*; use another output folder"):
        results_at(tmp_path / "s.json")


FAKE = """
import os, signal, subprocess, sys, time
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Case, Deadline, arguments, go_through

def sleep():
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 1000"])
    given.output.with_suffix(".pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(1000)

calls = {
    "good": lambda: {"time": time.time()},
    "also good": lambda: {"time": time.time()},
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "sleep": sleep,
}
given = arguments("fake", lambda parser: parser.add_argument("cases", nargs="*"))
if given.cases == ["nothing"]:
    sys.exit("it cannot start")
results = Results(given.output, stage="fake", device=given.device, tiny=given.tiny)
go_through([Case(key, calls[key], 0) for key in given.cases], results, Deadline(given.seconds))
"""


class FakeStage(Stage):
    """A stage whose cases are made up."""

    def command(self, device, output, seconds, *, tiny):
        script = output.with_name("fake.py")
        script.write_text(FAKE)
        return [sys.executable, str(script), *super().command(device, output, seconds, tiny=tiny)[3:]]


def fake(name, *cases, limit=60.0, least=0.0):
    return FakeStage(name, "fake", cases, 1.0, least, limit, "made up")


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    with contextlib.suppress(OSError):
        return "State:\tZ" not in status.read_text()
    return False


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_crash_is_recorded_and_the_plan_continues(tmp_path):
    crashing = fake("crashing", "good", "crash", "also good")
    became = run_plan([fake("unable", "nothing"), crashing], tmp_path, CPU, 2.0, tiny=False)
    assert became["unable"].startswith("failed: the process ended with exit code 1; see ")
    assert "it cannot start" in (tmp_path / "unable.log").read_text()
    assert cases_in(tmp_path / "crashing.json").keys() == {"good", "crash", "also good"}
    assert cases_in(tmp_path / "crashing.json")["crash"] == {
        "error": "the process ended with SIGSEGV", "lasting": True,
    }  # fmt: skip
    assert became["crashing"].startswith("complete after")
    assert became["crashing"].endswith("; the process ended with SIGSEGV in crash")
    assert json.loads((tmp_path / "plan.json").read_text()) == became

    before = (tmp_path / "crashing.json").read_bytes()
    assert run_plan([crashing], tmp_path, CPU, 1.0, tiny=False) == {"crashing": "complete before"}
    assert (tmp_path / "crashing.json").read_bytes() == before


def test_time_is_kept_for_later_stages_and_shared_out_among_trainings():
    first, second = fake("first", limit=500.0, least=50.0), fake("second", least=100.0)
    assert plan.allotted(first, [second], 1000.0) == 500.0
    assert plan.allotted(first, [second], 400.0) == 300.0
    assert plan.allotted(first, [second], 120.0) == 50.0
    assert plan.allotted(first, [second], 20.0) == 20.0
    copy, mnist = (fake(name, least=100.0, limit=9000.0)._replace(seconds=s, shares=True) for name, s in TRAININGS)
    assert plan.allotted(first, [copy, mnist], 400.0) == 400.0
    assert plan.allotted(copy, [mnist], 2000.0) == 500.0
    assert plan.allotted(copy, [mnist], 200.0) == 100.0
    assert plan.allotted(mnist, [], 1500.0) == 1500.0
    assert plan.allotted(copy, [mnist], float("inf")) == 9000.0


TRAININGS = [("copy", 1000.0), ("mnist", 3000.0)]


def test_without_time_no_stage_is_started(tmp_path):
    became = run_plan([fake("one", "good"), fake("two", "good")], tmp_path, CPU, 0.2, tiny=True)
    assert became == dict.fromkeys(["one", "two"], "skipped, no time left")
    assert not (tmp_path / "one.log").exists()


class UntilItSleeps(Deadline):
    """A limit that comes when the stage's process has started another one."""

    def left(self):
        if (self.folder / "slow.log").exists():
            wait_until((self.folder / "slow.pids").exists)
            return 0.1
        return 60.0


@pytest.mark.slow
def test_a_stage_over_its_limit_is_ended_with_what_it_started(tmp_path, monkeypatch):
    UntilItSleeps.folder = tmp_path
    monkeypatch.setattr(plan, "Deadline", UntilItSleeps)
    became = run_plan([fake("slow", "good", "sleep"), fake("next", "good")], tmp_path, CPU, 2.0, tiny=True)
    assert re.fullmatch(r"cut after \d+ s, 1 cases done", became["slow"])
    assert not any(map(is_running, (tmp_path / "slow.pids").read_text().split()))
    assert became["next"] == "skipped, no time left"


@pytest.mark.slow
def test_killed_the_plan_takes_its_stage_along_and_keeps_what_was_done(tmp_path):
    start = """
import sys, torch
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_gpu_plan import fake, run_plan
run_plan([fake("slow", "good", "sleep")], Path(sys.argv[1]), torch.device("cpu"), 9.0, tiny=True)
"""
    process = subprocess.Popen([sys.executable, "-c", start, tmp_path, str(ROOT), str(Path(__file__).parent)])
    wait_until((tmp_path / "slow.pids").exists)
    process.kill()
    process.wait()
    pids = (tmp_path / "slow.pids").read_text().split()
    wait_until(lambda: not any(map(is_running, pids)), 10.0)
    assert cases_in(tmp_path / "slow.json").keys() == {"good"}
    assert not is_complete(tmp_path / "slow.json")


def test_a_crash_before_the_first_case_blames_none(tmp_path):
    assert fail_running_case(tmp_path / "missing.json", "crash") is None
    results_at(tmp_path / "s.json").add("done", {"value": 1})
    assert fail_running_case(tmp_path / "s.json", "crash") is None
    assert cases_in(tmp_path / "s.json") == {"done": {"value": 1}}


TESTS = """
import os, signal, time, pytest
@pytest.mark.parametrize("i", range(3))
def test_good(i): pass
def test_bad(): assert 1 == 2, "a message"
def test_skipped(): pytest.skip("no such thing")
def test_crash(): os.kill(os.getpid(), signal.SIGSEGV)
def test_context(): raise RuntimeError("CUDA error: unspecified launch failure")
def test_after(): pass
def test_teardown(request): request.addfinalizer(lambda: 1 / 0)
def test_twice(request): request.addfinalizer(lambda: 1 / 0); assert 1 == 2, "the cause"
"""


@pytest.mark.slow
def test_tests_go_on_after_one_that_kills_its_process_or_the_cuda_context(tmp_path):
    (tmp_path / "test_made_up.py").write_text(TESTS)
    file = str(tmp_path / "test_made_up.py")
    found = tests.run_part(file, "0/1", CPU, Deadline(100))
    assert (found["passed"], found["failed"], found["skipped"]) == (4, 5, 1)
    messages = {test.rpartition("::")[2]: message for test, message in found["failures"].items()}
    assert messages.keys() == {"test_bad", "test_crash", "test_context", "test_teardown", "test_twice"}
    assert messages["test_bad"].startswith("call: AssertionError: a message")
    assert messages["test_crash"] == "the process ended with SIGSEGV in this test"
    assert messages["test_teardown"].startswith("teardown: ZeroDivisionError")
    assert messages["test_twice"].startswith("call: AssertionError: the cause")
    assert found["skips"] == {"Skipped: no such thing": 1}
    assert found["error"] == "5 of 10 tests failed"


@pytest.mark.slow
def test_shares_of_a_file_are_all_of_it_and_time_is_kept(tmp_path):
    (tmp_path / "test_made_up.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(5))\ndef test_(i): pass"
    )
    file = str(tmp_path / "test_made_up.py")
    assert [tests.run_part(file, f"{i}/2", CPU, Deadline(100))["passed"] for i in range(2)] == [3, 2]
    (tmp_path / "test_made_up.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(1000)")
    found = tests.run_part(file, "0/1", CPU, Deadline(8))
    assert found["error"].startswith("cut in ")
    assert found["error"].endswith("test_b")
    assert found["passed"] == 1


def test_the_contract_is_among_the_tests_for_cuda():
    parts = tests.parts(torch.device("cuda"), tiny=False).values()
    assert [share for file, share in parts if file == "tests/contract/test_attention_contract.py"] == [
        f"{i}/{tests.SHARES}" for i in range(tests.SHARES)
    ]
    assert ("tests/my_transformers/test_rev_layers.py", "0/1") in parts


def test_expected_times_are_those_of_the_stages_own_cases_and_in_the_docs():
    cuda = torch.device("cuda")
    own = {
        "layers": sum(case.seconds for case in layers.cases(layers.REAL, cuda)),
        "models": sum(case.seconds for case in models.cases(models.REAL, cuda, None)),
    }
    for experiment, variant, _ in trainings.all_cases(tiny=False):
        own[experiment.name] = own.get(experiment.name, 0) + experiment.seconds[variant]
    expected = {stage.name: stage.seconds for stage in PLAN}
    assert own.keys() < expected.keys()
    assert {name: expected[name] for name in own} == pytest.approx(own, rel=0.3)
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", (ROOT / "docs" / "gpu.md").read_text(), flags=re.MULTILINE)
    assert {name: float(minutes) for name, minutes in rows} == {
        name: round(seconds / 60, 1 if seconds < 300 else None) for name, seconds in expected.items()
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "torch finds no CUDA device; --device cpu --tiny rehearses the plan without one"),
        (["--device", "cpu", "--minutes", "0"], "--minutes: must be above 0"),
        (["--device", "cpu", "--only", "nope"], "invalid choice: 'nope'"),
        (["--device", "cpu", "--tiny", "--commit_results"], "only results of a GPU are committed"),
    ],
)
def test_a_mistake_is_one_line(words, told, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        command.main(words)
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_committed_results_have_the_name_of_the_card_and_are_rendered(tmp_path):
    results = Results(tmp_path / "sanity.json", stage="sanity", device=CPU, tiny=False)
    results.found["machine"]["device"] = "NVIDIA H100 80GB HBM3"
    results.add("copy", {"size": 1, "TB/s": {"median": 2.5, "min": 2.0, "max": 3.0}})
    (tmp_path / "committed").mkdir()
    (copy,) = command.commit(tmp_path, ["sanity", "layers"], tmp_path / "committed")
    assert copy.name == "gpu_nvidia-h100-80gb-hbm3_sanity.json"
    assert "| copy  | 2.5000 | 2.0000 | 3.0000 | TB/s |" in report(tmp_path / "committed")


def run_here(command, log, limit):
    """A stage in this process, which has imported everything; it reads its command line from sys.argv."""
    with log.open("a") as out, contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [word for word in command[2:] if word != "--end_with_stdin"])
        importlib.import_module(command[2]).main()
    return 0


def scripts_here(commands, log, deadline):
    for name, *flags in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [f"{name}.py", *flags])
            run_script(name)
    return 0


@pytest.mark.slow
def test_a_rehearsal_ends_with_a_table_of_every_stage(tmp_path, monkeypatch, capsys):
    """One of the trainings, which are one module; test_gpu_trainings.py rehearses them all."""
    stages = PLAN[:5]
    monkeypatch.setattr(plan, "_run", run_here)
    monkeypatch.setattr(trainings, "_call", scripts_here)
    monkeypatch.setattr(layers, "TINY", layers.TINY._replace(lengths=(64,)))
    only = [word for stage in stages for word in ("--only", stage.name)]
    with pytest.raises(SystemExit, match="0"):
        command.main(["--device", "cpu", "--tiny", "--output_dir", str(tmp_path), *only])
    shown = capsys.readouterr().out
    assert {stage.module for stage in stages} == {stage.module for stage in PLAN}
    assert all(is_complete(tmp_path / f"{stage.name}.json") for stage in stages)
    cases = [case for stage in stages for case in cases_in(tmp_path / f"{stage.name}.json").values()]
    errors = [case["error"] for case in cases if "error" in case]
    assert [error for error in errors if not error.startswith("ModuleNotFoundError")] == []
    assert report(tmp_path) in shown
    for stage in stages:
        section = shown.partition(f"## {stage.name}: {stage.about}")[2].partition("\n## ")[0]
        assert section.count("\n| ") > 2, f"{stage.name} shows no table"


def processes_with(word):
    """Numbers of the processes that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_signal_ends_the_plan_with_its_stage_in_one_line(tmp_path):
    words = ["--device", "cpu", "--tiny", "--output_dir", str(tmp_path), "--only", "layers"]
    command = [sys.executable, "-m", "benchmarks.gpu", *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "layers.json").exists(), 300.0)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert told.count("\n") == 1 and "the same command" in told, told
    wait_until(lambda: not processes_with(str(tmp_path)), 10.0)
    assert cases_in(tmp_path / "layers.json") is not None, "whole"
