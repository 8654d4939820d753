"""One room per protocol: each lets the clients of a protocol reach the same runs."""
