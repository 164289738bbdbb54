"""The console script `fairkd-train`, from a checkout: `python launch/train.py --help`."""

from fairkd_jax.launch.train import script

if __name__ == "__main__":
    script()
