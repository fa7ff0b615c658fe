"""Synthetic sets: trajectories in words only, and scripted demonstrations in the simulator."""
