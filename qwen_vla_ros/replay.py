"""Which topics of a bag are played again: the contract's inputs, and nothing a policy said."""

from qwen_vla_ros.embodiment import Embodiment

ALWAYS = ('/tf', '/tf_static')


def played_topics(robot: str, namespace: str = '') -> list[str]:
    """Return absolute names: cameras, their infos, states, the sentence, and tf."""
    embodiment = Embodiment.load(robot)
    names = [camera.topic for camera in embodiment.cameras]
    names += [camera.info_topic for camera in embodiment.cameras if camera.info_topic]
    names += [state.topic for state in embodiment.states] + ['policy/instruction']
    before = f'/{namespace.strip("/")}/' if namespace.strip('/') else '/'
    return [*(name if name.startswith('/') else before + name for name in names), *ALWAYS]
