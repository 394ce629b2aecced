"""The plan of a benchmark as text."""

from flows.benchmark.plan import Plan, PlannedCell
from flows.scores.summary import align_columns
from flows.storage.identity import training_seconds
from shards.amounts import describe_duration


def plan_text(plan: Plan) -> str:
    """What is done, what goes on, what is missing, and what it costs, as far as other cells tell."""
    total = len(plan.cells) + len(plan.waiting)
    lines = [f"{plan.config.name}, round {plan.round}: {total} cells", *_stores(plan)]
    lines += align_columns([("cell", "training", "tasks", "estimate"), *map(_row, plan.cells)]) if plan.cells else []
    lines += [f"{cell.label}: waits for its store" for cell in plan.waiting]
    lines += [f"{p.cell.label}: reuses {p.run}" for p in plan.cells if p.reused and p.trained]
    left_out = {
        f"left out of {p.cell.dataset}/{p.cell.protocol} {p.cell.stream}: {name}: {reason}": None
        for p in plan.cells
        for name, reason in p.left_out.items()
    }
    return "\n".join([*lines, *left_out, *_sums(plan)])


def _stores(plan: Plan) -> list[str]:
    return [
        f"store of {source}: " + ("is made first" if found is None else f"reuses {found.folder}")
        for source, found in plan.stores.items()
    ]


def _row(planned: PlannedCell) -> tuple[str, str, str, str]:
    total = planned.config.train.total_epochs
    if planned.trained:
        training = "done"
    else:
        training = f"goes on at epoch {planned.epochs} of {total}" if planned.epochs else f"missing, {total} epochs"
    done = [name for name in planned.tasks if name not in planned.missing]
    tasks = [f"{' '.join(names)} {word}" for names, word in ((done, "done"), (planned.missing, "missing")) if names]
    nothing_left = planned.trained and not planned.missing
    estimate = "not known" if planned.seconds is None else describe_duration(planned.seconds)
    return planned.cell.label, training, "; ".join(tasks), "" if nothing_left else estimate


def _sums(plan: Plan) -> list[str]:
    left = [planned for planned in plan.cells if not planned.trained or planned.missing]
    there = sum(training_seconds(planned.run) for planned in plan.cells)
    scored = sum(row.seconds for planned in plan.cells for row in planned.results)
    lines = [f"there already: {describe_duration(there)} of training, {describe_duration(scored)} of scoring"]
    if plan.complete:
        return [*lines, "nothing is missing"]
    known = sum(planned.seconds for planned in left if planned.seconds is not None)
    unknown = sum(planned.seconds is None for planned in left) + len(plan.waiting)
    about = [f"{describe_duration(known)} at the speed of other seeds"] if known else []
    about += [f"{unknown} cells without an estimate"] if unknown else []
    return [*lines, f"missing: {', '.join(about)}"]
