"""Qwen-VLA for ROS 2: a vision-language-action policy from camera message to robot command."""

# The source tree and the generated messages share one package name: both stay importable.
__path__ = __import__('pkgutil').extend_path(__path__, __name__)
