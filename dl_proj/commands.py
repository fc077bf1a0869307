"""The commands: each top-level script is one of them, ``dl-proj`` has them all.

This module imports only light modules, so that ``--help`` and mistakes answer at once. A command's settings are
imported when it is called, and torch only when its flags are valid.
"""

import difflib
import io
import os
import sys
from dataclasses import dataclass
from typing import NoReturn

from dl_proj import __version__
from my_custom_ai.utils.signals import FirstSignal, exit_at_once


@dataclass(frozen=True)
class Command:
    """A command: its line in ``dl-proj --help``, and its code as "module:name".

    Args:
        summary: what it does, in one line.
        schema: the schema of its settings.
        run: the function that takes the settings; a training also takes the run to resume, or None.
        preset: the file in dl_proj/configs that is read without ``--config``.
        words: the name in ``--help`` of positional arguments, which ``run`` takes as a list; None: it takes none.
    """

    summary: str
    schema: str
    run: str
    preset: str
    words: str | None = None


COMMANDS = {
    "synth_train": Command(
        "Train a model on the copy task",
        "dl_proj.experiments.copy.settings:SynthTrainConfig",
        "dl_proj.experiments.copy.train:train_to_copy",
        "synth_train.yaml",
    ),
    "synth_models_comparison": Command(
        "Compare copy models across hash rounds",
        "dl_proj.experiments.copy.settings:SynthComparisonConfig",
        "dl_proj.experiments.copy.compare:compare",
        "synth_comparison.yaml",
    ),
    "cls_train": Command(
        "Train an image classifier",
        "dl_proj.experiments.images.classification.settings:ClassifierTrainConfig",
        "dl_proj.experiments.images.classification.train:train_classifier",
        "cls_train.yaml",
    ),
    "predict": Command(
        "Classify pictures with a trained classifier",
        "dl_proj.experiments.images.classification.predict_settings:PredictConfig",
        "dl_proj.experiments.images.classification.predict:predict_pictures",
        "predict.yaml",
        words="PICTURE",
    ),
    "generation_train": Command(
        "Train a generator of small images",
        "dl_proj.experiments.images.generation.settings:GeneratorTrainConfig",
        "dl_proj.experiments.images.generation.train:train_generator",
        "gen_train.yaml",
    ),
    "mnist_generator": Command(
        "Draw images with a trained generator",
        "dl_proj.experiments.images.generation.settings:DrawConfig",
        "dl_proj.experiments.images.generation.generate:draw_digits",
        "mnist_generator.yaml",
    ),
    "lm_train": Command(
        "Train a language model",
        "dl_proj.experiments.language.settings:LanguageTrainConfig",
        "dl_proj.experiments.language.train:train_language_model",
        "lm_books.yaml",
    ),
    "lm_generate": Command(
        "Continue a text with a trained language model",
        "dl_proj.experiments.language.settings:ContinueTextConfig",
        "dl_proj.experiments.language.generate:continue_text",
        "lm_generate.yaml",
    ),
    "import_reformer": Command(
        "Import a Reformer from the transformers library",
        "dl_proj.experiments.language.import_settings:ImportReformerConfig",
        "dl_proj.experiments.language.import_reformer:import_reformer",
        "import_reformer.yaml",
    ),
    "lra_train": Command(
        "Train on a task of the Long Range Arena",
        "dl_proj.experiments.long_range.settings:LongRangeTrainConfig",
        "dl_proj.experiments.long_range.train:train_long_range",
        "lra_listops.yaml",
    ),
    "lra_examples": Command(
        "Show examples of a task of the Long Range Arena",
        "dl_proj.experiments.long_range.examples_settings:ExamplesConfig",
        "dl_proj.experiments.long_range.examples:show_examples",
        "lra_examples.yaml",
    ),
    "translation_train": Command(
        "Train a translation model",
        "dl_proj.experiments.translation.settings:TranslationTrainConfig",
        "dl_proj.experiments.translation.train:train_translator",
        "translation_multi30k.yaml",
    ),
    "translation_evaluate": Command(
        "Score a translation model on its test set",
        "dl_proj.experiments.translation.settings:TranslationEvaluateConfig",
        "dl_proj.experiments.translation.evaluate:score_translations",
        "translation_evaluate.yaml",
    ),
    "translate": Command(
        "Translate sentences from the command line or standard input",
        "dl_proj.experiments.translation.settings:TranslateConfig",
        "dl_proj.experiments.translation.translate:translate_sentences",
        "translate.yaml",
        words="SENTENCE",
    ),
    "evaluate": Command(
        "Measure trained models on their test data",
        "dl_proj.experiments.evaluate_settings:EvaluateConfig",
        "dl_proj.experiments.evaluate:evaluate_checkpoints",
        "evaluate.yaml",
    ),
    "attention_maps": Command(
        "Draw what a trained model attends to",
        "dl_proj.looking.settings:AttentionMapsConfig",
        "dl_proj.looking.attention_maps:draw_attention",
        "attention_maps.yaml",
    ),
    "export": Command(
        "Write a trained model as an ONNX or torch.export graph",
        "dl_proj.exporting.settings:ExportConfig",
        "dl_proj.exporting.export:export_model",
        "export.yaml",
    ),
    "sweep": Command(
        "Train variants of a configuration and compare them",
        "dl_proj.experiments.sweep_settings:SweepConfig",
        "dl_proj.experiments.sweep:sweep",
        "sweep_lm_books.yaml",
    ),
    "baselines": Command(
        "Measure what any model of an experiment must beat",
        "dl_proj.experiments.baselines_settings:BaselinesConfig",
        "dl_proj.experiments.baselines:measure_baselines",
        "baselines.yaml",
    ),
    "compare_runs": Command(
        "Compare runs on an HTML page",
        "dl_proj.experiments.compare_runs_settings:CompareRunsConfig",
        "dl_proj.experiments.compare_runs:compare_runs",
        "compare_runs.yaml",
        words="RUN",
    ),
    "shift_test": Command(
        "Measure classifiers on horizontally shifted images",
        "dl_proj.experiments.images.classification.shift_settings:ShiftConfig",
        "dl_proj.experiments.images.classification.shift:measure_shifts",
        "shift_test.yaml",
    ),
    "performance_studies": Command(
        "Measure time, memory and error of the mechanisms",
        "dl_proj.studies.settings:PerformanceConfig",
        "dl_proj.studies.run:make_studies",
        "perf_study.yaml",
    ),
}
"""By script name; ``dl-proj`` also accepts dashes."""

_HINT = "dl-proj COMMAND --help lists a command's settings; dl-proj --version prints the version."
_OURS = ("dl_proj", "my_transformers", "my_custom_ai")


def run_script(name: str) -> None:
    """Run a command with the arguments of its script."""
    _run(name, sys.argv[1:], prog=f"{name}.py")


def main() -> None:
    """Entry point of ``dl-proj``: run the command that the first argument names."""
    first, *flags = sys.argv[1:] or ["--help"]
    name = first.replace("-", "_")
    if name in COMMANDS:
        _run(name, flags, prog=f"dl-proj {first}")
    elif first in ("-h", "--help"):
        print(_overview())
    elif first == "--version":
        print(f"dl-proj {__version__}")
    else:
        close = difflib.get_close_matches(_dashed(first), map(_dashed, COMMANDS), n=1)
        hint = f", did you mean {close[0]}" if close else ""
        _refuse(f"dl-proj: {first}: no such command{hint}; see dl-proj --help")


def _run(name: str, argv: list[str], prog: str) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # characters that the terminal cannot show become "?"
    try:
        with FirstSignal(exit_at_once):
            from dl_proj.cli import call, exit_on_mistake

            exit_on_mistake(lambda: call(COMMANDS[name], [_as_utf8(word) for word in argv], prog))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        extra = "install the extra 'experiments' (pip install '.[experiments]' in the project's folder)"
        _refuse(f"{prog}: {package} is not installed; {extra}")


def _as_utf8(word: str) -> str:
    """Decode an argument that Python could not decode because the locale is not UTF-8; others are unchanged."""
    try:
        return os.fsencode(word).decode() if any("\udc80" <= character <= "\udcff" for character in word) else word
    except UnicodeError:
        return word  # refused later, with the setting's name


def _refuse(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(2)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {_dashed(name):{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: dl-proj COMMAND [--config FILE.yaml] [--SETTING VALUE ...]", "", *lines, "", _HINT])


def _dashed(name: str) -> str:
    return name.replace("_", "-")
