"""Composition and schedule: configuration, Prefect flows, command line, report.

Every process of skelstream imports it first. So it settles what cannot be settled later: which folders the names of our
packages mean, and how the threads of OpenMP behave.
"""

from flows.machine.packages import prefer_own_packages

prefer_own_packages()

from flows.machine.threads import set_thread_defaults  # noqa: E402 - it imports shards, which has to be ours

set_thread_defaults()
