"""Measures: each file says how like two layers are; see `representation/measure.py`."""
