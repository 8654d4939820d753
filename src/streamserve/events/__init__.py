"""Protocol-neutral events (version 3) of chains and graphs."""
