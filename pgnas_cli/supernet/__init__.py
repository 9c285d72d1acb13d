"""Gates, gated layers and the supernet."""
