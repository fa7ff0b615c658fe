"""The one error that bad input raises; the command line prints it and exits with code 2."""


class QwenVlaError(Exception):
    """
    Bad input, told in one message: the place (file, topic, joint, key) and the remedy.

    Everything that a user can cause (YAML, bag, dataset, checkpoint, socket) raises this class or
    one of its children, so a traceback always means a defect of ours.
    """
