"""Draw what a trained model attends to: python attention_maps.py --checkpoint synth-gen-lsh-r4."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("attention_maps")
