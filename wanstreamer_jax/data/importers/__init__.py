"""Recordings that people have, as session folders."""
