"""The fault campaign behind benchmarks/faults.py, in a process with ROS."""
