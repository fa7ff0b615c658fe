"""The home pose and the nudge: what is off, and what to do about it."""

import math

import pytest

from qwen_vla_ros.checks.command import table
from qwen_vla_ros.checks.home import check_home, judge_nudge
from qwen_vla_ros.errors import QwenVlaError

UNITS = {'waist': 'rad', 'elbow': 'rad', 'left_finger': 'm'}
HOME = {'waist': 0.0, 'elbow': 0.6, 'left_finger': 0.02}


def found(**measured):
    return {f.name: f for f in check_home({**HOME, **measured}, HOME, UNITS)}


def test_joints_at_home_pass():
    assert all(finding.ok for finding in found(waist=0.04, left_finger=0.022).values())


@pytest.mark.parametrize(
    ('measured', 'joint', 'remedy'),
    [
        ({'waist': math.pi / 2 + 0.01}, 'waist', 'off by a quarter turn'),
        ({'elbow': 0.6 - math.pi}, 'elbow', 'off by half a turn'),
        ({'elbow': -0.61}, 'elbow', 'its sign is reversed'),
        ({'elbow': math.degrees(0.6)}, 'elbow', 'degrees'),
        ({'waist': 0.2}, 'waist', 'calibrate this joint'),
        ({'waist': math.nan}, 'waist', 'reads no number'),
        ({'left_finger': 0.03}, 'left_finger', 'calibrate the gripper'),
    ],
)
def test_a_joint_that_is_off_is_refused_by_name_with_a_remedy(measured, joint, remedy):
    findings = found(**measured)
    assert not findings[joint].ok and remedy in findings[joint].remedy
    assert [name for name, finding in findings.items() if not finding.ok] == [joint]


def test_a_joint_that_is_not_measured_is_told():
    with pytest.raises(QwenVlaError, match='waist, elbow not among'):
        check_home({'left_finger': 0.02}, HOME, UNITS)


BEFORE = {'waist': 0.1, 'elbow': 0.5}


@pytest.mark.parametrize(
    ('waist', 'elbow', 'remedy'),
    [
        (0.148, 0.501, ''),
        (0.052, 0.5, 'sign is reversed'),
        (0.1, 0.55, 'elbow moved instead'),
        (0.101, 0.5, 'hardly moved'),
        (0.19, 0.5, 'further than asked'),
        (0.15, 0.53, 'elbow moved as well'),
    ],
)
def test_a_nudge_tells_sign_order_and_scale(waist, elbow, remedy):
    finding = judge_nudge('waist', 0.05, BEFORE, {'waist': waist, 'elbow': elbow})
    assert finding.ok == (not remedy) and remedy in finding.remedy


def test_a_nudge_of_a_joint_that_nobody_measures_is_told():
    with pytest.raises(QwenVlaError, match='wrist is not among'):
        judge_nudge('wrist', 0.05, BEFORE, BEFORE)


def test_the_table_has_the_remedy_below_what_is_refused():
    lines = table(list(found(waist=0.2).values())).splitlines()
    assert lines[0].startswith('refuse waist') and lines[1].strip().startswith('-> ')
    assert lines[2].startswith('pass   elbow')
