"""The options of every command and flow, each written once: arguments, help, reference and Prefect's forms are made
from these models. They import pydantic and `shards` alone, so that the command line starts at once.
"""

from flows.options.data import (
    DiffOptions,
    PlanOptions,
    PreprocessOptions,
    RepairOptions,
    StatsOptions,
    SynthOptions,
    VerifyOptions,
    ViewOptions,
)
from flows.options.exchange import ExportOptions, ImportOptions
from flows.options.fields import (
    LoaderKind,
    LoaderOptions,
    LocalPath,
    PlaceText,
    RecordOptions,
    SourceSamples,
    SourceWeight,
)
from flows.options.scores import CompareOptions, EvaluateOptions, ReportOptions
from flows.options.service import CompletionOptions, ServeOptions
from flows.options.storage import ListOptions, PruneOptions
from flows.options.training import (
    AlsoOptions,
    BenchmarkOptions,
    DemoOptions,
    DistillOptions,
    MethodsOptions,
    PlannedOptions,
    PretrainOptions,
)

__all__ = [
    "AlsoOptions",
    "BenchmarkOptions",
    "CompareOptions",
    "CompletionOptions",
    "DemoOptions",
    "DiffOptions",
    "DistillOptions",
    "EvaluateOptions",
    "ExportOptions",
    "ImportOptions",
    "ListOptions",
    "LoaderKind",
    "LoaderOptions",
    "LocalPath",
    "MethodsOptions",
    "PlaceText",
    "PlanOptions",
    "PlannedOptions",
    "PreprocessOptions",
    "PretrainOptions",
    "PruneOptions",
    "RecordOptions",
    "RepairOptions",
    "ReportOptions",
    "ServeOptions",
    "SourceSamples",
    "SourceWeight",
    "StatsOptions",
    "SynthOptions",
    "VerifyOptions",
    "ViewOptions",
]
