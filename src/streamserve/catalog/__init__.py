"""The chains that a team declares: the record, and where chains are found."""
