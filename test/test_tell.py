"""`qwen-vla tell` against a node over DDS: what is said arrives, what is refused is told."""

import threading

import pytest

pytest.importorskip('rclpy')
from qwen_vla_ros.msg import PolicyStatus
from qwen_vla_ros.srv import SetStage
from ros_lab import Lab
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from qwen_vla_ros import cli
from qwen_vla_ros.nodes.qos import LATCHED


@pytest.fixture(scope='module')
def heard(tmp_path_factory):
    """Return what a node called `left/policy` is told; it refuses to park."""
    lab, heard = Lab(33, tmp_path_factory.mktemp('tell')), []
    status = lab.node.create_publisher(PolicyStatus, 'left/policy/status', LATCHED)

    def instruct(message):
        heard.append(message.data)
        status.publish(
            PolicyStatus(
                stage='RUNNING', arming='full', instruction=message.data, inference_s=0.05
            )
        )

    def answer(name, success):
        def told(request, response):
            heard.append((name, request))
            response.success, response.message = success, f'{name} answers'
            return response

        return told

    lab.node.create_subscription(String, 'left/policy/instruction', instruct, LATCHED)
    lab.node.create_service(SetStage, 'left/policy/set_stage', answer('stage', True))
    lab.node.create_service(SetBool, 'left/policy/estop', answer('estop', True))
    lab.node.create_service(Trigger, 'left/policy/reset_safety', answer('reset', True))
    lab.node.create_service(Trigger, 'left/policy/park', answer('park', False))
    status.publish(PolicyStatus(stage='HOLDING', arming='shadow', reason='no camera'))
    yield heard
    lab.close()


def tell(*words):
    """Run the command beside the node's thread."""
    assert threading.current_thread() is threading.main_thread()
    return cli.main(['tell', '--node', 'left/policy', '--timeout', '10', *words])


def test_the_status_is_one_line(heard, capsys):
    assert tell('status') == 0
    assert capsys.readouterr().out == "HOLDING (shadow), '': no camera\n"


def test_an_instruction_is_told_until_the_node_has_it(heard, capsys):
    assert tell('instruction', 'touch the red block') == 0
    assert heard[-1] == 'touch the red block'
    told = capsys.readouterr().out
    assert told == "RUNNING (full), 'touch the red block', model 50 ms\n"


def test_stages_carry_their_reason(heard):
    assert tell('stage', 'scaled', '--reason', 'looks right', '--force') == 0
    request = heard[-1][1]
    assert (request.stage, request.reason, request.force) == ('scaled', 'looks right', True)


@pytest.mark.parametrize(('word', 'pressed'), [('estop', True), ('release', False)])
def test_the_emergency_stop_is_pressed_and_released(heard, word, pressed):
    assert tell(word) == 0
    assert heard[-1][1].data is pressed


def test_what_the_node_refuses_is_told_and_is_no_success(heard, capsys):
    assert tell('reset') == 0
    assert tell('park') == 1
    assert capsys.readouterr().err == 'park answers\n'


def test_nobody_there_is_one_line_and_exit_code_2(heard, capsys):
    assert cli.main(['tell', '--node', 'right/policy', '--timeout', '0.5', 'status']) == 2
    assert 'no policy node answers as right/policy within 0.5 s' in capsys.readouterr().err
