"""Composition and schedule: configuration, Prefect flows, command line, report."""
