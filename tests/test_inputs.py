"""The bands that a network sees: chosen, named, scaled."""

import numpy as np
import pytest

from datasets.inputs import Input, chosen
from datasets.reading import Reading
from utils.compat import tf
from utils.errors import UserError

pytestmark = pytest.mark.fast

NAMES = ('blue', 'green', 'red', 'nir')
FOUR = Reading(bands=NAMES, dtype='float32', value_range=((0, 1), (0, 2), (-1, 1), (10, 20)))


@pytest.mark.parametrize('given, places', [((), ()), (('4', '3', '2'), (3, 2, 1)), (('nir', 'blue'), (3, 0)),
                                           (('red', '4', '1'), (2, 3, 0))])
def test_bands_by_number_and_name(given, places):
  assert chosen(FOUR, given) == Input(FOUR, places)


def test_a_name_that_is_a_number_is_a_name():
  assert chosen(Reading(bands=('7', '1')), ('1',)).bands == (1,)


@pytest.mark.parametrize('given, part', [(('5',), 'no band 5'), (('swir',), 'no band swir'), (('1', 'blue'), 'twice'),
                                         (('²',), 'no band ²'), (('1.5',), r'no band 1\.5')])
def test_bands_that_are_not_there(given, part):
  with pytest.raises(UserError, match=f'--bands={",".join(given)}: .*{part}'):
    chosen(FOUR, given)


@pytest.mark.parametrize('reading, bands, colors', [
    (Reading(), (), (0, 1, 2)),
    (Reading(), (2, 1, 0), (2, 1, 0)),
    (Reading(), (1,), (1,)),
    (FOUR, (), (2, 1, 0, None)),
    (FOUR, (3, 2, 1), (0, 1, 2)),  # three bands are red, green and blue in their order
    (FOUR, (0, 1, 2), (2, 1, 0)),  # but these have names
    (FOUR, (3, 0), (None, 2)),
    (Reading(bands=('a', 'b', 'c')), (), (None, None, None)),
    (Reading(bands=('a', 'b', 'c')), (0, 1, 2), (0, 1, 2)),
    (Reading(bands=('RED', 'red', 'x', 'y')), (), (0, None, None, None))])
def test_colors_of_bands(reading, bands, colors):
  assert Input(reading, bands).colors == colors


def test_what_is_shown_are_places_among_the_chosen():
  assert Input(FOUR).shown == (2, 1, 0)
  assert Input(FOUR, (3, 2, 1)).shown == (0, 1, 2)
  assert Input(FOUR, (2, 3, 1, 0)).shown == (0, 2, 3)
  assert Input(FOUR, (3,)).shown == (0, 0, 0)
  assert Input(FOUR, (3, 1)).shown == (0, 1, 1)


def levels(seen, image):
  with tf.Graph().as_default(), tf.Session() as session:
    return session.run(seen.levels(tf.constant(image)))


def test_levels():
  image = np.float32([[[0.5, 3, 0, 12], [-1, np.nan, np.inf, 10]]])
  np.testing.assert_allclose(levels(Input(FOUR), image), [[[127.5, 255, 127.5, 51], [0, 0, 255, 0]]], rtol=1e-6)
  np.testing.assert_allclose(levels(Input(FOUR, (3, 0)), image), [[[51, 127.5], [0, 0]]], rtol=1e-6)
  values = np.uint16([[0, 257, 65535]])
  np.testing.assert_allclose(levels(Input(Reading(bands=('a', 'b', 'c'), dtype='uint16')), values), [[0, 1, 255]],
                             rtol=1e-6)
  constant = Reading(bands=('a',), dtype='uint16', value_range=((7, 7),))
  assert levels(Input(constant), np.uint16([[6], [7], [8]])).tolist() == [[0], [0], [255]]
  photo = np.uint8([[1, 2, 255]])
  assert levels(Input(), photo).tolist() == [[1, 2, 255]] and levels(Input(Reading(), (2, 0)), photo).tolist() == [
      [255, 1]]


@pytest.mark.parametrize('reading', [
    5, 'text', [1], {'bands': 5}, {'bands': [1]}, {'dtype': 'float64'}, {'dtype': []}, {'exif': None}, {'alpha': {}},
    {'value_range': [[0]]}, {'value_range': [[0, 'a']]}, {'value_range': [[float('nan'), 1]]}, {'value_range': 7},
    {'value_range': [[2, 1]]}, {'value_range': [[0, float('inf')]]}, {'new': 1}, {'bands': [[]]}])
def test_a_reading_of_other_types_is_refused(reading):
  with pytest.raises(UserError, match='^the reading .* of pictures was not written by this project$'):
    Reading.from_json(reading)


@pytest.mark.parametrize('bands', [5, 'ab', [0], [5], [1.5], [True], ['1'], [[1]], {'a': 1}, [10**400]])
def test_bands_of_a_config_that_the_pictures_have_not(bands):
  with pytest.raises(UserError, match='^the bands .* of a config.json: valid are numbers from 1 to 4$'):
    Input.from_config({'dataset': {'reading': FOUR.to_json()}, 'network': {'bands': bands}})


def test_a_run_from_before_there_were_bands():
  assert Input.from_config({'dataset': {'name': 'voc'}, 'network': {'name': 'unet'}}) == Input()
  config = {'dataset': {'reading': FOUR.to_json()}, 'network': {'bands': [4, 1]}}
  assert Input.from_config(config) == Input(FOUR, (3, 0)) and Input(FOUR, (3, 0)).numbers == [4, 1]
