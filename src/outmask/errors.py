"""The exception that a user's mistake raises."""


class OutmaskError(ValueError):
    """Bad usage or bad input: the message is one line that says what was given, what was expected and what to do.

    The command line prints it without a traceback; anything else that is raised is a defect of outmask.
    """


class ImageError(OutmaskError):
    """One image that can't be done as it was asked for; others may be."""
