"""The console script `fairkd-study`, from a checkout: `python launch/study.py --help`."""

from fairkd_jax.launch.study import script

if __name__ == "__main__":
    script()
