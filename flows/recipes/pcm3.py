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
