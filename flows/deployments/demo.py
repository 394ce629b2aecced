"""The demo as a flow run, whose steps are flow runs and tasks."""

from pathlib import Path

from flows.demo import Steps, demo
from flows.deployments.evaluate import evaluate_flow
from flows.deployments.preprocess import preprocess_flow
from flows.deployments.pretrain import pretrain_flow
from flows.options import EvaluateOptions, PreprocessOptions, PretrainOptions
from flows.service.tracking import attempt, link, name_run, tracked_flow
from shards.paths import expand_home


class _FlowSteps(Steps):
    """Each step as a flow run of its own, or as a task."""

    def archives(self, raw: Path) -> Path:
        return attempt("archives", super().archives)(raw)

    def preprocess(self, options: PreprocessOptions) -> str:
        return preprocess_flow(options)

    def pretrain(self, options: PretrainOptions) -> None:
        pretrain_flow(options)

    def evaluate(self, options: EvaluateOptions) -> None:
        evaluate_flow(options)

    def report(self, run: Path, page: Path, title: str) -> Path:
        return attempt("report", super().report)(run, page, title)


@tracked_flow("demo")
def demo_flow(out: str = "demo") -> str:
    """Synthetic archives -> shards -> PCM3++ -> scores -> report; each reuses what is there.

    Args:
        out: folder for everything the demo makes.
    """
    folder = expand_home(out)
    name_run(f"demo in {folder.name}", run=folder.name)
    page = demo(folder, _FlowSteps())
    link("demo-report", page, "the report")
    return str(page)
