"""The data and the stages of the bundled checkpoint: `qwen-vla train bundled`."""
