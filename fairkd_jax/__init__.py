"""Is a debiased teacher's robustness still there in the student distilled from it?"""

__version__ = "0.1.0"
