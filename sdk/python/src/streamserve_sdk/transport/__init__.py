"""Move bytes: connections, sessions that resume, server-sent events."""
