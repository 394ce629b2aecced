"""Temporal action detection: from scores of frames to actions in videos, and the two published evaluators."""
