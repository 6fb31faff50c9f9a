"""Meshes and layouts, and attention over ranks. Knows no model."""
