"""Conversations kept exactly, in one file, and lived again bit for bit."""
