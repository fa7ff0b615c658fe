"""
transformers' hint that kernels of the linear attention are not installed.

It comes from every process that loads a model; `qwen-vla serve` says which kernels run.
"""

import logging

LOGGER = 'transformers.integrations.hub_kernels'


def leave_out() -> None:
    """Show errors of that logger alone, in this process."""
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
