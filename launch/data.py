"""The console script `fairkd-data`, from a checkout: `python launch/data.py --help`."""

from fairkd_jax.launch.data import script

if __name__ == "__main__":
    script()
