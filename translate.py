"""Translate sentences, of the command line or of standard input: python translate.py "Two dogs play in the snow."."""

from dl_proj.cli import config_and_words, run_script
from dl_proj.experiments.translation.settings import TranslateConfig
from dl_proj.experiments.translation.translate import translate_sentences


def main(argv: list[str]) -> None:
    """Parse, translate."""
    config, sentences = config_and_words(TranslateConfig, argv, preset="translate.yaml", words="SENTENCE")
    translate_sentences(config, sentences)


if __name__ == "__main__":
    run_script(main)
