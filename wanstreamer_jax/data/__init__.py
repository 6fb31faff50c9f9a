"""Sessions to train and test on: where they come from, what they look like on disk."""
