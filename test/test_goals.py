"""Goals over DDS against a real action server: replaced, rejected, failed, cancelled, in words."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('test_msgs.action')
from action_msgs.msg import GoalStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from ros_lab import Lab, wait_for
from std_srvs.srv import Trigger
from test_msgs.action import Fibonacci

from qwen_vla_ros.nodes import goals
from qwen_vla_ros.nodes.goals import GoalClient, result_reason


class Controller:
    """As joint_trajectory_controller: a new goal ends the old. The order says how it ends."""

    def __init__(self, node, name):
        self.node, self.goals, self.cancelled = node, [], []
        self.server = ActionServer(
            node,
            Fibonacci,
            name,
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )

    def _on_goal(self, request):
        return GoalResponse.REJECT if request.order == 0 else GoalResponse.ACCEPT

    def _on_cancel(self, handle):
        self.cancelled.append(handle.request.order)
        return CancelResponse.ACCEPT

    async def _execute(self, handle):
        self.goals.append(handle)
        while True:
            if handle.is_cancel_requested:
                handle.canceled()
                break
            if self.goals[-1] is not handle or handle.request.order == 2:
                handle.abort()
                break
            if handle.request.order == 1:
                handle.succeed()
                break
            await _pause(self.node)
        return Fibonacci.Result()


async def _pause(node):
    from rclpy.task import Future

    future = Future()
    timer = node.create_timer(0.01, lambda: future.set_result(None))
    await future
    node.destroy_timer(timer)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    lab = Lab(32, tmp_path_factory.mktemp('goals'))
    yield lab
    lab.close()


@pytest.fixture
def pair(lab, request):
    name = f'controller_{abs(hash(request.node.name)) % 10**6}'
    controller = Controller(lab.node, name)
    client = GoalClient(lab.node, Fibonacci, name)
    wait_for(client._client.server_is_ready, what='the server')
    yield SimpleNamespace(controller=controller, client=client, name=name)
    client.close()
    end = lab.node.executor.create_task(controller.server.destroy)  # between the executor's rounds
    wait_for(end.done, what='the end of the server')


def goal(order):
    return Fibonacci.Goal(order=order)


def test_a_goal_without_a_server_is_told(lab):
    client = GoalClient(lab.node, Fibonacci, 'nobody')
    client.send(goal(5))
    assert client.problem == 'nobody: no action server; is the controller active?'
    client.close()


def test_a_client_may_be_made_while_its_node_spins(lab, monkeypatch):
    add = lab.node.add_waitable

    def late(waitable):
        add(waitable)
        lab.call(Trigger, '~/wake')  # an executor's round between rclpy's adding and its lock

    woken = []
    service = lab.node.create_service(
        Trigger, '~/wake', lambda request, response: woken.append(client) or response
    )
    client = None
    monkeypatch.setattr(lab.node, 'add_waitable', late)
    client = GoalClient(lab.node, Fibonacci, 'early')
    monkeypatch.undo()
    lab.call(Trigger, '~/wake')
    client.close()
    lab.call(Trigger, '~/wake')
    lab.node.destroy_service(service)
    assert woken == [None, client, client], 'the executor goes on: before, with and after it'


def test_a_goal_runs_and_is_over(pair):
    pair.client.send(goal(1))
    wait_for(lambda: pair.controller.goals, what='the goal')
    wait_for(lambda: not pair.client.running, what='its end')
    assert pair.client.problem == ''


def test_a_rejected_goal_is_told_until_one_is_accepted(pair):
    pair.client.send(goal(0))
    wait_for(lambda: pair.client.problem, what='the reason')
    assert pair.client.problem.startswith(f'{pair.name}: the goal was rejected')
    pair.client.send(goal(5))
    wait_for(lambda: pair.client.running and not pair.client.problem, what='a goal that runs')


def test_an_aborted_goal_is_told(pair):
    pair.client.send(goal(2))
    wait_for(lambda: pair.client.problem, what='the reason')
    assert pair.client.problem == f'{pair.name}: the goal was aborted'


def test_a_failure_is_still_told_when_the_next_goal_is_accepted(pair, monkeypatch):
    pair.client.send(goal(2))
    wait_for(lambda: pair.client.problem, what='the reason')
    pair.client.send(goal(5))
    wait_for(lambda: pair.client.running, what='the next goal')
    assert (pair.client.problem, pair.client.failures) == (f'{pair.name}: the goal was aborted', 1)
    monkeypatch.setattr(goals, 'TOLD_S', 0.0)
    assert pair.client.problem == ''


def test_a_goal_that_is_replaced_is_no_problem(pair):
    pair.client.send(goal(5))
    wait_for(lambda: len(pair.controller.goals) == 1, what='the first')
    pair.client.send(goal(6))
    wait_for(lambda: len(pair.controller.goals) == 2, what='the second')
    wait_for(lambda: list(pair.client._running) == [2], what='the end of the first')
    assert (pair.client.problem, pair.client.failures) == ('', 0)


def test_a_hold_cancels_and_is_no_problem(pair):
    pair.client.send(goal(7))
    wait_for(lambda: pair.client.running, what='the goal')
    pair.client.hold()
    wait_for(lambda: not pair.client.running, what='its end')
    assert pair.controller.cancelled == [7]
    assert pair.client.problem == ''


def test_a_hold_cancels_a_goal_whose_answer_is_still_to_come(pair):
    pair.client.send(goal(8))
    pair.client.hold()
    wait_for(lambda: pair.controller.cancelled, what='the cancellation')
    assert pair.controller.cancelled == [8]
    pair.client.send(goal(9))
    wait_for(lambda: list(pair.client._running) == [2], what='the next goal')
    assert pair.controller.cancelled == [8]


class Result:
    """As rosidl makes control_msgs/action/FollowJointTrajectory's."""

    SUCCESSFUL, INVALID_GOAL, PATH_TOLERANCE_VIOLATED = 0, -1, -4

    def __init__(self, error_code=0, error_string=''):
        self.error_code, self.error_string = error_code, error_string


def test_result_codes_become_words():
    assert result_reason(Result()) == ''
    told = result_reason(Result(-4, 'waist is 0.3 rad off'))
    assert told == 'PATH_TOLERANCE_VIOLATED (waist is 0.3 rad off)'
    assert result_reason(Result(77)) == 'error 77'
    assert result_reason(Fibonacci.Result()) == ''


@pytest.mark.parametrize(('code', 'failures'), [(-1, 0), (-4, 1)])
def test_only_a_replaced_goal_may_end_as_invalid(lab, code, failures):
    """From Jazzy on, a goal that gives way to the next is aborted with INVALID_GOAL."""
    client = GoalClient(lab.node, Fibonacci, 'nobody')
    client._count = 2
    answer = SimpleNamespace(status=GoalStatus.STATUS_ABORTED, result=Result(code, 'gave way'))
    client._on_result(1, SimpleNamespace(exception=lambda: None, result=lambda: answer))
    assert client.failures == failures
    client._on_result(2, SimpleNamespace(exception=lambda: None, result=lambda: answer))
    assert client.failures == failures + 1
    client.close()
