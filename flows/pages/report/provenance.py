"""Where the figures of a report come from: what the runs have in common, in what they differ, and all of each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.pages.report.runs import Run
from shards.trees import flatten


@dataclass(frozen=True)
class Origin:
    """Where a run comes from, foldable."""

    name: str
    facts: dict[str, str]
    config: str
    record: str


@dataclass(frozen=True)
class Provenance:
    """Of all runs.

    Attributes:
        differing: keys of configuration and record in which the runs differ.
        values: of each run, for each of these keys.
        origins: a run each.
    """

    differing: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    origins: tuple[Origin, ...]


def provenance(runs: Sequence[Run]) -> Provenance:
    """Of runs, in their order."""
    told = [_list_facts(run) for run in runs]
    keys = list(dict.fromkeys(key for own in told for key in own))
    differing = tuple(key for key in keys if len({own.get(key, "") for own in told}) > 1)
    values = tuple(tuple(own.get(key, "") for key in differing) for own in told)
    return Provenance(differing, values, tuple(_origin(run) for run in runs))


def _list_facts(run: Run) -> dict[str, str]:
    tree: dict[str, Any] = run.config.model_dump(mode="json")
    record = run.record.model_dump(mode="json", exclude={"store"})
    return {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in flatten(tree | record).items()
    }


def _origin(run: Run) -> Origin:
    config, record = run.config, run.record
    scored = sorted({f"{row.checkpoint or 'no checkpoint'}" for row in run.results if row.subject == "trained"})
    facts = {
        "folder": run.path.name,
        "store": f"{config.data.dataset}, recipe {record.recipe}, fingerprint {record.fingerprint}",
        "revision": record.revision,
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "scored": ", ".join(scored) or "not yet",
        "scored on": ", ".join(sorted({row.hardware for row in run.results})) or "not yet",
    }
    if record.also:
        facts["mixed with"] = ", ".join(record.also)
    return Origin(run.name, facts, config.model_dump_json(indent=2), record.model_dump_json(indent=2))
