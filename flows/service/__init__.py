"""Prefect: the server that records flow runs, and commands that do their work whether or not one answers."""
