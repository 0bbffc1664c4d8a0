"""Streams of corrections and the ways to learn them, for bench_learning."""
