"""How well an agent converses, measured in what it shows and says. See docs/evaluation.md."""
