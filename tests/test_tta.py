"""The ways in which an image is seen: flags, sizes."""

import types

import pytest

from utils.errors import UserError
from utils.inference import tta
from utils.inference.tta import Views


def flags(scales, flip=False):
  return types.SimpleNamespace(test_scales=scales, test_flip=flip)


def test_flags_become_views():
  seen = tta.from_flags(flags(['0.75', ' 1', '1.5'], flip=True))
  assert seen == Views(True, (0.75, 1.0, 1.5)) and not seen.plain
  assert seen.each == [(0.75, False), (0.75, True), (1.0, False), (1.0, True), (1.5, False), (1.5, True)]
  assert seen.enlargement == 2.25
  assert tta.from_flags(flags(['1'])) == Views() and Views().plain and Views().each == [(1.0, False)]


def test_one_other_view_alone_is_not_plain():
  assert not Views(scales=(0.5,)).plain and not Views(flip=True).plain
  assert Views(scales=(0.5,)).enlargement == 1


@pytest.mark.parametrize('scales', [['0'], ['-1'], ['1', 'two'], ['nan'], ['inf'], ['1', ''], ['4.1'], ['0.09']])
def test_a_bad_scale_is_named_with_the_valid_ones(scales):
  with pytest.raises(UserError) as error:
    tta.from_flags(flags(scales))
  assert str(error.value) == (f'--test_scales={",".join(scales)}: valid are numbers from 0.1 to 4 with commas between, '
                              'as 0.75,1,1.25')


def test_no_scale_is_refused():
  with pytest.raises(UserError, match='^--test_scales=: valid are numbers'):
    tta.from_flags(flags([]))


@pytest.mark.parametrize('size,scale,expected', [
    ((360, 480), 0.75, (270, 360)), ((5, 7), 0.5, (3, 4)), ((1, 3), 0.1, (1, 1)), ((33, 1), 1.25, (41, 1))])
def test_sizes_are_rounded_and_never_0(size, scale, expected):
  assert tta.scaled_size(size, scale) == expected
