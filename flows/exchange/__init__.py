"""Encoders out to other programs, and released weights in."""
