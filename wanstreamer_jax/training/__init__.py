"""Training: every stage of the recipe by one loop, sharded, resumable to the bit."""
