"""Posterior-Guided Neural Architecture Search (AAAI 2020) for CNNs."""
