"""Sources of bias: each file says in a table what a net should not learn; see `base.py`."""
