"""example_net for pgnas."""
