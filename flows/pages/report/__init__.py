"""The report: one self-contained page about one run or many."""

from flows.pages.report.page import write_report

__all__ = ["write_report"]
