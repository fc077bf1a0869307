"""Train a translation model: python translation_train.py --config dl_proj/configs/translation_multi30k.yaml."""

from dl_proj.cli import run_script, training_config
from dl_proj.experiments.translation.settings import TranslationTrainConfig
from dl_proj.experiments.translation.train import train_translator


def main(argv: list[str]) -> None:
    """Parse, build, train."""
    config, resume = training_config(TranslationTrainConfig, argv, preset="translation_multi30k.yaml")
    train_translator(config, resume)


if __name__ == "__main__":
    run_script(main)
