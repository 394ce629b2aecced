"""How long tests wait."""

PATIENCE = 240.0
"""Seconds for what takes a moment when nothing else runs on the machine; only a fault is waited for so long."""
