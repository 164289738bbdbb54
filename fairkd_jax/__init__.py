"""Is a debiased teacher's robustness still there in the student distilled from it?

    import fairkd_jax as fk

    study = fk.Study(name="mine", experiment=fk.Experiment(...), axes={...}, seeds=3)
    folder = fk.run(study, "runs/mine")
    print(fk.write_report(folder))

Importing it starts no JAX: what needs JAX is imported when it is first used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_LATER = {  # name -> where it is: module:name there, or a module
    "Attention": "config:Attention",
    "Circuit": "config:Circuit",
    "Compare": "config:Compare",
    "Data": "config:Data",
    "Evaluation": "config:Evaluation",
    "Experiment": "config:Experiment",
    "Mix": "config:Mix",
    "Optim": "config:Optim",
    "Probe": "config:Probe",
    "Role": "config:Role",
    "Rung": "config:Rung",
    "Stitch": "config:Stitch",
    "Study": "config:Study",
    "Teacher": "config:Teacher",
    "Train": "config:Train",
    "Transfer": "config:Transfer",
    "as_config_dict": "config:as_config_dict",
    "check": "study.check:check",
    "circuit_pictures": "report.circuits:pictures",
    "circuit_tables": "report.circuits:tables",
    "defaults": "registry:defaults",
    "explain": "report.explain",
    "figures": "report.figures",
    "make_mesh": "sharding:make_mesh",
    "make_net": "models.net:make_net",
    "records": "report.records",
    "run": "study.execute:run",
    "stitched": "report.stitched",
    "table_of_stages": "study.execute:table_of_stages",
    "why": "report.why",
    "write_report": "report.html:write",
}

__all__ = ["__version__", *_LATER]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"fairkd_jax has no {name!r}; there are {', '.join(__all__)}")
    place, _, inside = _LATER[name].partition(":")
    module = importlib.import_module(f"fairkd_jax.{place}")
    return getattr(module, inside) if inside else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
