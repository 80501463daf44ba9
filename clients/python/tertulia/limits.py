"""Every bound of the clients, with its unit. Both drivers share them."""

# Starting and ending. Each step of the end of a spawned daemon waits so long before the next.
START_TIMEOUT_S = 30.0  # from spawn or connect to the end of the handshake
CONNECT_TIMEOUT_S = 10.0
CONNECT_AGAIN_S = 0.02  # between two tries at a socket where too many wait to be taken
ANSWER_S = 5.0  # the command takes a running daemon that greets nobody for so long for frozen
SHUTDOWN_TIMEOUT_S = 10.0  # the daemon's answer to runtime.shutdown
EOF_GRACE_S = 5.0
TERM_GRACE_S = 5.0
KILL_GRACE_S = 5.0
THREAD_JOIN_S = 5.0
EXIT_STATUS_S = 1.0  # for the exit code, once a daemon's output has ended

# Requests and events.
STALL_S = 60.0  # a daemon that takes no input for so long is lost
REQUEST_TIMEOUT_S = 60.0  # of one request, not of a turn
MESSAGE_CHARS = 16 * 1024 * 1024  # of a line or a text on standard input: the daemon takes no more
PATIENCE_S = 30.0  # a request that is refused with a time is made again for so long (`patiently`)
PATIENCE_LONGEST_WAIT_S = 4.0  # between two tries, unless the daemon asks for more
FEED_EVENTS = 100_000  # that may wait for one reader; above, its feed ends with FellBehind
LISTED_AT_ONCE = 200  # rows of one request, where all of them are iterated over
FOUND_AT_ONCE = 50  # places of one request, where all of them are iterated over
FOUND_AT_MOST = 200  # places of one request: the daemon gives no more
LOG_WAIT_S = 2.0  # one read of a log that is followed waits so long for news
RECONNECT_S = 30.0  # a follower of a log tries so long to reach its daemon again
SHARED_BACK_S = 10.0  # a chat gives its home's shared daemon so long, and starts its own then
CHAT_LOSSES = 3  # of the connection in one message of a chat, before it gives up
RECONNECT_FIRST_WAIT_S = 0.05  # doubled before each further try
RECONNECT_LONGEST_WAIT_S = 2.0
READ_BYTES = 256 * 1024

# What is kept of a daemon's stderr.
STDERR_TAIL_BYTES = 8 * 1024
