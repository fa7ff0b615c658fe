"""Seeing what a policy intends: one picture, as markers, in camera images, and from afar."""
