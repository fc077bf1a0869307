"""Test, measure and train on a GPU: python -m benchmarks.gpu, or make gpu.

Runs the stages in order of importance, each in its own process with a time limit. A stage writes its results to
<output_dir>/<stage>.json after every case, and its output to <stage>.log. If it is killed, the same command continues
with the missing cases. Tables of the results: python -m benchmarks.gpu.report <output_dir>.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from benchmarks.gpu.plan import NAMES, PLAN, ROOT, Stage, run_plan
from benchmarks.gpu.report import report
from benchmarks.gpu.results import check, forget_failures
from dl_proj.tables import markdown
from my_custom_ai.utils.signals import FirstSignal, Stopped, exit_code, raise_stopped

COMMITTED = ROOT / "benchmarks" / "results"


def main(words: list[str] | None = None) -> None:
    """Run the plan; exits with 1 if a stage is not complete, with 2 for a mistake on the command line."""
    parser = _parser()
    arguments = parser.parse_args(words)
    stages = [stage for stage in PLAN if not arguments.only or stage.name in arguments.only]
    if arguments.list:
        print(markdown(_listed(stages)))
        return
    mistake = _mistake(arguments, stages)
    if mistake is not None:
        parser.error(mistake)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FirstSignal(raise_stopped), FileLock(arguments.output_dir / ".lock", timeout=0):
            complete = _run(arguments, stages)
    except Timeout:
        parser.error(f"argument --output_dir: another plan is running in {arguments.output_dir}")
    except Stopped as stopped:  # the running stage was ended too
        print(f"{stopped}; the same command continues", file=sys.stderr)
        sys.exit(exit_code(stopped))
    sys.exit(0 if complete else 1)


def _mistake(arguments: argparse.Namespace, stages: list[Stage]) -> str | None:
    if not arguments.minutes > 0:
        return "argument --minutes: must be above 0"
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device; --device cpu --tiny rehearses the plan without one"
    if arguments.commit_results and (arguments.tiny or arguments.device.type != "cuda"):
        return "argument --commit_results: not allowed with --tiny or --device cpu: only results of a GPU are committed"
    try:
        for stage in stages:
            check(arguments.output_dir / f"{stage.name}.json", arguments.device, tiny=arguments.tiny)
    except ValueError as error:
        return f"argument --output_dir: {error}"
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="show the stages and their times, and run nothing")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="run this stage; repeatable")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="limit for the plan; default: no limit")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="cuda (default) or cpu")
    parser.add_argument("--tiny", action="store_true", help="rehearsal: every stage as small as possible")
    parser.add_argument("--retry", action="store_true", help="run failed cases again, even lasting failures")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/gpu"), help="default: runs/gpu")
    parser.add_argument("--commit_results", action="store_true", help="copy the JSON to benchmarks/results/")
    return parser


def _listed(stages: list[Stage]) -> list[dict[str, str]]:
    return [
        {
            "stage": stage.name,
            "minutes on an H100": f"{stage.seconds / 60:.1f}",
            "at most": f"{stage.limit / 60:.1f}",
            "what": stage.about,
        }
        for stage in stages
    ]


def _run(arguments: argparse.Namespace, stages: list[Stage]) -> bool:
    folder = arguments.output_dir.absolute()
    if arguments.retry:
        print(f"failed cases forgotten: {sum(forget_failures(folder / f'{stage.name}.json') for stage in stages)}")
    became = run_plan(stages, folder, arguments.device, arguments.minutes, tiny=arguments.tiny)
    print(f"\n{report(folder)}\nresults: {folder}")
    if arguments.commit_results:
        for path in commit(folder, [stage.name for stage in stages], COMMITTED):
            print(f"written: {path}")
    return all(state.startswith("complete") for state in became.values())


def commit(folder: Path, names: list[str], target: Path) -> list[Path]:
    """Copy stages' results to ``target/gpu_<card>_<stage>.json``; return the paths of the copies."""
    copies = []
    for path in (folder / f"{name}.json" for name in names):
        if path.exists():
            card = json.loads(path.read_text(encoding="utf-8"))["machine"]["device"]
            slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
            copies.append(target / f"gpu_{slug}_{path.name}")
            shutil.copyfile(path, copies[-1])
    return copies


if __name__ == "__main__":
    main()
