"""Finished stages -> records, intervals, figures, one HTML page."""
