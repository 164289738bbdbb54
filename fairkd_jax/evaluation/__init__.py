"""Counts by group -> accuracy, worst group, spurious gaps, calibration."""
