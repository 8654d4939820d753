"""The pages of the documentation that show what the benchmarks measured."""
