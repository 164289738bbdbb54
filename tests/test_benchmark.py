"""The benchmark: steps with one mathematics, reports, the protocol; and the pod launcher."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT

from fairkd_jax import sharding
from fairkd_jax.benchmark import data, measure, similarity, table
from fairkd_jax.benchmark.steps import library_step, plain_step, pmap_step
from fairkd_jax.benchmark.workload import setup, workload
from fairkd_jax.registry import UnknownName

IMAGES = {"student": "tiny", "teacher": "tiny", "batch": 16, "image": 8}
TEXT = {"student": "tiny", "teacher": "tiny", "batch": 8, "seq": 8}


@pytest.fixture(scope="module")
def mesh():
    """One device: the seven others would be compiled for and prove nothing here."""
    return sharding.make_mesh(devices=jax.devices()[:1])


def losses(runner, steps=3):
    return [runner() for _ in range(steps)]


@pytest.mark.parametrize(
    ("family", "mode"), [("bert", "kd_live"), ("resnet", "kd_table"), ("resnet", "erm")]
)
def test_the_plain_step_is_the_library_s(family, mode, mesh):
    """Dropout on, from equal keys. 1e-5: sums of float32 in another order, AdamW amplifies them."""
    sizes = {"bert": TEXT, "resnet": IMAGES}[family]
    case = setup(workload(family, mode=mode, **sizes))
    ours, plain = losses(library_step(case, mesh)), losses(plain_step(case, mesh))
    assert len(set(ours)) == 3
    np.testing.assert_allclose(ours, plain, rtol=1e-5)


def test_the_step_under_pmap_is_the_plain_one_where_nothing_is_random(mesh):
    case = setup(workload("bert", mode="erm", dropout=0.0, **TEXT))
    np.testing.assert_allclose(
        losses(pmap_step(case, mesh)), losses(plain_step(case, mesh)), rtol=1e-5
    )


def test_a_report_says_what_was_timed_and_adds_up(mesh, capsys):
    case = setup(workload("resnet", mode="kd_live", **IMAGES | {"teacher": "mini"}))
    watch = measure.Stopwatch(case, mesh, None, "pjit", warmup=1)
    report = measure.serve(watch, ["2\n", "3\n", "end\n", "never read\n"])
    ready, *blocks = map(json.loads, capsys.readouterr().out.splitlines())
    assert ready == {"ready": True}
    assert [len(block["ms"]) for block in blocks] == [2, 3]
    assert all(block["cpu_ms"] > 0 for block in blocks)
    times = [ms for block in blocks for ms in block["ms"]]
    assert min(times) > 0

    assert json.loads(json.dumps(report)) == report
    assert (report["steps"], report["batch"], report["size"]) == (5, 16, 8)
    assert (report["step"], report["num_devices"]) == ("library", jax.device_count())
    assert report["median_ms"] == pytest.approx(np.median(times), rel=1e-2)
    assert report["p10_ms"] <= report["median_ms"] <= report["p90_ms"]
    seconds = report["median_ms"] / 1e3
    assert report["examples_per_s"] == pytest.approx(16 / seconds, rel=1e-2)
    peak = 1e9 * report["matmul_peak_gflops_per_s"]
    assert report["share_of_peak"] == pytest.approx(
        report["model_flops"] / seconds / peak, rel=1e-2, abs=1e-4
    )
    assert 0 < report["compile_s"] <= report["first_step_s"]
    assert report["student_parameters"] < report["teacher_parameters"]


def test_model_flops_are_those_counted_by_hand():
    """Matrix products of the encoder; XLA counts in addition what is done element by element."""
    batch, seq, width, depth = 8, 32, 128, 2
    case = setup(workload("bert", mode="erm", **TEXT | {"batch": batch, "seq": seq}))
    products = depth * (12 * width**2 + 2 * seq * width) * batch * seq + batch * width**2
    flops = case.model_flops()
    assert 3 * 2 * products < flops < 1.1 * 3 * 2 * products
    live = setup(workload("bert", mode="kd_live", **TEXT | {"batch": batch, "seq": seq}))
    assert live.model_flops() == pytest.approx(flops * 4 / 3)  # a teacher of the same size


def test_compiling_alone_makes_no_array(mesh):
    case = setup(workload("resnet", mode="kd_live", **IMAGES))
    before = len(jax.live_arrays())
    report = measure.compile_only(case, mesh, "plain", "pjit")
    assert len(jax.live_arrays()) <= before + 1  # the key
    state = 3 * 4 * report["student_parameters"]  # parameters and AdamW's two moments, float32
    assert report["aliased_bytes_per_device"] >= state  # donated
    assert report["argument_bytes_per_device"] > state
    assert report["temporary_bytes_per_device"] > 0 and report["xla_flops_per_device"] > 0
    parts = [report[f"{k}_bytes_per_device"] for k in ("argument", "output", "temporary")]
    peak = sum(parts) - report["aliased_bytes_per_device"]
    assert report["peak_gib_per_device"] == pytest.approx(peak / 2**30, abs=1e-3)


def test_a_batch_too_large_for_this_machine_is_set_up_and_compiled():
    """Images of 24 GiB, and as many for each of the batches that take turns; shapes suffice."""
    sizes = IMAGES | {"batch": 2**13, "image": 512}
    report = measure.compile_only(
        setup(workload("resnet", **sizes)), sharding.make_mesh(), None, "pjit"
    )
    assert report["peak_gib_per_device"] > 24 / 8


@pytest.mark.slow
def test_a_step_from_bert_large_on_256_devices_takes_less_than_16_gib_each():
    """A device's share of 2048 x 128 tokens, and a pair of nets of 335 M parameters."""
    flags = ["--student=large", "--teacher=large", "--batch=2048", "--fake_devices=256", "--fsdp=8"]
    done = launch("--compile_only", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["num_devices"] == 256 and report["fsdp"] == 8
    assert report["student_parameters"] == report["teacher_parameters"] > 335e6
    assert 1 < report["peak_gib_per_device"] < 16
    assert report["peak_rss_mib"] < 4096  # nothing of that size was made here
    assert "full rematerialization" not in done.stderr


def test_a_table_has_a_row_for_each_preset(mesh):
    names = table.presets()
    assert {("bert", "tiny"), ("resnet", "18")} <= {*names}
    assert table.presets("resnet") == [name for name in names if name[0] == "resnet"]
    with pytest.raises(UnknownName, match=r"'resnett'.*'resnet'"):
        table.presets("resnett")
    assert table.presets(preset="cifar20") == [("resnet", "cifar20")]
    with pytest.raises(UnknownName, match=r"preset of bert: 'tini'.*'tiny'"):
        table.presets("bert", "tini")

    case = setup(workload("resnet", mode="kd_live", **IMAGES))
    row = table.measure_row(workload("resnet", **IMAGES), mesh, steps=1, warmup=0)
    assert json.loads(json.dumps(row)) == row and "note" not in row
    assert row["erm_examples_per_s"] > 0 and row["kd_live_examples_per_s"] > 0
    passes = 3 + 1  # student with its gradient, teacher
    assert passes * 16 * row["forward_flops"] == pytest.approx(case.model_flops())
    assert 0 < row["step_mib"] < row["peak_rss_mib"]


def test_what_does_not_fit_is_said_and_not_run(mesh, monkeypatch):
    monkeypatch.setattr(table, "available_bytes", lambda: 0)
    monkeypatch.setattr(table, "Stopwatch", lambda *_: pytest.fail("was run"))
    row = table.measure_row(workload("resnet", **IMAGES), mesh, steps=1, warmup=0)
    assert row["step_mib"] > 0 and "erm_examples_per_s" not in row
    assert re.fullmatch(r"does not fit: .* needs 0\.\d GiB .*, 0\.0 are free", row["note"])


@pytest.mark.quick
def test_a_process_that_fails_costs_its_row_alone():
    script = """if True:
        import os, sys
        if "--student=tiny" in sys.argv:
            os.kill(os.getpid(), 9)
        if "--student=small" in sys.argv:
            sys.exit("broken")
        print('{"student_parameters": 12345678, "step_mib": 150, "device": "abacus"}')
    """
    names = [("bert", preset) for preset in ("tiny", "small", "mini")]
    killed, broken, good = rows = [*table.collect([sys.executable, "-c", script], names)]
    assert killed["note"] == "killed by signal 9 (no memory?)"
    assert broken["note"] == "failed: broken"
    assert "note" not in good and good["student"] == "mini"
    head, *lines = table.render(rows).splitlines()
    assert [line.split()[:2] for line in lines] == [[*name] for name in names]
    ends = [head.index(title) + len(title) for title in ("parameters", "KD step MiB")]
    assert [lines[2][:end].split()[-1] for end in ends] == ["M", "150"]
    assert [lines[0][:end].split()[-1] for end in ends] == ["-", "-"]
    assert lines[0].endswith("killed by signal 9 (no memory?)")


@pytest.mark.slow
def test_the_launcher_prints_a_table():
    flags = ["--family=resnet", "--student=tiny", "--batch=2", "--image=8", "--steps=2"]
    done = launch("--table", "--json", "--warmup=0", "--option=remat=True", *flags)
    assert done.returncode == 0, done.stderr
    row, heading, titles, line = done.stdout.splitlines()
    assert json.loads(row)["options"] == ["remat=True"]
    assert heading.startswith("batch 2,") and "medians of 2 steps" in heading
    assert titles.split()[:3] == ["family", "preset", "parameters"]
    assert line.split()[:2] == ["resnet", "tiny"] and "-" not in line
    assert done.stderr.startswith("[1/1] resnet tiny: ")


def test_compare_alternates_and_gives_a_ratio(mesh):
    case = setup(workload("resnet", mode="erm", **IMAGES))
    report = measure.compare(case, mesh, "pjit", steps=5, warmup=1, block=2)
    assert (report["rounds"], report["block"]) == (3, 2)
    low, high = report["ratio_quartiles"]
    assert 0 < low <= report["ratio"] <= high


@pytest.mark.quick
def test_defaults_come_from_the_family_and_flags_replace_them():
    assert workload("bert", batch=None).student == "mini"
    assert workload("resnet", teacher="34").teacher == "34"
    options = {"dropout": 0.3, "remat": True, "options": ("positions=64", "dtype=bfloat16")}
    program = setup(workload("bert", **options, **TEXT)).program
    for net in (program.student, dict(program.teachers)["teacher"]):
        arch = net.architecture
        assert (arch.dropout, arch.remat, arch.positions, arch.dtype) == (0.3, True, 64, "bfloat16")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("family", "given", "error", "message"),
    [
        ("brt", {}, UnknownName, "'bert'"),
        ("bert", {"mode": "kd"}, UnknownName, "'kd'.*kd_live"),
        ("bert", {"pad": "all"}, UnknownName, "'all'.*half"),
        ("bert", {"student": "mimi"}, UnknownName, "'mini'"),
        ("bert", {"batch": 12}, ValueError, "batch = 12 .* 8 devices"),
        ("bert", {"debias": "group_drw"}, UnknownName, "'group_dro'"),
        ("bert", {"distill": "rdk"}, UnknownName, "'rkd'"),
        ("bert", {"distill": "rkd", "mode": "erm"}, ValueError, "needs pairs and a teacher"),
        ("resnet", {"debias": "read", **IMAGES}, ValueError, "of a BERT, T5 or ViT"),
        ("resnet", {"dropout": 0.1}, ValueError, "dropout = 0.1: resnet has none"),
        ("resnet", {"options": ("norn='group'",)}, UnknownName, "'norn'.*'norm'"),
        ("resnet", {"options": ("remat=1",)}, ValueError, "remat = 1: expected a bool"),
        ("resnet", {"options": ("remat",)}, ValueError, "'remat': expected name=value"),
    ],
)
def test_wrong_input_is_named(family, given, error, message):
    with pytest.raises(error, match=message):
        setup(workload(family, **given))


@pytest.mark.quick
def test_a_step_that_is_not_there_is_named(mesh):
    with pytest.raises(UnknownName, match=r"under pmap: 'library'.*plain"):
        measure.choose("library", "pmap")
    with pytest.raises(UnknownName, match=r"'pmap'.*pjit"):
        measure.choose(None, "pmapp")
    case = setup(workload("resnet", debias="group_dro", **IMAGES))
    with pytest.raises(ValueError, match=r"'group_dro', .*: by hand there is only erm"):
        plain_step(case, mesh, abstract=True)


def launch(*flags, text=""):
    """launch/benchmark.py, `text` on its standard input."""
    return subprocess.run(
        [sys.executable, "launch/benchmark.py", *flags],
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_the_launcher_answers_a_driver():
    flags = ["--family=resnet", "--student=tiny", "--mode=erm", "--batch=4", "--image=8"]
    done = launch("--serve", "--warmup=0", "--fake_devices=2", *flags, text="1\nend\n")
    assert done.returncode == 0, done.stderr
    ready, block, report = map(json.loads, done.stdout.splitlines())
    assert ready["ready"] and len(block["ms"]) == 1
    assert report["num_devices"] == 2 and report["steps"] == 1


# The pod launcher, against a gcloud that writes down its arguments and plays two hosts.

GCLOUD = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$CALLS"
printf '\\1' >> "$CALLS"
status=0
for host in 0 1; do
  cd "$HOSTS/$host"
  if [[ $4 == scp ]]; then cp "$5" "${6#slice:}"; fi
  if [[ $4 == ssh ]]; then bash -c "${8#--command=}" || status=$?; fi
done
exit $status
"""


@pytest.fixture
def pod(tmp_path):
    """Calls launch/tpu_pod.sh: (finished process, arguments of each call of gcloud)."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    for host in "01":
        (tmp_path / "hosts" / host / "fairkd_jax").mkdir(parents=True)
    for name, text in {"gcloud": GCLOUD, "hostname": "#!/bin/sh\nbasename ${PWD%/*}\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def call(*arguments):
        calls.write_text("")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | {"PATH": path, "CALLS": str(calls), "HOSTS": str(tmp_path / "hosts")}
        script = [str(ROOT / "launch" / "tpu_pod.sh"), *arguments]
        done = subprocess.run(["bash", *script], capture_output=True, text=True, env=env)
        return done, [c.split("\0")[:-1] for c in calls.read_text().split("\1")[:-1]]

    call.hosts = tmp_path / "hosts"
    return call


PLACE = ("--name=slice", "--zone=zone-b")


@pytest.mark.quick
def test_a_pod_command_starts_on_all_hosts_each_line_with_its_host(pod):
    done, [call] = pod(*PLACE, "--", "echo one; echo two >&2")
    assert done.returncode == 0, done.stderr
    assert call[:5] == ["compute", "tpus", "tpu-vm", "ssh", "slice"]
    assert call[5:7] == ["--zone=zone-b", "--worker=all"]
    assert done.stdout.splitlines() == ["[0] one", "[0] two", "[1] one", "[1] two"]


@pytest.mark.quick
@pytest.mark.parametrize("command", ["false", "cd nowhere", "exit 3", "[ $(hostname) = 0 ]"])
def test_a_pod_command_fails_if_it_fails_on_any_host(pod, command):
    done, _ = pod(*PLACE, "--", command)
    assert done.returncode != 0


@pytest.mark.quick
def test_a_dry_run_prints_commands_and_starts_none(pod):
    done, calls = pod(*PLACE, "--project=p", "--dry_run", "--", "python3", "launch/train.py")
    assert done.returncode == 0 and not calls
    assert "gcloud compute tpus tpu-vm ssh slice --zone=zone-b --worker=all" in done.stdout
    assert "--project=p" in done.stdout and "launch/train.py" in done.stdout
    assert "scp" not in done.stdout


@pytest.mark.quick
def test_the_checkout_is_copied_only_when_asked(pod):
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git checkout: what would be copied is what git tracks")
    done, [copy, unpack, _] = pod(*PLACE, "--sync", "--", "cat launch/tpu_pod.sh | head -1")
    assert done.returncode == 0, done.stderr
    assert copy[:4] == ["compute", "tpus", "tpu-vm", "scp"] and "--worker=all" in copy
    assert "tar" in unpack[-1]
    assert done.stdout.splitlines() == ["[0] #!/usr/bin/env bash", "[1] #!/usr/bin/env bash"]
    assert not (pod.hosts / "0" / "fairkd_jax" / ".git").exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--name=SLICE is missing"),
        (("--name=slice", "--", "true"), "--zone=ZONE is missing"),
        (PLACE, "the command is missing"),
        ((*PLACE, "--zome=z", "--", "true"), "unknown argument '--zome=z'"),
    ],
)
def test_a_pod_without_what_it_needs_shows_its_usage(pod, arguments, message):
    done, calls = pod(*arguments)
    assert done.returncode == 2 and not calls
    assert message in done.stderr and "launch/tpu_pod.sh --name=SLICE" in done.stderr


def test_a_set_is_read_first_and_again_and_paddings_take_turns(mesh, tmp_path):
    found = data.images(rows=200, size=8)
    assert found["prepare_s"] > 0 and found["second_rows_per_s"] > 0
    found = data.pairs(rows=1000, length=16)
    assert found["rows"] == 1000 and found["second_rows_per_s"] > 0
    assert 0 < found["second_peak_rss_mib"] < 2048
    data.write_pairs(tmp_path / "pairs.tsv", 400)
    found = data.paddings(mesh, tmp_path / "pairs.tsv", length=24, batch_size=8, rounds=1)
    assert found["fixed"]["shapes"] == [24] and found["fixed"]["ratio"] == 1
    assert max(found["bucket"]["shapes"]) <= 24 and found["rows"] == 400
    with pytest.raises(UnknownName, match=r"no.tsv.*pairs.tsv"):
        data.paddings(mesh, tmp_path / "no.tsv", 24, 8, 1)


def test_one_pass_and_pair_by_pair_find_the_same(mesh):
    nets = {"depth": 2, "width": 8, "heads": 2}, {"depth": 1, "width": 16, "heads": 2}
    found = similarity.cost(mesh, "both", examples=24, length=8, batch=16, rounds=1, nets=nets)
    assert found["layers"] == [3, 2] and found["furthest"] < 1e-3
    assert {*found["ratio"]} == {"s", "cpu_s", "nets_s", "peak_mib"}
    assert found["pass"]["s"] > 0 and found["pairs"]["s"] > 0
