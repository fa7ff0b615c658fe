"""The mixture: stated weights, the same draws on any number of ranks, exact resume, bad files."""

from collections import Counter
from functools import partial
from itertools import islice

import pytest
from loader_sources import Made

from qwen_vla_ros.data.mixture import TABLE_1, Mixture, Source, weights
from qwen_vla_ros.errors import QwenVlaError

Three = partial(Made, count=3)
SOURCES = [Source(Three('a'), 'synthetic'), Source(Three('b'), 'navigation')]


def places(mixture, count):
    return [sample.place for sample in islice(mixture, count)]


def test_table_1_sums_to_what_the_paper_prints():
    assert sum(TABLE_1.values()) == pytest.approx(99.9)


def test_weights_share_a_family_and_leave_out_absent_ones():
    sources = [
        Source(Three('a'), 'x', 3.0),
        Source(Three('b'), 'x', 1.0),
        Source(Three('c'), 'y'),
    ]
    families = {'x': 4.0, 'y': 1.0, 'absent': 9.0}
    assert weights(sources, families).tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert weights(sources, families, 2.0).tolist() == pytest.approx([0.5, 1 / 6, 1 / 3])


def test_draws_follow_the_weights_and_reach_every_frame():
    drawn = places(Mixture(SOURCES, 0), 2000)
    found = Counter(place.source for place in drawn)
    assert found['a'] / 2000 == pytest.approx(3.7 / 11.2, abs=0.04)
    assert len(set(drawn)) == 30


def test_ranks_together_see_the_draws_of_one():
    alone = places(Mixture(SOURCES, 5), 30)
    ranks = [places(Mixture(SOURCES, 5, rank=r, world=3), 10) for r in range(3)]
    assert [place for row in zip(*ranks, strict=True) for place in row] == alone
    assert places(Mixture(SOURCES, 6), 30) != alone


def test_a_run_resumes_where_it_stood():
    first = Mixture(SOURCES, 5, rank=1, world=2)
    places(first, 7)
    state = first.state()
    rest = places(first, 9)
    second = Mixture(SOURCES, 5, rank=1, world=2)
    second.resume(state)
    assert places(second, 9) == rest
    for changed in ({'seed': 6}, {'world': 3}):
        with pytest.raises(QwenVlaError, match=f'made with {next(iter(changed))}'):
            second.resume({**state, **changed})


def test_bad_samples_are_skipped_counted_and_named():
    mixture = Mixture([Source(Three('a', bad=(1,)), 'synthetic')], 0)
    drawn = places(mixture, 60)
    assert {place.episode for place in drawn} == {0, 2}
    assert set(mixture.skipped) == {
        f'a: episode 1, frame {frame}: images.ego: is cut' for frame in range(5)
    }


def test_a_source_of_nothing_but_bad_samples_stops_the_run():
    with pytest.raises(QwenVlaError, match='^a: 100 bad samples in a row; the last: a: episode'):
        places(Mixture([Source(Three('a', bad=(0, 1, 2)), 'synthetic')], 0), 1)


@pytest.mark.parametrize(
    ('changed', 'words'),
    [
        ({'sources': []}, 'there is no source'),
        ({'sources': [Source(Three('a'), 'synthetics')]}, "a: unknown family 'synthetics'"),
        ({'sources': [Source(Three('a'), 'synthetic', 0.0)]}, 'a: share and weight must be'),
        ({'temperature': 0.0}, 'temperature 0.0 must be positive'),
        ({'rank': 2, 'world': 2}, 'rank 2 of 2'),
    ],
)
def test_what_cannot_be_mixed_is_refused(changed, words):
    with pytest.raises(QwenVlaError, match=words):
        Mixture(**{'sources': SOURCES, 'seed': 0, **changed})
