"""Score a translation model on its test set: python translation_evaluate.py --checkpoint translation-multi30k."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.translation.evaluate import score_translations
from dl_proj.experiments.translation.settings import TranslationEvaluateConfig


def main(argv: list[str]) -> None:
    """Parse, translate, score."""
    score_translations(config_from(TranslationEvaluateConfig, argv, preset="translation_evaluate.yaml"))


if __name__ == "__main__":
    run_script(main)
