"""Train a language model: python lm_train.py --config dl_proj/configs/lm_books.yaml."""

from dl_proj.cli import run_script, training_config
from dl_proj.experiments.language.settings import LanguageTrainConfig
from dl_proj.experiments.language.train import train_language_model


def main(argv: list[str]) -> None:
    """Parse, build, train."""
    config, resume = training_config(LanguageTrainConfig, argv, preset="lm_books.yaml")
    train_language_model(config, resume)


if __name__ == "__main__":
    run_script(main)
