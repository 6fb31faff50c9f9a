"""Public checkpoints in and out: one file a family, each a strict table of names and shapes."""
