"""The chains that replicas serve while they are restarted."""
