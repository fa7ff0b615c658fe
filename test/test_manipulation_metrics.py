"""The manipulation score, worked by hand."""

import numpy as np
import pytest

from qwen_vla_ros.errors import QwenVlaError
from qwen_vla_ros.evaluate.manipulation_metrics import (
    route_share,
    score_manipulation,
    summarise_manipulation,
)

TARGET = np.array([0.4, 0.0, 0.0])
START, HALF, BACK = np.zeros(3), np.array([0.2, 0.0, 0.0]), np.array([-0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    ('case', 'route', 'score'),
    [
        ({'success': True}, 100, 100),
        ({'success': True, 'collisions': 2}, 100, 64),
        ({'success': False}, 0, 0),
        ({'success': False, 'begins': [START], 'ends': [HALF], 'target': TARGET}, 50, 50),
        ({'success': False, 'begins': [START], 'ends': [BACK], 'target': TARGET}, 0, 0),
        (
            {'success': False, 'begins': [START, START], 'ends': [BACK, HALF], 'target': TARGET},
            50,
            50,
        ),
        (
            {
                'success': False,
                'begins': [START],
                'ends': [HALF],
                'target': TARGET,
                'collisions': 1,
                'out_of_bounds': True,
            },
            50,
            20,
        ),
    ],
)
def test_route_and_penalties(case, route, score):
    found = score_manipulation(**case)
    assert found.route_completion == pytest.approx(route)
    assert found.score == pytest.approx(score)


def test_a_tip_that_began_at_the_place_counts_full_or_half():
    near = TARGET + [0.005, 0, 0]
    assert route_share(near, TARGET + [0.04, 0, 0], TARGET) == 1.0
    assert route_share(near, TARGET + [0.06, 0, 0], TARGET) == 0.5


def test_what_is_missing_is_refused():
    with pytest.raises(QwenVlaError, match='a first and a last place'):
        score_manipulation(False, target=TARGET)
    with pytest.raises(QwenVlaError, match='finite'):
        route_share(START, [np.nan, 0, 0], TARGET)
    with pytest.raises(QwenVlaError, match='-1 collisions'):
        score_manipulation(True, collisions=-1)


def test_the_summary_has_intervals():
    scores = [score_manipulation(True), score_manipulation(False), score_manipulation(True)]
    found = summarise_manipulation(scores)
    assert (found['SR']['success'], found['episodes']) == (2, 3)
    assert found['MS']['mean'] == pytest.approx(200 / 3)
    low, high = found['MS']['interval95']
    assert 0 <= low <= 200 / 3 <= high <= 100
    assert summarise_manipulation([])['MS'] == {'mean': None, 'interval95': None}
