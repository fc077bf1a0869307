"""Compare runs on one HTML page: python compare_runs.py runs/sweep_digits."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("compare_runs")
