"""The simulated robot: a WidowX 250s on a table with coloured objects, without any ROS."""
