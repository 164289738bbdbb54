"""The console script `fairkd-export`, from a checkout: `python launch/export.py --help`."""

from fairkd_jax.launch.export import script

if __name__ == "__main__":
    script()
