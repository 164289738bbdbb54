"""The console script `fairkd-tune`, from a checkout: `python launch/tune.py --help`."""

from fairkd_jax.launch.tune import script

if __name__ == "__main__":
    script()
