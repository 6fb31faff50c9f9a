"""What stops a run."""


class TrainingError(ValueError):
    """Training cannot start or go on; the message says why in one sentence, and what to do."""
