"""Draw images with a trained generator: python mnist_generator.py --checkpoint mnist-gen-full-144."""

from dl_proj.commands import run_script

if __name__ == "__main__":
    run_script("mnist_generator")
