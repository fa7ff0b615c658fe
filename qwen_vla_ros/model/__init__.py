"""Qwen-VLA itself: Qwen3.5 backbone, DiT action decoder, flow matching, checkpoints."""
