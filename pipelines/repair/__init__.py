"""Finished stores against their raw input: parsed again, compared, repaired."""
