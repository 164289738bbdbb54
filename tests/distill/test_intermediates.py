"""Distillation of intermediates: what it does not see, what changes nothing, what equals what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fairkd_jax import geometry, registry
from fairkd_jax.debias.erm import ERM
from fairkd_jax.debias.jtt import JTT
from fairkd_jax.distill import nst, pairs
from fairkd_jax.distill.crd import CRD
from fairkd_jax.distill.dett import DeTT
from fairkd_jax.distill.hidden import Hidden
from fairkd_jax.distill.mfd import MFD
from fairkd_jax.distill.simkd import SimKD
from fairkd_jax.testing.distill import batch, make_now, make_spec, outputs
from fairkd_jax.train.methods import Methods, shown_to
from fairkd_jax.types import Outputs, Terms

RELATIONS = ("sp", "pkt", "rkd", "nst", "at", "cc", "mfd")


def loss_of(name, ours, theirs, **options):
    """The sum of losses and penalty on features, or on maps [B, T, D]."""
    pair = ((("features", "features"),) if ours.ndim == 2 else (("x", "x"),))[0]
    method = registry.build("distill", {"name": name, "pairs": (pair,), **options})
    nets = [Outputs(jnp.zeros((len(x), 3)), taps={pair[0]: x}) for x in (ours, theirs)]
    kd = method(nets[0], (nets[1],), batch(len(ours), method), {}, make_now())
    return jnp.sum(kd.per_example) + kd.penalty


def draw(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), jnp.float32)


@pytest.mark.parametrize("name", RELATIONS)
def test_a_student_like_its_teacher_has_nothing_to_learn(name):
    x = draw(6, 4, 5) if name in ("at", "nst") else draw(6, 5)
    options = {"kernel": "poly"} if name == "mfd" else {}
    loss, slope = jax.jit(jax.value_and_grad(lambda y: loss_of(name, y, x, **options)))(x)
    if name == "mfd":  # each group is compared with its whole class
        assert loss > 0
    else:
        assert abs(loss) < 1e-6 and np.abs(slope).max() < 1e-5


@pytest.mark.parametrize("name, scales", [("sp", 3.0), ("rkd", 3.0), ("pkt", "rows"), ("at", 3.0)])
def test_relations_do_not_hang_on_scale(name, scales):
    x = draw(6, 4, 5) if name == "at" else draw(6, 5)
    y = x + 0.5 * draw(*x.shape, seed=1)
    scales = jnp.arange(1.0, 7.0)[:, None] if scales == "rows" else scales
    loss = jax.jit(lambda y: loss_of(name, y, x))
    np.testing.assert_allclose(loss(scales * y), loss(y), rtol=1e-4)


def test_what_is_padding_may_hold_anything():
    """Rows and tokens that are not real are zero to methods, and have no gradient."""
    student, teacher = (outputs(w, w) for w in (5, 7))
    made = batch() | {"real": jnp.asarray([1.0, 1, 1, 0, 1, 0])}
    kept = np.asarray(student.mask * teacher.mask * made["real"][:, None]) > 0

    def total(x):
        spoilt = jnp.where(kept[:, :, None], x, jnp.nan)
        net = student.replace(taps={"block00/out": spoilt})
        (((met,),),) = (list(pairs.meet((("last", "last"),), net, (teacher,), made)),)
        return jnp.sum(met.mean(met.ours**2)), (met.ours, met.theirs)

    tap = student.taps["block00/out"]
    (value, both), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(tap)
    assert np.isfinite(value) and np.isfinite(slope).all()
    for x in (*both, slope):
        assert (np.asarray(x)[~kept] == 0).all()


@pytest.mark.parametrize("small", [1, 2, 3, 5])
def test_pooling_is_by_cells_that_cover_the_map(small):
    x = draw(2, 5, 5, 3)
    found = pairs.pool(x, small, 5)
    cells = [slice(i * 5 // small, -(-(i + 1) * 5 // small)) for i in range(small)]
    wanted = np.stack([np.asarray(x)[:, cell].mean(1) for cell in cells], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_the_last_block_is_last_by_number():
    taps = dict.fromkeys(("stage1/block11/out", "stage2/block2/out", "stage2/block10/out"), 0)
    taps = {tap: jnp.full((1, 2), i) for i, tap in enumerate(taps)}
    net = Outputs(jnp.zeros((1, 2)), taps=taps)
    (((met,),),) = (list(pairs.meet((("last", "last"),), net, (net,), {})),)
    assert met.ours[0, 0] == 2


def test_near_points_keep_their_distance_and_equal_ones_a_gradient():
    x = 100 + jnp.asarray([[0.0, 0], [3e-3, 4e-3], [0, 0]], jnp.float32)
    apart = np.asarray(geometry.distances(x, x))
    wanted = np.linalg.norm(np.float64(x)[:, None] - np.float64(x), axis=2)
    np.testing.assert_allclose(apart, wanted, rtol=1e-6)

    def everything(y):
        cosines = geometry.products(geometry.unit(y), geometry.unit(y))
        return jnp.sum(geometry.distances(y, y) + cosines)

    assert np.isfinite(jax.jit(jax.grad(everything))(x - x[:1])).all()


def test_both_ways_to_compare_channels_agree():
    ours, theirs = (nst._channels(draw(3, 4, width, seed=width)) for width in (5, 7))
    few = [x[:, :3] for x in (ours, theirs)]  # channels, fewer than positions
    twice = [jnp.concatenate([x, x], axis=1) for x in few]
    found, wanted = (jax.jit(nst._discrepancy)(*x) for x in (few, twice))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_negatives_have_another_label_and_hang_on_step_and_example():
    labels, made, now = np.arange(20) % 3, batch(), make_now()
    labels[12:] = -1  # not seen yet
    memory = {"label": jnp.asarray(labels), "key": jax.random.key_data(jax.random.key(0))}
    draws = jax.jit(CRD(negatives=50)._draw)

    def drawn(made, step):
        return np.asarray(draws(memory, made, now.replace(step=jnp.int32(step))))

    found = drawn(made, 3)
    assert (labels[found] != np.asarray(made["label"])[:, None]).all()
    assert len(np.unique(found)) == 20
    backward = {k: v[::-1] for k, v in made.items()}
    np.testing.assert_array_equal(drawn(backward, 3), found[::-1])
    assert (drawn(made, 4) != found).any()


def test_weighing_mistakes_is_what_jtt_does():
    """So DeTT is SimKD whose loss goes through JTT, where nothing else does."""
    losses, mistake = draw(6) ** 2, jnp.asarray([0, 1, 1, 0, 0, 1.0])
    table = {"mistake": mistake}
    made = batch() | {"tables": {"mistakes": table, "early_mistakes": table}}
    weighed = DeTT(factor=7.0).weigh(losses, made)
    terms = Terms(losses, losses, losses)
    found = JTT(factor=7.0)(terms, {}, made, {}, make_now(), None)[0]
    np.testing.assert_allclose(found, jnp.mean(weighed), rtol=1e-6)


def test_the_net_that_is_kept_has_the_teachers_head_behind_the_projector():
    """Exactly, for a dense projector: of the head's own logits nothing is left."""
    method, (a, b) = SimKD(), (draw(6, 7), draw(6, 8, seed=1))
    params, features, teachers = {}, draw(6, 5, seed=2), []
    wanted = 0.0
    for k, (x, share) in enumerate(((a, 2.0), (b, 1.0))):
        width = x.shape[1]
        own = {"kernel": draw(5, width, seed=3 + k), "bias": draw(width, seed=5 + k)}
        head = {"kernel": draw(width, 3, seed=7 + k), "bias": draw(3, seed=9 + k)}
        params[pairs.name(method.pairs[0], k)] = own
        teachers.append({"body": 0, "head": head})
        projected = features @ own["kernel"] + own["bias"]
        wanted += share / 3 * (projected @ head["kernel"] + head["bias"])
    student = {"body": 1, "head": {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3)}}
    found = method.finished(student, tuple(teachers), (2.0, 1.0), params)
    assert found["body"] == 1
    logits = features @ found["head"]["kernel"] + found["head"]["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
    two = student | {"head": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}
    for other in ({"words": 0}, two):
        with pytest.raises(ValueError, match="one dense layer on the net's features, of"):
            method.finished(other, tuple(teachers), (2.0, 1.0), params)


def test_attributes_are_shown_to_whom_they_are_due():
    methods = Methods(ERM(), (Hidden(), MFD()))
    assert methods.sees_attributes and not Methods(ERM(), (Hidden(),)).sees_attributes
    whole, spec = {"attribute": 0, "group": 1, "label": 2}, make_spec(outputs(5, 0), ())
    for method in methods.all:
        sees = method.sees_attributes
        assert ("attribute" in shown_to(method, whole)) == ("group" in shown_to(method, whole))
        assert ("group" in shown_to(method, whole)) == sees == isinstance(method, MFD)
        assert np.isnan(shown_to(method, spec).group_counts).all() != sees


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "at", "power": 0.5}, "distill.at: power = 0.5"),
        ({"name": "at", "pairs": [["features", "features"]]}, "compares positions, and there are"),
        ({"name": "nst", "pairs": [["stem", "block00/out"]]}, r"\[B, 2, 2, 5\].*\[B, 4, 7\]"),
        ({"name": "sp", "pairs": [["features", "nowhere"]]}, "of the teacher 0: 'nowhere'"),
        ({"name": "hidden", "regressor": "deep"}, "dense, normalised"),
        ({"name": "mfd", "kernel": "linear"}, "poly, rbf"),
        ({"name": "crd", "negatives": 0}, "negatives = 0"),
        ({"name": "crd", "momentum": 1.0}, "momentum = 1.0"),
        ({"name": "dett", "identify_share": 0.0}, "identify_share = 0.0"),
        ({"name": "vid", "variance": 0.0}, "distill.vid: variance = 0.0"),
        ({"name": "simkd", "factor": 0}, "distill.simkd: factor = 0"),
        (
            {"name": "dett", "pairs": [["stem", "stem"]]},
            "pairs = .*the projector is 'convolutions'",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        registry.build("distill", options).check(make_spec(outputs(5, 0), (outputs(7, 1),)))
