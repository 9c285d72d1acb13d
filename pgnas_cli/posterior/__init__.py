"""The learned distribution over architectures, and what is drawn from it."""
