"""1,000 configurations that nobody meant, each a shipped one mutated: it is read, or refused in a few short lines."""

import copy
import json
import random
import time
from pkgutil import resolve_name
from unittest import mock

import pytest
import yaml

from dl_proj.cli import CONFIGS, call, exit_on_mistake
from dl_proj.commands import COMMANDS
from dl_proj.settings.help import models_in
from dl_proj.settings.load import load_config

pytestmark = pytest.mark.torture

N, PARTS = 1000, 4
LONGEST_WORD, LONGEST_LINE, MOST_LINES, MOST_SECONDS = 210, 1500, 25, 5
COMMAND_OF = {  # by the beginning of a file's name; the first that fits
    "lra_examples": "lra_examples",
    "lra_": "lra_train",
    "synth_comparison": "synth_models_comparison",
    "synth_recall_comparison": "synth_models_comparison",
    "synth": "synth_train",
    "demo": "synth_train",
    "cls": "cls_train",
    "gen": "generation_train",
    "perf": "performance_studies",
    "lm_generate": "lm_generate",
    "lm": "lm_train",
    "mlm": "lm_train",
    "sweep": "sweep",
    "translation_evaluate": "translation_evaluate",
    "translation": "translation_train",
}
PRESETS = {
    path: next((name for start, name in COMMAND_OF.items() if path.stem.startswith(start)), path.stem)
    for path in sorted(CONFIGS.rglob("*.yaml"))
}

# fmt: off
WORDS = [
    "word", "NaN", "~", "null", "on", "0x1f", "010", "1_000", "1e2", "1:30", "-0", "-.inf", "$\\frac$", "a/../../b",
    "/", "..", "-", "--", "{}", "[", "[1,", "true", "2026-02-30", "<<", "=", "full", "lsh", "auto", "cpu", "float16",
    "@", "*", "&", "!", "%", "%s", "{0}", "1,2", "val/loss", "../c.yaml", "c.yaml", "~nobody/x",
]
# fmt: on
WORDS += ["", " ", "\t", "a\nb: c", "\x1b[31m", "\0", "\ufeff", "\u202e", "\U0001f600", "\xe9" * 100, "\xe9" * 200]
WORDS += [
    "x" * 256,
    "x" * 5000,
    "9" * 5000,
    "0x" + "f" * 5000,
    "a/" * 3000,
    "many words " * 500,
    "[" * 3000,
    '{"a":' * 3000,
]
NUMBERS = [0, 1, 2, 3, 7, 64, -1, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31, 2**40, 2**40 + 1, 2**63, 10**18, 10**400]
NUMBERS += [-(10**400), float("inf"), float("-inf"), float("nan"), None, True, False]
# fmt: off
TAGS = [
    "!!bool", "!!int", "!!float", "!!null", "!!timestamp", "!!binary", "!!set", "!!omap", "!!pairs", "!!seq",
    "!!map", "!!str", "!own", "!!python/object/apply:os.system", "!!python/name:os.system", "!!python/tuple",
]
# fmt: on


def nested(draw):
    """A value of any shape."""
    leaf = draw.choice(WORDS + NUMBERS)
    return draw.choice(
        [
            [],
            {},
            [leaf],
            [[leaf], {}],
            {"kind": leaf},
            {"kind": draw.choice(["full", "lsh", "noam", "axial", "digits"]), draw.choice(WORDS): leaf},
            {draw.choice(WORDS): leaf},
            [draw.choice(WORDS + NUMBERS) for _ in range(draw.choice([2, 3, 3000]))],
            {f"key{i}": leaf for i in range(draw.choice([2, 2000]))},
            deep(leaf, draw.choice([3, 40, 60])),
            {"a": deep({"b": leaf}, draw.choice([3, 40]))},
        ]
    )


def deep(leaf, levels):
    for _ in range(levels):
        leaf = [leaf]
    return leaf


def places(values, path=()):
    """Where a value is, in nested mappings and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def at(values, path):
    for key in path:
        values = values[key]
    return values


def settings(schema, path=()):
    """Every setting of a schema, in all kinds, as a path."""
    for name, field in schema.model_fields.items():
        yield (*path, name)
        for model in models_in(field.annotation):
            yield from settings(model, (*path, name))


def change(values, draw, schema):
    """One mutation of nested values, in place."""
    *above, key = draw.choice(list(places(values)))
    here = at(values, above)
    match draw.randrange(8):
        case 0 | 1:
            here[key] = draw.choice(WORDS + NUMBERS)
        case 2:
            here[key] = nested(draw)
        case 3:
            del here[key]
        case 4 if isinstance(here, dict):
            new = draw.choice([*WORDS, str(key)[1:], f"{key}s", str(key).upper(), f"{key}.kind", f"{key}\u0455"])
            here[new] = here.pop(key)
        case 5:  # of somewhere else
            here[key] = copy.deepcopy(at(values, draw.choice(list(places(values)))))
        case 6:
            other = yaml.safe_load(draw.choice(list(PRESETS)).read_text(encoding="utf-8"))
            here[key] = other.get(key, other)
        case _:
            *sections, name = draw.choice(list(settings(schema)))
            for section in sections:
                if not isinstance(values.get(section), dict):
                    values[section] = {}
                values = values[section]
            values[name] = draw.choice([nested(draw), draw.choice(WORDS), draw.choice(NUMBERS)])


def damage(text, draw):
    """One mutation of a YAML text."""
    lines = text.splitlines()
    number = draw.randrange(len(lines))
    key, colon, value = lines[number].partition(":")
    match draw.randrange(12):
        case 0:
            lines[number] = f"{key}: {draw.choice(TAGS)} {value}"
        case 1:
            lines[number] = f"{key}: {draw.choice(TAGS)} {draw.choice(['', 'x', '[]', '{a: 1}', '2026-13-45', '=='])}"
        case 2:
            lines[number] = f"{key}: &a {value.strip() or '[*a]'}"
            lines.append(f"seed: {draw.choice(['*a', '*b', '[*a, *a]', '{<<: *a}', '*'])}")
        case 3:
            bomb = ["a0: &a0 x", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
            lines = [*bomb, *lines, f"{key}: *a8"] if draw.random() < 0.5 else [f"{key}: &a [*a, *a]"]
        case 4:
            lines.insert(number, lines[draw.randrange(len(lines))])
        case 5:
            lines[number] = draw.choice(["  ", "\t", "- ", "? ", "--- ", "%YAML 9.9\n", "> ", "| "]) + lines[number]
        case 6:
            lines[number] = f"{key}{colon} {draw.choice(['[', '{', chr(34), chr(39), '}', ']'])}{value}"
        case 7:
            escaped = draw.choice(["\\ud800", "\\0", "\\x1b[2J", "\\U0010ffff", "\\q", "\\N\\_", "\\x85"])
            lines[number] = f'{key}: "{escaped}"'
        case 8:
            lines[number] = (
                f"{key}: {draw.choice(['0b11', '0o17', '1e400', '-0', '+1', '.5', '1.', '190:20:30', '1__0'])}"
            )
        case 9:
            lines = [lines[number] * 2000]
        case 10:
            lines[number] = f"{key}{colon}{value}".replace(draw.choice("aeiou: _"), draw.choice(["\u0430", "", "::"]))
        case _:
            lines = [*lines[:number], lines[number][: draw.randrange(1 + len(lines[number]))]]
    content = bytearray("\n".join(lines).encode(errors="surrogatepass"))
    match draw.randrange(12):
        case 0:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        case 1:
            content = b"\xff\xfe" + content
        case 2:
            content = "\n".join(lines).encode("utf-16", errors="surrogatepass")
        case 3:
            content = content.replace(b"\n", b"\r")
    return bytes(content)


def odd_flags(draw, schema):
    """One or two flags, or words that are none."""
    flags = []
    for _ in range(draw.choice([1, 1, 2])):
        path = draw.choice(list(settings(schema)))
        name = draw.choice([".".join(path), ".".join(path), ".".join(path)[:-1], draw.choice(WORDS)])
        value = draw.choice([str(draw.choice(NUMBERS)), draw.choice(WORDS), json.dumps(nested(draw))])
        flags += draw.choice([[f"--{name}", value], [f"--{name}={value}"], [f"--{name}"], [value], [f"-{name}", value]])
    rest = [["--resume", "last"], ["--resume", draw.choice(WORDS)], ["--dry_run", "--quick"], ["--"], ["--help"]]
    return flags + (draw.choice(rest) if draw.random() < 0.2 else [])


def odd_case(number):
    """A command, the content of its file and its flags."""
    draw = random.Random(number)
    path = draw.choice(list(PRESETS))
    name = PRESETS[path]
    schema = resolve_name(COMMANDS[name].schema)
    text, flags = path.read_text(encoding="utf-8"), []
    way = draw.randrange(10)
    if way < 5:
        values = yaml.safe_load(text)
        for _ in range(draw.choice([1, 1, 1, 1, 2, 4])):
            if list(places(values)):
                change(values, draw, schema)
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=draw.random() < 0.5)
    content = text.encode(errors="surrogatepass")
    if way in (5, 6):
        content = damage(text, draw)
    if way > 6:
        flags = odd_flags(draw, schema)
    return name, content, flags


def outcome_of(name, flags, capsys):
    """Exit code, lines on stderr, and the configuration that the command would work with."""
    command, works_with = COMMANDS[name], []

    def resolve(target):
        return resolve_name(target) if target == command.schema else lambda *arguments: works_with.extend(arguments)

    with mock.patch("dl_proj.cli.resolve_name", resolve):
        try:
            exit_on_mistake(lambda: call(command, flags, prog=f"{name}.py"))
            code = 0
        except SystemExit as end:
            code = end.code or 0
    return code, capsys.readouterr().err.splitlines(), works_with


def wrong_with(code, lines, seconds):
    """What a user would not understand of an outcome; None: nothing."""
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and not 0 < len(lines) <= MOST_LINES:
        return f"{len(lines)} lines"
    if any(len(line) > LONGEST_LINE for line in lines):
        return "a long line"
    if any(len(word) > LONGEST_WORD for line in lines for word in line.split()):
        return "a long word"
    if any(not line.isprintable() for line in lines):
        return "characters that move a terminal's cursor"
    return "too slow" if seconds > MOST_SECONDS else None


@pytest.mark.parametrize("part", range(PARTS))
def test_an_odd_configuration_is_read_or_refused_in_short(part, tmp_path, monkeypatch, capsys, report):
    monkeypatch.chdir(tmp_path)
    found, codes = [], []
    for number in range(part, N, PARTS):
        name, content, flags = odd_case(number)
        (tmp_path / "c.yaml").write_bytes(content)
        begun = time.process_time()
        try:
            code, lines, works_with = outcome_of(name, ["--config", "c.yaml", *flags], capsys)
        except Exception as error:
            found.append((number, name, flags, repr(error)[:300]))
            continue
        codes.append(code)
        if problem := wrong_with(code, lines, time.process_time() - begun):
            found.append((number, name, [flag[:100] for flag in flags], problem, [line[:300] for line in lines[:3]]))
        if code == 0 and works_with and "train" in type(works_with[0]).model_fields:
            kept = yaml.safe_dump(works_with[0].model_dump(mode="json"), sort_keys=False)
            (tmp_path / "again.yaml").write_text(kept, encoding="utf-8")  # as in the run's folder
            if load_config(type(works_with[0]), tmp_path / "again.yaml") != works_with[0]:
                found.append((number, name, "its config.yaml says something else"))
    report(
        "mutated configurations",
        {"read": N // PARTS, "refused": codes.count(2), "accepted": codes.count(0), "ended badly": len(found)},
    )
    assert found == [], "\n".join(map(str, found))
