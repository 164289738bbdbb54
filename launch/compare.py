"""The console script `fairkd-compare`, from a checkout: `python launch/compare.py --help`."""

from fairkd_jax.launch.compare import script

if __name__ == "__main__":
    script()
