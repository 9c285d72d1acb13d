"""Candidates of a run, and which of them is best."""
