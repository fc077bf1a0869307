"""Measure time, memory and error of the mechanisms: python performance_studies.py."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("performance_studies")
