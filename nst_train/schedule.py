"""What changes from step to step, as functions of the step alone, so that interruptions leave no trace."""

from nst_train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of the step that follows ``step`` finished ones.

    It grows linearly over ``warmup`` steps to ``lr``, then falls linearly to ``final_lr`` at the last step.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    last = config.steps - 1
    progress = (step - config.warmup) / max(last - config.warmup, 1)
    return config.lr + (config.final_lr - config.lr) * min(progress, 1.0)


def average_decay(config: TrainConfig, step: int) -> float:
    """Decay of the running average of the weights; shorter at first, when the first weights are still in it."""
    return min(config.ema, (1 + step) / (10 + step))
