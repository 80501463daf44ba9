"""The methods: each handler is one thin function that calls the domain.

Only this package and the registry know method names. A handler takes the caller's connection and
the typed params, and gives a result struct or a `Reply` that is completed later.
"""
