"""Middleware that every request passes before its route: bounds of headers and bodies, CORS, the HTTP protocol."""
