"""Data, objective, budget, loop and checkpoints."""
