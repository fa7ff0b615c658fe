"""Measuring a policy: episodes, statistics, plots, video, report."""
