"""The project's tests that use a CUDA device, file by file; failures are recorded and stop nothing.

Large files are distributed over several processes. A test that kills its process, or leaves the CUDA context unusable,
counts as failed, and the rest of its file continues in a new process. On a CPU the same files run with all their tests;
with --tiny, one small file.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import outcomes
from benchmarks.gpu.plan import word
from benchmarks.gpu.report import one_line
from benchmarks.gpu.results import Results
from benchmarks.gpu.stage import Deadline, arguments

ROOT = Path(__file__).parents[2]
SMALL = "tests/my_custom_ai/utils/test_files.py"
WORKERS = max(1, min(12, (os.cpu_count() or 1) * 3 // 4))  # processes at once on CUDA
SHARES = 8
NONE_SELECTED = 5  # pytest's exit code
LEAST = 15.0  # seconds needed to start pytest, torch and the CUDA context


def files() -> list[str]:
    """Files with tests on a CUDA device: first those of kernels, which take time to compile, then the contract."""
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"\bDEVICES\b|\bmark\.cuda\b", path.read_text(encoding="utf-8"))
    ]
    return sorted(
        found, key=lambda name: (not name.endswith("/test_triton.py"), not name.startswith("tests/contract/"))
    )


def parts(device: torch.device, tiny: bool) -> dict[str, tuple[str, str]]:
    """The stage's cases by name: a file, and the share of it to run, such as 0/8."""
    if tiny:
        return {SMALL: (SMALL, "0/1")}
    found = {}
    for name in files():
        shares = SHARES if device.type == "cuda" and name.startswith("tests/contract/") else 1
        for i in range(shares):
            found[name if shares == 1 else f"{name} ({i + 1} of {shares})"] = (name, f"{i}/{shares}")
    return found


def run_part(file: str, share: str, device: torch.device, deadline: Deadline) -> dict[str, Any]:
    """Run a share of a file, restarting after crashes, until all tests have run or the time is over.

    Returns:
        Counts, seconds and messages of failures; and "error" if a test failed or not all were run.
    """
    start = time.monotonic()
    error = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outcomes.jsonl"
        while error is None:
            before = len(outcomes.read(path)[0])
            try:
                code, tail = _pytest(file, share, path, device, deadline.left())
            except subprocess.TimeoutExpired:
                error = f"cut in {outcomes.read(path)[1] or 'between two tests'}"
                break
            ended, running = outcomes.read(path)
            if running is not None:
                _write_crash(path, running, word(code))
            elif code == NONE_SELECTED and not ended:
                error = "no test was selected"
            elif code in (0, 1, NONE_SELECTED):
                break
            elif len(ended) == before:
                error = f"pytest ended with {code}: {tail}"
        ended = outcomes.read(path)[0]
    return _values(ended, error) | {"seconds": round(time.monotonic() - start, 1)}


def _pytest(file: str, share: str, path: Path, device: torch.device, seconds: float) -> tuple[int, str]:
    """Exit code and end of the output. Warnings are not errors here, since versions may differ from the locked ones."""
    plugin = ["-p", "benchmarks.gpu.outcomes", "--outcomes", str(path), "--share", share]
    chosen = ["-m", "cuda"] if device.type == "cuda" else []
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "default"]
    root = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]  # otherwise guessed from all paths given
    command = [sys.executable, "-m", "pytest", *quiet, *root, *plugin, *chosen, file]
    threads = os.environ | {"OMP_NUM_THREADS": "2"} if device.type == "cuda" else None
    output = path.with_name("output")  # not a pipe: a child process of a test may keep it open after the timeout
    try:
        with output.open("w") as out:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env=threads,
                timeout=seconds,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            ).returncode
    finally:
        print(output.read_text(errors="replace"), flush=True)
    return code, output.read_text(errors="replace")[-1000:]


def _write_crash(path: Path, test: str, end: str) -> None:
    line = {"test": test, "outcome": "failed", "message": f"the process ended with {end} in this test"}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _values(ended: dict[str, dict[str, str]], error: str | None) -> dict[str, Any]:
    counts = Counter(one["outcome"] for one in ended.values())
    found: dict[str, Any] = {name: counts[name] for name in ("passed", "failed", "skipped")}
    found["failures"] = {name: one["message"] for name, one in ended.items() if one["outcome"] == "failed"}
    found["skips"] = dict(Counter(one["message"] for one in ended.values() if one["outcome"] == "skipped"))
    if error is None and counts["failed"]:
        error = f"{counts['failed']} of {len(ended)} tests failed"
    return found if error is None else found | {"error": error}


def run_parts(todo: dict[str, tuple[str, str]], results: Results, device: torch.device, deadline: Deadline) -> None:
    """Run the missing cases, several at a time on CUDA, and record each as it ends."""
    missing = {key: part for key, part in todo.items() if not results.has(key)}
    with ThreadPoolExecutor(WORKERS if device.type == "cuda" else 1) as pool:
        running = {
            pool.submit(partial(_in_time, file, share, device, deadline)): key for key, (file, share) in missing.items()
        }
        for future in as_completed(running):
            values = future.result()
            if values is not None:
                _keep(running[future], values, results)
    if all(results.has(key) for key in todo):
        results.finish()


def _in_time(file: str, share: str, device: torch.device, deadline: Deadline) -> dict[str, Any] | None:
    if not deadline.allows(LEAST):
        print(f"no time left for {file} ({share})", flush=True)
        return None
    return run_part(file, share, device, deadline)


def _keep(key: str, values: dict[str, Any], results: Results) -> None:
    error = values.pop("error", None)
    if error is None:
        results.add(key, values)
    else:
        results.fail(key, error, lasting=not error.startswith("cut"), values=values)


def tables(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Counts by file, every failure with its message, and why tests were skipped."""
    found = results["cases"]
    counted = [key for key in found if "passed" in found[key]]
    names = ("passed", "failed", "skipped", "seconds")
    counts = [{"tests": key, **{name: str(found[key][name]) for name in names}} for key in counted]
    failures = [
        {"test": test, "message": one_line(message)}
        for key in counted
        for test, message in found[key]["failures"].items()
    ]
    skips = _sum(found[key]["skips"] for key in counted)
    return {
        "Tests": counts,
        "Failed tests": failures,
        "Skipped": [{"reason": one_line(reason), "tests": count} for reason, count in skips.items()],
    }


def _sum(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def main() -> None:
    """Run the stage."""
    given = arguments(__doc__)
    results = Results(given.output, stage="tests", device=given.device, tiny=given.tiny)
    run_parts(parts(given.device, given.tiny), results, given.device, Deadline(given.seconds))


if __name__ == "__main__":
    main()
