"""Decisions: each file says which label a net's log-probabilities mean; see `decision.py`."""
