"""PCM3 (JHang2020/PCM3, ECCV 2024) and PCM3++ ("Self-Supervised Skeleton-Based Action Representation Learning:
A Benchmark and Beyond"): batch 128, SGD 0.02, 451 epochs, x0.1 at 351."""

from flows.config import DataConfig, PretrainConfig


def pcm3pp(data: DataConfig) -> PretrainConfig:
    """PCM3++ at the published size: hidden 1024, queue 16,384, contrast at joint, clip and sequence level, prompts."""
    return PretrainConfig(method="pcm3pp", data=data)


def pcm3(data: DataConfig) -> PretrainConfig:
    """PCM3: PCM3++ without the clip branch."""
    config = pcm3pp(data)
    objective = config.objective.model_copy(update={"pairs": ("base", "masked", "predicted", "mix")})
    return config.model_copy(update={"method": "pcm3", "objective": objective})


def pcm3pp_small(data: DataConfig) -> PretrainConfig:
    """PCM3++ for a thousand short sequences on a CPU, such as NW-UCLA; figures in tests/benchmarks/RESULTS.md.

    Against the published size: hidden 128 and views of 32 frames; a queue of half the data, so that few of its keys are
    of the query's own sequence; temporal crops down to 8 frames (the released floor of 64 leaves sequences of 39 frames
    uncropped); a key encoder that follows ten times faster through 3,300 steps instead of 132,594. Where the prediction
    term climbs instead of falling (it does on synthetic archives), the rate of 0.1 is too high: try 0.01.
    """
    config = pcm3pp(data)
    objective = config.objective
    small = objective.model_copy(
        update={
            "encoder": objective.encoder.model_copy(update={"hidden": 128}),
            "queue_size": 512,
            "momentum": 0.99,
        }
    )
    views = {"frames": 32, "clip_frames": 8, "min_frames": 8, "min_ratio": 0.3}
    train = {"batch_size": 64, "lr": 0.1, "epochs": 220, "milestones": (180,), "precision": "bfloat16"}
    return config.model_copy(
        update={
            "method": "pcm3pp-small",
            "objective": small,
            "views": config.views.model_copy(update=views),
            "train": config.train.model_copy(update=train),
        }
    )
