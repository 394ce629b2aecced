"""Names of the methods and of their variants, with a line about each. Imports nothing, so that --help stays instant."""

METHODS = {
    "pcm3pp": "PCM3++ as published: hidden 1024, queue 16,384, 451 epochs, then 151 of post-distillation",
    "pcm3pp-small": "PCM3++ for a thousand short sequences on a CPU, such as NW-UCLA",
    "pcm3": "the predecessor: without the clip pair and post-distillation",
}

VARIANTS = {
    "no-novel-positives": "neither the masked nor the predicted view is drawn to the key",
    "no-predicted": "the masked view is drawn to the key, the predicted one is not",
    "no-guidance": "the predicted view is a constant: its pair teaches the encoder, not the decoder",
    "no-clip": "no clip of the key view is drawn to the key",
    "no-post": "no post-distillation",
    "no-prompts": "no prompts at all",
    "prompts-before-norm": "input prompts before the input norm, which cancels them: the released place",
    "base-statistics": "the input norm keeps the statistics of clean views alone for evaluation",
    "bidirectional": "the second half of each GRU layer runs backward in time",
    "released-streams": "as released for bone and motion: no prompts, guidance, distillation or post-distillation",
    "clip-queue": "the clip has a projector and a queue of its own",
    "top-k": "distillation over the half of the queue nearest to each key, as in CMD",
    "mix-per-sample": "each sample draws how it is mixed, instead of one way for the batch",
    "mask-per-sample": "each sample draws what is hidden, instead of the same for the batch",
    "mask-joints": "single joints are hidden instead of body parts",
}

PAPER_ROWS = (
    ("without novel positives", "pcm3+no-novel-positives", "NTU 60 xview 88.2"),
    ("with the masked view", "pcm3+no-predicted", "NTU 60 xview 89.3"),
    ("with the masked and the predicted view", "pcm3+no-guidance", "NTU 60 xview 90.0"),
    ("and semantic guidance", "pcm3", "NTU 60 xview 90.5"),
    ("without clip", "pcm3", "NTU 60 xsub 83.9, xview 90.4, detection 73.3"),
    ("with clip", "pcm3pp+no-post", "NTU 60 xsub 84.1, xview 90.8, detection 75.5"),
    ("and post-distillation", "pcm3pp", "NTU 60 xsub 84.8, xview 91.0, detection 75.5"),
)
"""Rows of the paper's ablations (Tables 3 and 4): what it says, the method that is it, its figures in % (recognition by
linear evaluation; detection as mAP)."""


def listing() -> str:
    """All names with their lines, for the end of a help text."""
    rows = [f"  {method:<26}{row}: {figures}" for row, method, figures in PAPER_ROWS]
    parts = {
        "methods": _lines(METHODS),
        "variants of a method, joined by '+' as in pcm3pp-small+no-clip+no-post": _lines(VARIANTS),
        "rows of the paper's ablations (Tables 3 and 4)": rows,
    }
    return "\n\n".join("\n".join((f"{title}:", *lines)) for title, lines in parts.items())


def _lines(names: dict[str, str]) -> list[str]:
    return [f"  {name:<26}{line}" for name, line in names.items()]
