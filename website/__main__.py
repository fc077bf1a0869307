"""Build the documentation's site into build/site: ``python -m website``. A warning is an error."""

import re
import subprocess
import sys
from pathlib import Path

from website.pages import ROOT, BrokenLinks, Pages, navigation, pages_of

_TRACEBACK = "Traceback (most recent call last):"  # with which the generator ends after a warning


def build(folder: Path) -> list[str]:
    """Build the site of the repository in ``folder``, whose mkdocs.yml is read, into build/site there.

    Returns:
        What is wrong, a line each; then there is no complete site.
    """
    pages = set(pages_of(ROOT).values())
    named = set(navigation(folder))
    wrong = [f"mkdocs.yml: nav names {page}, which no file in docs becomes" for page in sorted(named - pages)]
    wrong += [f"mkdocs.yml: nav does not name {page}" for page in sorted(pages - named)]
    try:
        Pages(ROOT, folder / "build" / "pages").write()
    except BrokenLinks as error:
        wrong += str(error).splitlines()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    lines = re.sub(r"\x1b\[[\d;]*m", "", built.stderr).splitlines()
    if built.returncode:
        end = lines.index(_TRACEBACK) if _TRACEBACK in lines else len(lines)
        return [*wrong, *lines[:end]]
    return wrong + [line for line in lines if line.startswith("griffe:")]  # docstrings, which --strict does not mind


def main() -> int:
    """Build, and say where the site is; returns the exit status."""
    wrong = build(ROOT)
    print("\n".join(wrong) or ROOT / "build" / "site" / "index.html")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
