"""Runs in Redis: for many machines behind any load balancer."""

from streamserve.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
