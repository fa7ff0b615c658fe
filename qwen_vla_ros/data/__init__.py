"""What a policy is trained on: one sample type, one reader a source, and the statistics."""
