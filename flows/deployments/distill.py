"""Post-distillation as a flow run."""

from flows.distill import distill
from flows.options import DistillOptions
from flows.pretrain import summary
from flows.service.tracking import attempt, link, name_run, tell, tracked_flow


@tracked_flow("distill")
def distill_flow(options: DistillOptions, progress: bool = True) -> str:
    """Add post-distillation to a finished run; returns the checkpoint's path.

    Args:
        options: which run, and for how long.
        progress: show a bar in the terminal.
    """
    name_run(f"distill {options.run.name}", run=options.run.name)
    result = attempt(f"distill-{options.run.name}", distill)(options, progress=progress)
    link(f"distilled-{options.run.name}", options.run, "The run's folder")
    tell(summary(result))
    return str(result.checkpoint)
