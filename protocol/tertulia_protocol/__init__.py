"""The wire of Tertulia: framing, envelopes, methods and events.

Pure: the standard library and msgspec. No I/O, clock, log or randomness, so that the daemon, the
clients and the fuzz tests all walk the same tables.
"""

VERSION = "0.1.0"
"""The version of the distribution: this is where it is written down."""

PROTOCOL_VERSION = 3
"""The version of the Copilot SDKs' wire that the daemon speaks; they accept exactly this one."""
