"""The one exception that means "the user can mend this": shown as its message, without a traceback."""


class RetrainError(Exception):
    """A problem in the configuration, the data, the model, the registry or the server.

    The message says what was seen, what is required and what to do; the command line prints it
    and exits with 1. Anything else that is raised is a defect of ours and keeps its traceback.
    """
