"""Untrimmed videos as temporal action detection sees them: labels of frames, windows on them, and whole videos."""
