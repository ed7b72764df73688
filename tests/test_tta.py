"""Views of test-time augmentation: flags, sizes."""

import dataclasses

import pytest

from utils import settings
from utils.errors import UserError
from utils.inference import tta
from utils.inference.tta import Views

pytestmark = pytest.mark.fast


@dataclasses.dataclass(frozen=True)
class Program(settings.Settings):
  views: Views = settings.group(Views, prefix='test_')


def parsed(*argv):
  return settings.parse(Program, argv).views


def test_flags_become_views():
  seen = parsed('--test_scales=0.75, 1,1.5', '--test_flip')
  assert seen == Views(True, (0.75, 1.0, 1.5)) and not seen.plain
  assert seen.each == [(0.75, False), (0.75, True), (1.0, False), (1.0, True), (1.5, False), (1.5, True)]
  assert seen.enlargement == 2.25
  assert parsed('--test_scales=1') == parsed() == Views() and Views().plain and Views().each == [(1.0, False)]


def test_a_single_other_view_is_not_plain():
  assert not Views(scales=(0.5,)).plain and not Views(flip=True).plain
  assert Views(scales=(0.5,)).enlargement == 1


@pytest.mark.parametrize('scales, valid', [
    ('0', '0.1 to 4'), ('-1', '0.1 to 4'), ('1,two', 'numbers are wanted'), ('nan', 'a finite number'),
    ('inf', 'a finite number'), ('4.1', '0.1 to 4'), ('0.09', '0.1 to 4'), ('', 'numbers from 0.1 to 4')])
def test_a_bad_scale_is_named_with_the_valid_ones(scales, valid):
  with pytest.raises(UserError, match=f'--test_scales={scales}: .*{valid}'):
    parsed(f'--test_scales={scales}')


@pytest.mark.parametrize('size,scale,expected', [
    ((360, 480), 0.75, (270, 360)), ((5, 7), 0.5, (3, 4)), ((1, 3), 0.1, (1, 1)), ((33, 1), 1.25, (41, 1))])
def test_sizes_are_rounded_and_never_0(size, scale, expected):
  assert tta.scaled_size(size, scale) == expected
