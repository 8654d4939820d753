"""The team's chains: one file, one chain. See the README's tour."""
