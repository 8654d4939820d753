"""The team's chains, one per file. See the README's tour."""
