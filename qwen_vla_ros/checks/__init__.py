"""Checks of an arm before it is armed: its home pose, its signs, and where its camera hangs."""
