"""Benchmarks: ours and stock RQ in one run, in turns, as ratios of medians. `make bench` is all."""
