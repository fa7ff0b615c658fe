"""A simulated differential base in furnished rooms: go where the sentence says, and stop."""
