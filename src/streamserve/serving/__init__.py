"""Steps that all doors share: from a request's body to a call, and from a call to a run."""
