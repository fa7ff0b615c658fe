"""The simulated ALOHA: two ViperX 300s over one table, without any ROS."""
