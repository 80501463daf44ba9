"""Every bound of the daemon, with its unit and its fate when reached.

A bound that is not here does not exist. Fates: *wait* (the sender is not read for a while),
*refuse* (a typed error), *fall behind* (a follower re-reads the log later), *close*.

Where what is refused passes by itself, the error says when to try again: a `..._RETRY_MS` stands
below the bounds that it is for, and each caller is told a time between once and twice of it
(`spread`). Where it does not pass, no time is told, and the message says what to do instead.
"""

KIB = 1024
MIB = 1024 * KIB

# Frames. Header and body bounds are the framer's own defaults; the daemon may lower the body's.
MAX_BODY_BYTES = 64 * MIB  # a larger frame is answered, skipped, and the connection lives

# Connections.
READ_CHUNK_BYTES = 64 * KIB  # as much as a pipe holds
GREETING_BYTES = 512  # a pipe that is ready takes as many whole (POSIX: PIPE_BUF is that at least)
READ_AHEAD_BYTES = 256 * KIB  # of standard input, before its reader takes them; wait
WRITE_CHUNK_BYTES = 256 * KIB  # frames of one drain are joined up to this size
OUTBOX_HIGH_BYTES = 8 * MIB  # above: followers fall behind, lifecycle notices are dropped
OUTBOX_LOW_BYTES = 1 * MIB  # below: followers that fell behind catch up from the log
OUTBOX_MAX_BYTES = 256 * MIB  # above: a peer that asks and never reads is closed
REQUESTS_IN_FLIGHT = 2048  # per connection; refuse
BYTES_IN_FLIGHT = 256 * MIB  # of their params together; refuse
IN_FLIGHT_RETRY_MS = 20  # some answers of that connection will have left
LARGE_BODY_BYTES = 1 * MIB  # a larger one is worked on in steps; the others have their turn between
STEP_PAUSE_S = 0.005  # of its connection's reader, for that
FRAMES_AT_ONCE = 32  # of one connection, before the others have their turn; wait
ACCEPT_PAUSE_S = 0.2  # after accepting failed
ACCEPT_TOLD_S = 60.0  # it is logged no more often, however long it goes on failing
STRANGER_S = 10.0  # to say the token, where one is asked for; close
CLOSE_S = 1.0  # a connection that is over, until its stream is; then it is left to itself
STRANGER_FAREWELL_S = 1.0  # to read why it is closed, or that too many clients are there
STRANGER_BYTES = 64 * KIB  # one message before the token, and what may wait to be read; skip, close
CONNECTIONS = 4096  # per daemon; a further one is told so and closed
CONNECTIONS_WAITING = 1024  # at a unix socket, until they are accepted; the kernel has others wait
CONNECTIONS_RETRY_MS = 1000  # a client comes and goes by its user's pace

# Sessions.
FOLLOWED_SESSIONS = 131_072  # by one connection at once; refuse
PENDING_MESSAGES = 256  # queued behind a turn, per session; refuse
PENDING_BYTES = 64 * MIB  # of their texts and attachments together; refuse
PENDING_RETRY_MS = 1000  # a place comes with the end of a turn
READ_EVENTS = 200  # of one page of a log, where the caller does not say
READ_EVENTS_MAX = 1000  # of one page of a log, whatever the caller says
READ_BYTES = 8 * MIB  # of a page of a log, and read at once for a follower; with these it ends
READ_WAIT_MS = 30_000  # a read waits for news so long at most, whatever the caller says
IDLE_AFTER_ERROR_S = 0.2  # a client that tries again at once has sent by then, if it is busy too
LEFT_OVER_TURNS = 16  # at once, of messages that an earlier process left waiting
INBOX_COMMANDS = 4096  # commands that wait for a commit or a load, per session; refuse
URGENT_COMMANDS = 1024  # beyond it, and beyond REQUESTS_IN_FLIGHT, for what ends a turn
INBOX_RETRY_MS = 50  # some commits
REMEMBERED_KEYS = 256  # callers' keys of the messages accepted last, per session
SESSION_IDLE_S = 600.0  # an idle session is kept in memory so long, and then let go
SESSION_LOOK_S = 0.05  # idle sessions are looked for no more often, however short their time
HOT_SESSIONS = 64  # idle sessions kept in memory; the one used longest ago is let go
SNAPSHOT_EVENTS = 256  # a snapshot is stored after so many events
COMMIT_TRIES = 100  # a command whose commit another process keeps overtaking; refuse
PROMPT_BYTES = 16 * MIB  # one message with its attachments' text; refuse
ATTACHED_FILE_BYTES = 256 * KIB  # of one attached file, the rest is left out and said so
FILE_LOOKS = 16  # at once, at files and folders that are named; wait
FILE_LOOKS_OF_ONE = 4  # of them, by one connection; wait
FILE_LOOK_S = 10.0  # one of them, the wait for its turn included; refuse
FILE_LOOKS_RETRY_MS = 1000  # one of those that others wait for has ended, or does in a while
FILE_LOOKS_HANGING = 64  # which did not end in time, and have not since; refuse
LISTED_ENTRIES = 500  # of one attached folder, the rest is counted
TITLE_CHARS = 80  # of a title that is made of what was said; the rest is left out
PATH_CHARS = 4096  # of a session's folder; refuse
NAME_CHARS = 1000  # of a name that a client gives; refuse

# Turns.
TURN_IDLE_TIMEOUT_S = 300.0  # no byte from the model for so long ends the turn
TURN_TIMEOUT_S = 3600.0  # one turn at most
AFTER_FINISH_S = (
    5.0  # a model that has finished says so long what it took; then its answer is whole
)
NOT_STREAMED_TIMEOUT_S = 600.0  # an answer that comes in one piece
TURN_RETRIES = 4  # further tries of a call that failed before its first byte; then the turn fails
RETRY_FIRST_WAIT_S = 0.5  # doubled before each further try
RETRY_LONGEST_WAIT_S = 16.0
RETRY_AFTER_S = 60.0  # a server that asks to wait longer is not asked again: the turn fails
RETRY_WINDOW_S = 120.0  # no try begins later than this after the first
TURNS_AT_ONCE = 4096  # turns that run in the daemon; a message that would start one more: refuse
TURNS_SHARE = 0.75  # of them; who runs most of those leaves what is above to others; refuse
TURN_RETRY_MS = 1000  # for the end of one, in this session, this daemon or another

# Models' HTTP.
CONNECT_TIMEOUT_S = 10.0
KEEP_LOCAL_S = 4.0  # an idle connection on this machine: servers (uvicorn, Node) close it after 5
KEEP_REMOTE_S = 30.0  # the same elsewhere; then it is closed
END_OF_BODY_S = 0.1  # after an answer's end, for HTTP's own: then the connection is not kept
LOCAL_PROBE_S = 1.0  # a server on this machine that nobody configured answers, or is none
TOLD_WAIT_S = 24 * 3600.0  # as long as a server's retry-after is taken to mean
EMBEDDED_END_S = 2.0  # the embedded model's process, after the end of its input; then it is killed
SESSION_TARGETS = 16  # models of an endpoint that sessions brought which are kept ready
MODEL_ANSWER_CHARS = 16 * MIB  # of one streamed answer, its tool calls included; bad response
MODEL_TOOL_CALLS = 1024  # of one answer, streamed or not; bad response
MODEL_LINE_BYTES = 16 * MIB  # one event of a model's stream; bad response
MODEL_REQUEST_AT_ONCE_BYTES = 1 * MIB  # a larger request is written piece by piece
MODEL_ERROR_BODY_BYTES = 64 * KIB  # what is read of an error's body
MODEL_ERROR_CHARS = 600  # what is shown of what it says; the rest is left out
MODEL_NAMES_TOLD = 12  # in the refusal of an unknown one; the rest is counted
MODELS_LIST_TIMEOUT_S = 3.0
EMBEDDED_START_TIMEOUT_S = 60.0
EMBEDDED_DEATH_S = 2.0  # an answer that was cut waits so long to learn that the process died
EMBEDDED_OUTPUT_TOKENS = 256  # of an answer, where the request does not say; then it is cut
EMBEDDED_STDERR_BYTES = 4 * KIB  # what is kept of the process's complaints, for the error's text
EMBEDDED_COMPLAINT_CHARS = 300  # of the last of them, in that text

# Store.
COMMIT_BATCH = 128  # changes of one transaction
STORE_BUSY_TIMEOUT_S = 5.0  # another process holds the write lock for so long: refuse
LOOKED_AT_S = 0.5  # so long a doctor may have a home for itself to look at it; refuse
STORE_RETRY_MS = 1000  # whoever holds it has held it for longer than that
WAL_CHANGES = 256  # the write-ahead log has a checkpoint after so many
WAL_BYTES = 4 * MIB  # its length; a longer one has a checkpoint at once, and is cut off
WAL_CUT_BYTES = 16 * MIB  # a longer one is cut off at once, without waiting for the next change
WAL_SHORT_CHANGES = 64  # a shorter one is given it after so many, and not for fewer
LIGHT_BYTES = 256 * KIB  # events of a change, or a log, that the event loop's thread works on
LIGHT_SEGMENTS = 16  # that such a log leads through: forks and rewinds make them
LIGHT_EVENTS = 512  # of such a log, behind its snapshot; a thread reads and folds a longer one
STORE_CACHE_KIB = 96  # pages that each of the store's connections keeps
INDEXED_CHARS = 256 * KIB  # of one message; what stands behind them is not found
INDEXED_BYTES = 256 * KIB  # of events indexed in one transaction, each counted as 1 KiB or more
CREATED_BYTES = 256 * KIB  # the same of those imported, until the log is whole
REMOVED_BYTES = 256 * KIB  # the same of those removed, once nothing leads to them
REMOVE_PAUSE_S = 0.01  # between two such transactions
LEASE_BEAT_S = 2.0  # how often a process that runs turns says that it lives
LEASE_S = 15.0  # not heard of for so long, it is taken for stopped, and its turns are ended
OTHERS_LOOK_S = 1.0  # between looks at what other daemons on the home have written
OTHERS_AT_ONCE = 1000  # followed sessions that the store is asked for at once, then
CATCH_UP_EVENTS = 512  # events read from the log at once for a follower that fell behind

FREE_BYTES = 64 * MIB  # with less on its disk, a home is in danger: the doctor says so
UNUSED_BYTES = 16 * MIB  # so much of the database, and half of it, unused: the doctor gives it back

# Many sessions.
LISTED_AT_ONCE = 1000  # rows of a page, where a limit is given; a higher one is this one
SEARCH_CHARS = 1000  # of what is searched for; refuse
MARKED_BYTES = 16 * KIB  # of an event whose snippet the index chooses; a longer one's is simpler
FOUND_AT_ONCE = 200  # places of a search's page; a higher limit is this one
DELETED_AT_ONCE = 16  # of many that one request deletes; the others wait
METADATA_BYTES = 64 * KIB  # a session's own metadata, encoded; refuse
INDEX_PAUSE_S = 3.0  # nothing was stored for so long, before what was said is indexed
INDEX_LATE_S = 60.0  # it waits no longer than that for such a pause

# The process.
FILES_AT_LEAST = 24  # for the store, a client and a model's call; with fewer it does not start
FREED_KEPT_BYTES = 256 * KIB  # of freed memory, that the C library does not give back at once
SWITCH_INTERVAL_S = 0.0005  # the loop's thread keeps the interpreter from the store's so long
WARM_PAUSE_S = 0.05  # after a session was opened, before what turns need is imported
DRAIN_GRACE_S = 3.0  # turns that run get so long to end by themselves after SIGTERM
LAST_ANSWERS_S = 0.5  # what was asked before a stop is answered by then, or refused
LAST_REFUSALS_S = 0.25  # who sends again, told that its turn was cut off, is refused until then
SHUTDOWN_GRACE_S = 5.0  # after that: the ends of turns, and writers, get so long
EXIT_AFTER_SHUTDOWN_S = 15.0  # after runtime.shutdown, when nobody ends the process
GREETING_S = 0.5  # for a first client, before what an earlier process left is taken up without one
OPTION_S = 7 * 86_400  # of a time that an option or the configuration gives; refuse
PARENT_POLL_S = 1.0  # where the platform cannot tell of a parent's death
