"""The command line, and its exit codes."""

DONE, SOME_FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
