"""Model providers: thin adapters from the engine's neutral request to a vendor's wire format.

A provider knows its own interface (`base`) and nothing of sessions, connections or the store.
"""
