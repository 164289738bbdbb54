"""The nets that are taught, one by another: from the teachers down the rungs to the student.

Born-again generations (arXiv 1805.04770) are a rung of the student's model with some `rounds`,
teacher assistants (arXiv 1902.03393) rungs of sizes in between. The first net is taught by the
teachers, each later one by that before it alone.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

from fairkd_jax import registry
from fairkd_jax.config import Experiment, Rung
from fairkd_jax.registry import UnknownName

APART = 100_000  # the rung in place k = 1, 2, ... has the seed of its experiment plus k APART


def taught(experiment: Experiment) -> list[Rung]:
    """All nets that are taught, in order, with all said and each round by itself; last the student.

    Raises ValueError for what a rung, or the student, cannot be.
    """
    given = experiment.mix.teachers
    student = Rung(
        **vars(experiment.student),
        debias=experiment.distilled_debias or experiment.debias,
        distill=experiment.distill,
        mix=experiment.mix,
        transfer=experiment.transfer,
    )
    _check_start(student, "the student", "student")
    usual, found = dataclasses.replace(student, transfer=None), []
    for i, rung in enumerate(experiment.rungs):
        place, said = f"rungs.{i}", {k: v for k, v in vars(rung).items() if v}
        if rung.rounds < 1:
            raise ValueError(f"{place}.rounds = {rung.rounds}: how many nets, so 1 or more")
        if i and rung.mix and rung.mix.teachers:
            raise ValueError(
                f"{place}.mix.teachers = {rung.mix.teachers}: the rung before is its only teacher. "
                "Named ones teach the first rung: weigh them there"
            )
        whole = dataclasses.replace(usual, **said)
        _check_start(whole, place, place if rung.model else "student")
        found += [whole] * rung.rounds
    first, *later = [*found, student]
    if given not in ({}, first.mix.teachers):
        raise ValueError(
            f"mix.teachers = {given} has no effect, since rungs.0.mix says how the first rung is "
            "taught: weigh the teachers there"
        )
    mixes = [dataclasses.replace(net.mix, teachers={}) for net in later]
    return [first, *(dataclasses.replace(net, mix=mix) for net, mix in zip(later, mixes))]


def _check_start(net: Rung, who: str, place: str) -> None:
    """Raises ValueError for a net that is to start from two others."""
    if net.transfer and net.model.get("pretrained"):
        raise ValueError(
            f"{who} starts from {net.model['pretrained']} and, by transfer, from its teacher: "
            f"leave out {place}.model.pretrained, or say transfer = None"
        )


def weights(given: Mapping[str, object], teachers: Iterable[str]) -> dict[str, float]:
    """The weight of each named teacher. Raises UnknownName and ValueError for what can be none."""
    names = sorted(filter(None, teachers))
    for name, weight in given.items():
        if name not in names:
            raise UnknownName(name, "teacher in mix.teachers:", names)
        registry.check_type(weight, 1.0, f"mix.teachers.{name}")
    found = {name: float(given.get(name, 1.0)) for name in names}
    if found and not (min(found.values()) >= 0 and 0 < sum(found.values()) < math.inf):
        raise ValueError(f"mix.teachers = {found}: weights are numbers from 0 up, not all 0")
    return found
