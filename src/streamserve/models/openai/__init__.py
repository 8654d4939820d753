"""ChatOpenAI against any compatible server, with less work per chunk."""
