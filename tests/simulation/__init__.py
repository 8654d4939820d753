"""The server and its client in a simulated world: one seed decides every order, delay and fault."""
