"""What every test runs under; set before rclpy or matplotlib is imported."""

import os

os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')  # off by default: garbage goes out
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('MPLBACKEND', 'Agg')
