"""An export as a flow run."""

from flows.exchange.export import export
from flows.options import ExportOptions
from flows.service.tracking import attempt, link, name_run, tracked_flow


@tracked_flow("export")
def export_flow(options: ExportOptions) -> str:
    """Write a run's encoder as safetensors and ONNX, with a model card; returns the folder.

    Args:
        options: which run, which checkpoint, and where to.
    """
    out = options.out or options.run / "export"
    name_run(f"export {options.run.name}", run=options.run.name)
    attempt(f"export-{options.run.name}", export)(options.run, options.checkpoint, out, options.stream)
    link(f"export-{options.run.name}", out, "The exported encoder")
    return str(out)
