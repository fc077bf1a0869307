#!/usr/bin/env python3
"""Do the steps of the Dockerfile where no engine is at hand: as root, in a folder with a fresh Debian or Ubuntu.

    debootstrap --variant=minbase bookworm ../image
    python3 .ci/container.py ../image --run

The folder stands for the base image, and is changed. Files are those that git tracks, without what .dockerignore names.
Settings of pip and proxies in this environment are passed on, as is --bind FOLDER, such as one of certificates.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PASSED_ON = re.compile(r"PIP_.*|(https?|no|all)_proxy|SSL_CERT_FILE|REQUESTS_CA_BUNDLE", re.IGNORECASE)


@dataclass
class Step:
    """One instruction of a Dockerfile with what holds where it stands: user, folder, variables."""

    word: str
    rest: str
    user: str
    folder: str
    variables: dict[str, str] = field(default_factory=dict)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each on one line, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def steps(text: str, arguments: dict[str, str]) -> list[Step]:
    """Return the steps after FROM; ``arguments`` replace the defaults of ARG."""
    found: list[Step] = []
    user, folder, given = "0", "/", dict(arguments)
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for word, rest in instructions(text):
        known = {**variables, **given}
        if word == "ARG":
            name, _, default = rest.partition("=")
            given.setdefault(name, expanded(default, known))
        elif word == "ENV":
            variables |= {name: expanded(value, known) for name, value in re.findall(r"(\w+)=(\S+)", rest)}
        elif word == "USER":
            user = expanded(rest, known)
        elif word == "WORKDIR":
            folder = expanded(rest, known)
        elif word != "FROM":
            found.append(Step(word, rest, user, folder, {**given, **variables}))
    return found


def expanded(text: str, known: dict[str, str]) -> str:
    """Return a text with the values of its variables."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: known.get(match[1], ""), text)


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether .dockerignore names a path, or a folder above it."""
    parts = name.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(
        fnmatch.fnmatch(path, pattern) or (pattern.startswith("**/") and fnmatch.fnmatch(path, pattern[3:]))
        for path in above
        for pattern in patterns
    )


def patterns_in(path: Path) -> list[str]:
    """Return the patterns of a .dockerignore."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def context() -> list[str]:
    """Return the files that a build would be sent, as far as git tracks them."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    patterns = patterns_in(ROOT / ".dockerignore")
    return [name for name in listed.split("\0") if name and not ignored(name, patterns)]


def copy(step: Step, root: Path) -> None:
    """Do a COPY of this Dockerfile: files or the whole context, to the working folder."""
    options = [word for word in step.rest.split() if word.startswith("--")]
    *sources, target = [word for word in step.rest.split() if not word.startswith("--")]
    into = root / os.path.normpath(f"{step.folder}/{target}").lstrip("/")
    owner = next((option.partition("=")[2] for option in options if option.startswith("--chown=")), "0:0")
    for name in context() if sources == ["."] else sources:
        to = into / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to)
    subprocess.run(["chroot", root, "chown", "--recursive", owner, f"/{into.relative_to(root)}"], check=True)


def run(step: Step, root: Path, command: list[str]) -> None:
    """Run a command as the step's user, in its folder, with its variables."""
    passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
    values = [f"{name}={value}" for name, value in (passed | step.variables).items()]
    home = (
        "/root"
        if step.user == "0"
        else subprocess.run(
            ["chroot", root, "getent", "passwd", step.user], capture_output=True, text=True, check=True
        ).stdout.split(":")[5]
    )
    as_user = ["chroot", f"--userspec={step.user}:", str(root), "/usr/bin/env", "-i", f"HOME={home}", *values]
    in_folder = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', step.folder, *command]
    subprocess.run([*as_user, *in_folder], check=True)


def main() -> None:
    """Do all steps, then with --run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the fresh system")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], metavar="FOLDER", help="copied to the same place")
    parser.add_argument("--run", action="store_true", help="run the command afterwards")
    options = parser.parse_args()
    for folder in options.bind:
        shutil.copytree(folder, options.root / folder.lstrip("/"), dirs_exist_ok=True, symlinks=True)
    shutil.copy("/etc/resolv.conf", options.root / "etc/resolv.conf")
    arguments = dict(given.split("=", 1) for given in options.build_arg)
    for step in steps((ROOT / "Dockerfile").read_text(encoding="utf-8"), arguments):
        print(f"{step.word} {step.rest}", flush=True)
        if step.word == "COPY":
            copy(step, options.root)
        elif step.word == "RUN":
            run(step, options.root, ["/bin/sh", "-c", step.rest])
        elif step.word == "CMD" and options.run:
            run(step, options.root, json.loads(step.rest))


if __name__ == "__main__":
    main()
