"""Let a trained language model continue a text: python lm_generate.py --length 200 --temperature 0.8."""

from dl_proj.cli import config_from, run_script
from dl_proj.experiments.language.generate import continue_text
from dl_proj.experiments.language.settings import ContinueTextConfig


def main(argv: list[str]) -> None:
    """Parse, draw."""
    continue_text(config_from(ContinueTextConfig, argv, preset="lm_generate.yaml"))


if __name__ == "__main__":
    run_script(main)
