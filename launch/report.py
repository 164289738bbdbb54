"""The console script `fairkd-report`, from a checkout: `python launch/report.py --help`."""

from fairkd_jax.launch.report import script

if __name__ == "__main__":
    script()
