"""The console script `fairkd-benchmark`, from a checkout: `python launch/benchmark.py --help`."""

from fairkd_jax.launch.benchmark import script

if __name__ == "__main__":
    script()
