"""Is a debiased teacher's robustness still there in the student distilled from it?"""
