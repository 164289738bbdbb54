"""A planted path is found by every way of scoring, and does all the work; what two nets share."""

import jax
import numpy as np
import planted
import pytest

from fairkd_jax import registry, sharding
from fairkd_jax.circuits import faithful, select, shift
from fairkd_jax.circuits.compare import compare_circuits
from fairkd_jax.circuits.graph import graph_of
from fairkd_jax.circuits.metric import metric
from fairkd_jax.circuits.patching import written
from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.score import Scored
from fairkd_jax.sharding import put_batch, put_replicated

METHODS = registry.available("scores")


@pytest.fixture(scope="module", params=["vit", "t5"])
def net(request):
    return getattr(planted, request.param)()


@pytest.fixture(scope="module")
def problems(net):
    return {level: problem(net, level) for level in ("nodes", "edges")}


def problem(net, level, name="logit_difference", **options):
    graph = graph_of(net.net, net.batch, level)
    batches = options.pop("batches", [net.batch])
    told = {"at_once": 32} | options
    return Problem(net.net, net.variables, graph, metric(name), batches, **told)


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_path_is_found_and_faithful(net, problems, method):
    scored = {k: registry.build("scores", {"name": method}).scores(p) for k, p in problems.items()}
    for level, path in (("nodes", net.nodes), ("edges", net.edges)):
        asked, names = problems[level], np.array(problems[level].graph.names)
        assert asked.whole.min() > 0.3 and asked.empty.max() < -0.3
        kept = [select.top(asked.graph, scored[level].mean, len(path))]
        kept.append(select.threshold(asked.graph, scored[level].mean, 0.3))
        kept.append(select.greedy(asked.graph, scored[level].mean, len(path)))
        kept += [] if scored[level].kept is None else [scored[level].kept]
        for circuit in kept:
            assert {*names[circuit]} == {*path}
        told = faithful.faithfulness(asked.values(np.stack(kept)), asked, faithful.draws(6, 5, 0))
        for values in told.values():
            np.testing.assert_allclose(values, 1.0, atol=1e-4)


def test_all_kept_is_the_net_none_is_the_corrupt_input_and_nodes_are_edges_among_them(
    net, problems
):
    nodes, edges = problems["nodes"], problems["edges"]
    random = np.random.default_rng(0)
    ends = edges.values(np.array([np.ones(len(edges.graph)), np.zeros(len(edges.graph))], bool))
    np.testing.assert_allclose(ends, edges.ends, rtol=1e-4, atol=1e-5)
    for _ in range(2):
        kept = random.random(len(nodes.graph)) < 0.5
        among = edges.graph.among([s for s, k in zip(nodes.graph.sites, kept) if k])
        both = nodes.values(kept[None])[0], edges.values(among[None])[0]
        np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-5)


def test_acdc_by_divergence_finds_it_too(net):
    asked = problem(net, "edges", "kl")
    assert np.abs(asked.whole).max() < 1e-6 and asked.empty.max() < -0.01
    found = registry.build("scores", {"name": "acdc", "threshold": 0.001}).scores(asked)
    assert {*np.array(asked.graph.names)[found.kept]} == {*net.edges}


def test_padding_batches_and_devices_change_nothing(net, problems):
    """The same six pairs in two batches over eight devices, filled with rows that do not count."""
    if net.net.view != "image":
        pytest.skip("one family is enough")
    mesh = sharding.make_mesh()

    def part(rows):
        batch = jax.tree.map(lambda x: x[np.resize(rows, 8)], net.batch)
        return batch | {"real": (np.arange(8) < len(rows)).astype(np.float32)}

    batches = [part(np.arange(4)), part(np.arange(4, 6))]
    there = Problem(
        net.net,
        put_replicated(net.variables, mesh),
        problems["nodes"].graph,
        metric("logit_difference"),
        batches,
        put=lambda batch: put_batch(batch, mesh),
    )
    with jax.transfer_guard("disallow"):
        found = registry.build("scores", {"name": "exact"}).scores(there)
        slopes = registry.build("scores", {"name": "eap_ig"}).scores(there)
    exact = registry.build("scores", {"name": "exact"}).scores(problems["nodes"])
    np.testing.assert_allclose(found.by_example, exact.by_example, rtol=1e-4, atol=1e-5)
    again = registry.build("scores", {"name": "eap_ig"}).scores(problems["nodes"])
    np.testing.assert_allclose(slopes.by_example, again.by_example, rtol=1e-4, atol=1e-5)


def test_a_deeper_teachers_circuit_does_the_work_in_the_student():
    teacher, student = planted.vit(4, head=0), planted.vit(2)
    nets = {"first": (teacher.net, teacher.variables), "second": (student.net, student.variables)}
    told = compare_circuits(
        nets,
        [student.batch],
        scores={"eap_ig": registry.build("scores", {"name": "eap_ig", "steps": 2})},
        sizes=(3 / 100,),
        thresholds=(0.3,),
        bootstrap=10,
        random=4,
        at_once=16,
    )
    assert told["level"] == "edges" and told["why"] == {} and told["n"] == 6
    for name, net in (("first", teacher), ("second", student)):
        one = told[name]["circuits"]["eap_ig"]["threshold 0.3"]
        assert {told[name]["sites"][i] for i in one["kept"]} == {*net.edges}
        np.testing.assert_allclose(one["faithfulness"]["value"], 1.0, atol=1e-4)
        assert one["random"]["value"] < 0.5 and told[name]["undefined"] == ""
    shifted = told["shift"]["methods"]["eap_ig"]
    found = shifted["threshold 0.3"]
    assert found["mapped"] == 1.0
    np.testing.assert_allclose(found["cross"]["faithfulness"]["value"], 1.0, atol=1e-4)
    assert found["cross"]["size"] == 3
    assert 0 < found["overlap"]["value"] < 1  # one of six sites is not one of two
    assert found["overlap"]["random"] < found["overlap"]["value"]
    assert told["shift"]["depth"].tolist() == [0.5, 1.0] and shifted["rank"]["value"] > 0.3


def test_a_net_shares_all_with_itself_and_nothing_with_another_family(problems, net):
    graph = problems["edges"].graph
    parts = shift.parts_of(graph, graph)
    scores = np.random.default_rng(0).normal(size=len(graph))
    kept = scores > 0
    assert shift.overlap(parts, kept, kept)[0] == 1.0
    assert shift.rank(parts, scores, scores) == pytest.approx(1.0)
    again, placed = shift.mapped(parts, kept, scores)
    assert placed == 1.0 and again.sum() >= kept.sum()
    other = (planted.t5 if net.net.view == "image" else planted.vit)()
    foreign = shift.parts_of(graph, graph_of(other.net, other.batch, "edges"))
    assert "share no part" in foreign.reason


def test_what_no_circuit_could_explain_is_undefined(net):
    same = net.batch | {"corrupt": net.batch["views"]}
    asked = problem(net, "nodes", batches=[same])
    assert "no difference" in faithful.undefined(asked)
    told = faithful.faithfulness(np.zeros((2, 6)), asked, faithful.draws(6, 3, 0))
    assert all(np.isnan(x).all() for x in told.values())


def test_names_and_levels(net, problems):
    assert len({*problems["edges"].graph.names}) == len(problems["edges"].graph)
    assert len(written(problems["nodes"].graph)) < len(problems["nodes"].graph)
    with pytest.raises(ValueError, match="unknown level of circuits: 'edgse'"):
        graph_of(net.net, net.batch, "edgse")
    assert Scored(np.eye(2)).mean.tolist() == [0.5, 0.5]
