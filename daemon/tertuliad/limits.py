"""Every bound of the daemon, with its unit and its fate when reached.

A bound that is not here does not exist. Fates: *wait* (the sender is not read for a while),
*refuse* (a typed error), *fall behind* (a follower re-reads the log later), *close*.
"""

KIB = 1024
MIB = 1024 * KIB

# Frames. Header and body bounds are the framer's own defaults; the daemon may lower the body's.
MAX_BODY_BYTES = 64 * MIB  # a larger frame is answered, skipped, and the connection lives

# Connections.
READ_CHUNK_BYTES = 256 * KIB
WRITE_CHUNK_BYTES = 256 * KIB  # frames of one drain are joined up to this size
OUTBOX_HIGH_BYTES = 8 * MIB  # above: followers fall behind, lifecycle notices are dropped
OUTBOX_LOW_BYTES = 1 * MIB  # below: followers that fell behind catch up from the log
OUTBOX_MAX_BYTES = 256 * MIB  # above: a peer that asks and never reads is closed
REQUESTS_IN_FLIGHT = 2048  # per connection; refuse
ACCEPT_PAUSE_S = 0.2  # after accepting failed
CONNECTIONS = 4096  # per daemon; a further one is closed at once

# Sessions.
PENDING_MESSAGES = 256  # queued behind a turn, per session; refuse
INBOX_COMMANDS = 4096  # commands that wait for a commit or a load, per session; refuse
REMEMBERED_KEYS = 256  # callers' keys of the messages accepted last, per session
HOT_SESSIONS = 64  # idle sessions kept in memory; the one used longest ago is let go
SNAPSHOT_EVENTS = 256  # a snapshot is stored after so many events
COMMIT_TRIES = 20  # a command whose commit another process keeps overtaking; then an error
PROMPT_BYTES = 16 * MIB  # one message with its attachments' text; refuse
ATTACHED_FILE_BYTES = 256 * KIB  # of one attached file, the rest is left out and said so
LISTED_ENTRIES = 500  # of one attached folder, the rest is counted
TITLE_CHARS = 80

# Turns.
TURN_IDLE_TIMEOUT_S = 300.0  # no byte from the model for so long ends the turn
TURN_TIMEOUT_S = 3600.0  # one turn at most
NOT_STREAMED_TIMEOUT_S = 600.0  # an answer that comes in one piece

# Models' HTTP.
CONNECT_TIMEOUT_S = 10.0
MODEL_LINE_BYTES = 16 * MIB  # one event of a model's stream; bad response
MODEL_ERROR_BODY_BYTES = 64 * KIB  # what is read of an error's body
MODELS_LIST_TIMEOUT_S = 3.0
EMBEDDED_START_TIMEOUT_S = 60.0

# Store.
COMMIT_BATCH = 512  # operations of one transaction
STORE_BUSY_TIMEOUT_S = 5.0  # another process holds the write lock for so long: refuse
WAL_PAGES = 250  # of 4 KiB: the write-ahead log is folded back from this size on
INDEXED_AT_ONCE = 64  # segments whose new words are indexed in one transaction
CATCH_UP_EVENTS = 512  # events read from the log at once for a follower that fell behind

# The process.
SHUTDOWN_GRACE_S = 5.0  # turns and writers get so long when the daemon stops
EXIT_AFTER_SHUTDOWN_S = 15.0  # after runtime.shutdown, when nobody ends the process
PARENT_POLL_S = 1.0  # where the platform cannot tell of a parent's death
