"""The QMP protocol: a sans-I/O core, events, and the clients. Needs nothing but Python."""
