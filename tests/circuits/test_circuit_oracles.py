"""Every case of patched nets whose numbers others computed: brute force by hooks, EAP-IG's code.

All values of role "target" are compared, at the tolerance that the case gives.
"""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from conftest import ORACLES

from fairkd_jax.circuits import select
from fairkd_jax.circuits.graph import Nodes, Site, graph_of, shapes_of
from fairkd_jax.circuits.problem import Problem
from fairkd_jax.circuits.scores.attribution import Attribution
from fairkd_jax.circuits.scores.eap_ig import EapIg
from fairkd_jax.circuits.scores.exact import Exact
from fairkd_jax.models import pretrained, weights
from fairkd_jax.models.net import Net

FOLDER = ORACLES / "circuits" if ORACLES else None
CASES = sorted(p.stem for p in FOLDER.glob("*_patching*.npz")) if FOLDER else []
QUICK = ("t5_patching", "vit_patching_2")  # the others take as long again
AXES = {"ids": ("tokens", (0, 1)), "pixels": ("pixels", (0, 2, 3, 1))}
PARTS = {"q": "query_in", "k": "key_in", "v": "value_in"}
PATCHED = {"out": "head_out", "q": "attn_query", "k": "attn_key", "v": "attn_value"}


def difference(logits, whole, label):
    """z of the label less z of the wrong one: `label` holds both."""
    z = jax.numpy.take_along_axis(logits, label, axis=1)
    return z[:, 0] - z[:, 1]


def site(name: str) -> Site:
    """Ours, of "a0.h1", "enc.m0", "dec.x1.h0", "s0.b1", "input"."""
    if name == "input":
        return Site("embed")
    if found := re.fullmatch(r"s(\d+)\.b(\d+)", name):
        return Site(f"stage{int(found[1]) + 1}/block{int(found[2]) + 1}/branch_out")
    stack, kind, layer, head = re.fullmatch(
        r"(?:(enc|dec)\.)?([axm])(\d+)(?:\.h(\d+))?", name
    ).groups()
    tap = {"a": "head_out", "x": "cross_head_out", "m": "mlp_out"}[kind]
    path = "/".join([*filter(None, [stack]), f"block{int(layer):02}", tap])
    return Site(path, None if head is None else int(head))


def target(name: str) -> Site:
    """Ours, of "a0.h1<q>", "m0", "logits"."""
    if name == "logits":
        return Site("logits_in")
    node, _, part = name.removesuffix(">").partition("<")
    found = site(node)
    return Site(found.tap.rpartition("/")[0] + "/" + PARTS.get(part, "mlp_in"), found.head)


class Case:
    """A case read, with what it expects and what we give for it."""

    def __init__(self, name: str):
        self.meta = json.loads((FOLDER / f"{name}.json").read_text())
        self.arrays = dict(np.load(FOLDER / f"{name}.npz", allow_pickle=False))
        self.hyper, stem = self.meta["hyper"], FOLDER / name
        given = {k.removeprefix("in."): v for k, v in self.arrays.items() if k.startswith("in.")}
        keys = weights.find(f"{stem}.safetensors").headers()
        architecture = pretrained.architecture_from_config(f"{stem}.config.json", keys)
        classes = self.arrays["out.clean_logits"].shape[1]
        self.writes = hasattr(architecture, "label_tokens")
        if self.writes:  # each word is a class: log-likelihoods differ as logits do
            words = tuple((i,) for i in range(classes))
            architecture = dataclasses.replace(
                architecture, readout="verbalizer", label_tokens=words
            )
        self.net = net = Net(architecture, classes, architecture.view)
        self.variables = pretrained.load(net, f"{stem}.safetensors", net.variable_shapes())
        views = {}
        for kind in ("clean", "corrupt"):
            name, axes = next(AXES[k] for k in AXES if f"{kind}_{k}" in given)
            read = {name: np.ascontiguousarray(given[f"{kind}_{_key(name)}"].transpose(axes))}
            if "attention_mask" in given:
                read["mask"] = given["attention_mask"]
                read["segments"] = np.zeros_like(read["tokens"])
            views[kind] = {net.view: read}
        label = np.stack([given["label"], given["wrong"]], axis=1)
        self.batch = {"views": views["clean"], "corrupt": views["corrupt"], "label": label}
        self.batch["real"] = np.ones(len(label), np.float32)
        self.graph = graph_of(net, self.batch, "nodes")

    def problem(self, graph, ablation="interchange", batch=None, **options) -> Problem:
        batches = [batch or self.batch]
        told = {"ablation": ablation, "at_once": 16, "over_padding": self.writes} | options
        return Problem(self.net, self.variables, graph, difference, batches, **told)

    def nodes(self) -> dict:
        """Our values by key, of what is asked of nodes."""
        assert [str(s) for s in self.graph.sites] == [str(site(n)) for n in self.hyper["nodes"]]
        problem = self.problem(self.graph)
        other = self.batch | {"views": self.batch["corrupt"], "corrupt": self.batch["views"]}
        whole, corrupt = problem.ends.mean(axis=1)
        exact = Exact().scores(problem)
        kept = np.isin(self.graph.names, [str(site(n)) for n in self.hyper["circuit"]])
        circuit, left, empty = problem.values(np.stack([kept, ~kept, kept & ~kept])).mean(axis=1)
        found = {
            "clean_metric": whole,
            "corrupt_metric": corrupt,
            "patch_noising": exact.mean,
            "patch_noising_per_example": exact.by_example,
            "patch_denoising": Exact().scores(self.problem(self.graph, batch=other)).mean,
            "circuit_metric": circuit,
            "empty_metric": empty,
            "faithfulness": (circuit - empty) / (whole - empty),
            "faithfulness_corrupt": (circuit - corrupt) / (whole - corrupt),
            "leave_out_metric": left,
            "attribution_patching": Attribution().scores(problem).mean,
            "eap_ig_0_to_m-1": EapIg(5).scores(problem).mean,
            "eap_ig_1_to_m": EapIg(5, "clean").scores(problem).mean,
            "eap_ig_midpoint": EapIg(5, "middle").scores(problem).mean,
        }
        for key in ("zero", "mean", "mean_positional"):
            found[f"ablate_{key}"] = Exact().scores(self.problem(self.graph, key)).mean
        return found | self.logits()

    def logits(self) -> dict:
        found = {}
        for kind, name in (("clean", "views"), ("corrupt", "corrupt")):
            batch = self.batch | {"views": self.batch[name]}
            outputs, _ = jax.jit(
                lambda v, b: self.net.apply(
                    v, b, train=False, save="lm_logits" if self.writes else ""
                )
            )(self.variables, batch)
            logits = outputs.taps["lm_logits"][:, 0] if self.writes else outputs.logits
            found[f"{kind}_logits"] = logits
        return found

    def places(self) -> dict:
        """Of single positions, and of what else the tape hears."""
        expected, depth = self.meta["expected"], self.hyper["nodes"]
        asked: dict[str, list[Site]] = {}
        if "patch_noising_position_0" in expected:
            asked["patch_noising_position_0"] = [
                dataclasses.replace(s, position=0) for s in self.graph.sites
            ]
        blocks = sorted({s.tap.split("/")[0] for s in self.graph.sites})
        heads = range(1 + max(s.head or 0 for s in self.graph.sites))
        for key, entry in expected.items():
            if found := re.fullmatch(r"tl\.head_(\w+)_all_pos", key):
                tap = PATCHED.get(found[1], "attn_probs")
                asked[key] = [Site(f"{b}/{tap}", h) for b in blocks for h in heads]
            if found := re.fullmatch(r"tl\.(\w+)_by_position", key):
                taps = [f"{b}/{found[1]}" for b in blocks]
                if found[1] == "resid_pre":
                    taps = ["embed", *(f"{b}/out" for b in blocks[:-1])]
                places = range(entry["shape"][1])
                asked[key] = [Site(tap, None, place) for tap in taps for place in places]
        found, groups = {}, {}
        for key, sites in asked.items():  # a tap has heads or positions, not both here
            one = key if key.startswith("patch") else "head" if "head" in key else "place"
            groups.setdefault(one, []).append((key, sites))
        for group in groups.values():
            sites = [s for _, some in group for s in some]
            shapes = shapes_of(self.net, self.batch, "|".join({s.tap for s in sites}))
            scores = Exact().scores(self.problem(Nodes(tuple(sites), tuple(shapes.items())))).mean
            for key, some in group:
                found[key], scores = scores[: len(some)], scores[len(some) :]
                found[key] = found[key].reshape(expected[key]["shape"])
        del depth
        return found

    def edges(self) -> dict:
        """Our values by key, of what is asked of edges."""
        if "edge_mask" not in self.meta["expected"]:
            assert bool(self.net.architecture.wiring()) == self.writes
            return {}
        graph = graph_of(self.net, self.batch, "edges")
        problem = self.problem(graph, at_once=32)
        rows, columns = (
            [{str(s): i for i, s in enumerate(own)}[str(f(n))] for n in self.hyper[k]]
            for own, f, k in (
                (graph.sources, site, "edge_sources"),
                (graph.targets, target, "edge_targets"),
            )
        )

        def told(values: np.ndarray) -> np.ndarray:
            matrix = np.zeros(graph.exists.shape, values.dtype)
            matrix[graph.pairs[:, 0], graph.pairs[:, 1]] = values
            return matrix[np.ix_(rows, columns)]

        def ours(matrix: np.ndarray) -> np.ndarray:
            found = np.zeros(graph.exists.shape, matrix.dtype)
            found[np.ix_(rows, columns)] = matrix
            return found[graph.pairs[:, 0], graph.pairs[:, 1]]

        def ig(steps: int) -> np.ndarray:
            every = [k / steps for k in range(steps)]
            parts = [every[i : i + 5] for i in range(0, steps, 5)]
            return np.mean([problem.first_order(part).mean(axis=1) for part in parts], axis=0)

        named = {
            f"{source}->{name}": told_at
            for source, i in zip(self.hyper["edge_sources"], rows)
            for name, j in zip(self.hyper["edge_targets"], columns)
            for told_at in [(i, j)]
        }
        ends = [named[edge] for edge in self.hyper["edge_circuit"]]
        circuit = graph.pruned(np.array([tuple(pair) in ends for pair in graph.pairs.tolist()]))
        induced = graph.among([site(n) for n in self.hyper["circuit"]])
        found = {"edge_mask": told(np.ones(len(graph), bool))}
        assert np.array_equal(graph.exists.sum(), found["edge_mask"].sum())
        eap = Attribution().scores(problem).mean
        found |= {"edge.eap": told(eap), "edge.exact": told(Exact().scores(problem).mean)}
        found |= {f"edge.eap_ig_m{m}": told(ig(m)) for m in (1, 5, 30)}
        found["edge.clean_corrupted"] = told(
            (problem.first_order([0.0]) + problem.first_order([1.0])).mean(axis=1) / 2
        )
        whole, corrupt = problem.ends.mean(axis=1)
        chosen = {"edge_circuit": circuit, "edge_circuit_induced": induced}
        scores = ours(self.arrays["out.edge.eap"])
        for count in (10, 25):
            chosen[f"topn{count}"] = select.top(graph, scores, count)
            chosen[f"greedy{count}"] = select.greedy(graph, scores, count)
        values = problem.values(np.stack([*chosen.values()])).mean(axis=1)
        for (name, kept), value in zip(chosen.items(), values):
            found |= {f"{name}.metric": value, f"{name}.in_graph": told(kept)}
            found[f"{name}.faithfulness"] = (value - corrupt) / (whole - corrupt)
        found["edge_circuit.empty_metric"] = problem.empty.mean()
        found |= {"edge_circuit.clean_metric": whole, "edge_circuit.corrupt_metric": corrupt}
        for key, ablation in (("zero", "zero"), ("mean-positional", "mean_positional")):
            other = self.problem(graph, ablation, at_once=32)
            found[f"edge_circuit_induced.metric_{key}"] = other.values(induced[None]).mean()
        node_scores = Attribution().scores(self.problem(self.graph)).mean
        np.testing.assert_allclose(  # the chain rule along the stream
            [eap[[graph.sources[i] == s for i, _ in graph.pairs]].sum() for s in self.graph.sites],
            node_scores,
            rtol=1e-3,
            atol=2e-5,
        )
        return found


def _key(name: str) -> str:
    return {ours: theirs for theirs, (ours, _) in AXES.items()}[name]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_targets(name, oracles):
    case = Case(name)
    found = case.nodes() | case.places() | case.edges()
    expected = case.meta["expected"]
    missing = {k for k, e in expected.items() if e["role"] == "target"} - found.keys()
    assert not missing
    for key, value in found.items():
        if key not in expected or expected[key]["role"] == "deviant":
            continue
        entry = expected[key]
        want = entry["value"] if "value" in entry else case.arrays[f"out.{key}"]
        tolerance = {"rtol": entry["rtol"], "atol": entry["atol"]}
        np.testing.assert_allclose(value, want, err_msg=f"{name}: {key}", **tolerance)
    print(f"{name}: {len(found.keys() & expected.keys())} compared")
