"""The session engine: state as a fold of the log, decisions as pure steps, one actor a session.

Nothing here imports connections, handlers or transports: a session cannot tell who is watching.
"""
