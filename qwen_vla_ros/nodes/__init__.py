"""The ROS nodes; the only part of this package that imports rclpy."""
