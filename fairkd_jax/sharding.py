"""Where arrays live: one mesh (`data`, `fsdp`) and one ordered table of rules over parameter paths.

Batches are global arrays split over all devices, so a mean by group is a mean over the global batch
and no collective is written by hand. `jax.jit` with shardings is pjit.
"""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

RULES = (  # (pattern of a path such as "opt/.../mu/nets/student/block00/mlp_in/kernel", rule)
    (r".*/(kernel|embedding|position)", "split"),
    (r".*/(bias|scale|mean|var|cls|distill)", "copy"),  # vectors, ViT's tokens
    (r"(.*/)?(step|count)", "copy"),
    (r"memory/.*", "copy"),  # read and written example by example
    (r".*/(debias|distill)/.*", "split"),  # what a method learns, however it names it
    (r"opt/.*", "copy"),  # an optimizer's counters and keys: what it has of a parameter ends alike
)  # the first that matches wins
LOOKED_UP = "embedding"  # in the path of an array whose rows are taken by number
SMALLEST = 2**16  # numbers; arrays with fewer are copied: splitting them costs more than it saves


def make_mesh(fsdp: int = 1, devices: Any = None) -> Mesh:
    """A mesh over all devices, of which groups of `fsdp` share one copy of the large parameters.

    Raises ValueError if `fsdp` does not divide the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    if devices.size % fsdp:
        raise ValueError(f"fsdp = {fsdp} does not divide {devices.size} devices")
    # Neighbours in the network of a slice are neighbours in the mesh.
    shape = devices.size // fsdp, fsdp
    grid = mesh_utils.create_device_mesh(shape, [*devices.flat], allow_split_physical_axes=True)
    # Auto is written out: axes are Explicit by default, where an embedding gather fails.
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicated_like(batch: Any) -> NamedSharding | None:
    """For results that every process reads: replicated over a batch's mesh, None without one."""
    sharding = getattr(jax.tree.leaves(batch)[0], "sharding", None)
    return replicated(sharding.mesh) if isinstance(sharding, NamedSharding) else None


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(shapes: Any, mesh: Mesh) -> Any:
    """A sharding for each array, by its path; optimizer slots end like their parameters.

    Raises ValueError for a path that no rule matches.
    """

    def choose(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rules = [rule for pattern, rule in RULES if re.fullmatch(pattern, name)]
        if not rules:
            patterns = "\n  ".join(pattern for pattern, _ in RULES)
            raise ValueError(f"no rule of sharding.RULES matches {name!r}; they are\n  {patterns}")
        return NamedSharding(mesh, _spec(rules[0], leaf.shape, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(choose, shapes)


def _spec(rule: str, shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Splits the longest axis that divides evenly, if the array is large enough."""
    axes = [i for i, n in enumerate(shape) if n % parts == 0]
    if rule != "split" or parts == 1 or not axes or math.prod(shape) < SMALLEST:
        return PartitionSpec()
    split = max(axes, key=lambda i: shape[i])
    return PartitionSpec(*["fsdp" if i == split else None for i in range(len(shape))])


def whole(tree: Any, mesh: Mesh) -> Any:
    """Split arrays gathered, inside `jax.jit`: what a device computes with its rows needs them all.

    Of the gradient each device is left the sum of its own part. Left to itself XLA splits some
    products by units instead of rows, and moves activations for it.
    """
    split, copied = state_shardings(tree, mesh), replicated(mesh)
    gather = jax.custom_vjp(lambda tree: jax.lax.with_sharding_constraint(tree, copied))

    def part(path, gradient):
        # with several groups, XLA would gather all activations for that of what is looked up
        looked_up = LOOKED_UP in jax.tree_util.keystr(path) and mesh.shape["data"] > 1
        return jax.lax.with_sharding_constraint(gradient, copied) if looked_up else gradient

    def parts(_, gradient):
        gradient = jax.tree_util.tree_map_with_path(part, gradient)
        return (jax.lax.with_sharding_constraint(gradient, split),)

    gather.defvjp(lambda tree: (gather(tree), None), parts)
    return gather(tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch as global arrays on the devices of the mesh."""
    return _put(batch, batch_sharding(mesh))


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Host values, equal in every process, as global arrays on every device."""
    return _put(tree, replicated(mesh))


def put_step(batch: Any, tree: Any, mesh: Mesh) -> tuple[Any, Any]:
    """(`put_batch`, `put_replicated`) in one transfer: what a step waits for."""
    return _put((batch, tree), (batch_sharding(mesh), replicated(mesh)))


def _put(tree: Any, places: Any) -> Any:
    """`places`: a sharding for all of it, or one for each part."""
    if jax.process_count() == 1:
        return jax.device_put(tree, places)

    def put(place: NamedSharding, part: Any) -> Any:
        make = jax.make_array_from_process_local_data
        return jax.tree.map(lambda x: make(place, np.asarray(x)), part)

    return jax.tree.map(put, places, tree)


def divisible(batch_size: int, mesh: Mesh) -> int:
    """The smallest batch size, at least as large, that divides over the devices of the mesh."""
    return -(-batch_size // mesh.size) * mesh.size
