"""Measurements: one command each, ratios taken side by side in one run. `results/` says what was measured and where."""
