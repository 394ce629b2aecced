"""Amounts as people read them."""


def describe_bytes(count: float) -> str:
    """Bytes by powers of 1000, in three digits: "12.3 MB"."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            value = count / scale
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
    return f"{count:.0f} bytes"


def describe_duration(seconds: float) -> str:
    """A time: "3.5 s", "35 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
