"""What every test runs under; set before rclpy, matplotlib or torch is imported."""

import os
import signal

os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')  # off by default: garbage goes out
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('MPLBACKEND', 'Agg')
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # as in cli.py: tests share the cores
os.environ.setdefault('GOMP_SPINCOUNT', '0')

# A shell's background job inherits an ignored SIGINT, and so would every process under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
