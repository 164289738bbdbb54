"""Tables: written whole, joined by id, damage named."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax.data.tables import COLUMNS, read_table, write_table
from fairkd_jax.types import Outputs

pytestmark = pytest.mark.quick

ID = np.array([7, 3, 11, 5], np.int32)
COLUMN = {
    "logits": np.arange(8, dtype=np.float32).reshape(4, 2),
    "mistake": np.array([0, 1, 0, 1], np.float32),
}


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path / "table", ID, COLUMN, {"net": "abc"})
    return tmp_path / "table"


def test_what_is_written_is_read_and_joined_in_any_order(folder):
    table = read_table(folder)
    assert table.about == {"net": "abc"}
    assert isinstance(table.columns["logits"], np.memmap)
    for rows in ([0, 1, 2, 3], [2, 2, 0], []):
        joined = table.join(ID[rows])
        assert set(joined) == set(COLUMN)
        for name, values in joined.items():
            np.testing.assert_array_equal(values, COLUMN[name][rows])


def test_ids_without_a_row_are_named(folder):
    with pytest.raises(ValueError, match=r"no row for 2 of 3 example ids: 4, 99"):
        read_table(folder).join(np.array([3, 4, 99]))


def test_writing_again_replaces_and_leaves_nothing_behind(folder):
    write_table(folder, np.array([1]), {"loss": np.zeros(1, np.float32)}, {})
    table = read_table(folder)
    assert set(table.columns) == {"loss"} and table.id.tolist() == [1]
    assert [p.name for p in folder.parent.iterdir()] == ["table"]
    write_table(folder, np.zeros(0, int), {"loss": np.zeros((0, 3))}, {})
    assert read_table(folder).join(np.zeros(0, int))["loss"].shape == (0, 3)
    with pytest.raises(ValueError, match="no row for 1"):
        read_table(folder).rows(np.array([1]))


def test_what_cannot_be_a_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="repeat"):
        write_table(tmp_path / "t", np.array([1, 1]), {}, {})
    with pytest.raises(ValueError, match="'loss' has 3 rows for 2 ids"):
        write_table(tmp_path / "t", np.array([1, 2]), {"loss": np.zeros(3)}, {})
    for name in ("id", "../x", ""):
        with pytest.raises(ValueError, match="name of a column"):
            write_table(tmp_path / "t", np.array([1]), {name: np.zeros(1)}, {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="no table in"):
        read_table(tmp_path / "t")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "logits.npy").unlink(),
        lambda folder: (folder / "logits.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: (folder / "logits.npy").write_bytes(
            (folder / "logits.npy").read_bytes()[:-4]
        ),
        lambda folder: np.save(folder / "logits.npy", np.zeros((3, 2), np.float32)),
        lambda folder: (folder / "about.json").write_text("{"),
        lambda folder: (folder / "about.json").write_text(json.dumps({"arrays": {}})),
    ],
)
def test_damage_is_named(folder, damage):
    damage(folder)
    with pytest.raises(ValueError, match=rf"table {folder} is damaged"):
        read_table(folder)


def test_columns_are_what_their_names_say():
    logits = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    outputs = Outputs(logits=logits, features=jnp.ones((2, 3)))
    found = {k: f(outputs, {"label": jnp.array([0, 0])}) for k, f in COLUMNS.items()}
    assert set(found) == {"logits", "log_probs", "features", "mistake", "loss"}
    assert found["mistake"].tolist() == [0.0, 1.0]
    np.testing.assert_allclose(found["loss"], [np.log1p(np.exp(-2.0)), np.log1p(np.e)], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found["log_probs"]).sum(1), 1, rtol=1e-6)
    assert all(column.dtype == jnp.float32 for column in found.values())
