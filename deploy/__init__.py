"""Running StreamServe on more than one process; docs/deploy.md tells how."""
