"""Does a policy fit a robot and a machine? Told before anything moves; no ROS, no torch."""
