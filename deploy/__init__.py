"""Deployment of StreamServe on several processes; see docs/deploy.md."""
