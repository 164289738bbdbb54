"""The tests of each room's contract, for plugins of ours and for yours; only here is pytest needed.

    python -m fairkd_jax.testing debias=my_project.methods.mine

Or, in a test file of your own, for pytest to find:

    from fairkd_jax.testing.debias import *

    @pytest.fixture
    def plugin():
        return {"name": "my_project.methods.mine"}
"""
