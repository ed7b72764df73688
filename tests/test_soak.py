"""The soak: what it samples, how it judges, and a short one of inference and training."""

import dataclasses
import functools
import json

import forks
import numpy as np
import pytest
from fake_clock import FakeClock
from few_shapes import few_shapes
from PIL import Image
from test_scripts import FakeProcess

from utils.errors import UserError
from utils.studies import soak

SAMPLES = [soak.Sample(float(second), 500.0, 20, 8) for second in range(40)]


class Ended(FakeProcess):
  """A process that ends by its `code` when it is asked to."""

  def __init__(self, code, **options):
    super().__init__(**options)
    self._code = code

  def wait(self, seconds):
    self.events.append('wait')
    return self._code


def run(code, polls, output='ready\n'):
  clock = FakeClock()
  process = Ended(code, polls=polls, output=output)
  samples = soak.soaked(['train'], 3.0, 'ready', launch=process, clock=clock, sleep=clock.sleep,
                        held=lambda pid, seconds: soak.Sample(seconds, 1.0, 2, 3))
  return samples, process


@pytest.mark.fast
def test_samples_are_taken_from_the_first_result_until_the_time_is_over():
  samples, process = run(143, [None] * 50)
  assert [sample.seconds for sample in samples] == [0.25 * number for number in range(12)]
  assert process.events == ['terminate', 'wait', 'kill', 'exit']
  samples, _ = run(0, [None, None, 0])  # it had nothing left to do
  assert len(samples) == 2
  assert run(0, [None, None, 0], output='starts\n')[0] == []


@pytest.mark.fast
@pytest.mark.parametrize('code', [1, 2, -9, 'no end'])
def test_a_program_that_fails_is_said(code):
  with pytest.raises(UserError, match=f'^train ended with {code}: error: out of luck'):
    run(code, [None, None, code], output='ready\nerror: out of luck\n')


@pytest.mark.fast
@pytest.mark.parametrize('what, gained, error', [
    ('memory', 30.0, None), ('memory', 90.0, '45.0 MiB of memory within 39 s'), ('files', 4.0, None),
    ('files', 8.0, '4.0 files'), ('threads', 8.0, '4.0 threads'), ('memory', -900.0, None)])
def test_growth_is_judged(what, gained, error):
  """What is gained evenly over the whole time is gained by half from the second quarter to the last."""
  samples = [dataclasses.replace(sample, **{what: getattr(sample, what) + gained * number / 40})
             for number, sample in enumerate(SAMPLES)]
  rows, settings = [], soak.SoakSettings()
  if error is None:
    rows += soak.judged('training', samples, settings)
  else:
    with pytest.raises(UserError, match=f'^training gained {error}'):
      for row in soak.judged('training', samples, settings):
        rows.append(row)
  assert [row['case'] for row in rows] == ['memory', 'memory, gained', 'files', 'files, gained', 'threads',
                                           'threads, gained', 'time']


@pytest.mark.fast
def test_too_short_a_time_is_refused():
  with pytest.raises(UserError, match='too short to judge'):
    list(soak.judged('training', SAMPLES[:5], soak.SoakSettings()))


@pytest.mark.fast
def test_pictures_are_many_of_many_sizes(tmp_path):
  soak.make_pictures(str(tmp_path), 250, np.random.default_rng(0))
  paths = sorted(tmp_path.iterdir())
  sizes = {Image.open(path).size for path in paths}
  assert len(paths) == 250 and len(sizes) > 150 and max(map(max, sizes)) <= soak.SIDES[1]


def test_a_short_soak(tmp_path, monkeypatch):
  """Both programs in processes of their own, for some seconds; of so short a time no growth is judged."""
  monkeypatch.setattr(soak.scripts, 'SAMPLE_SECONDS', 0.1)
  monkeypatch.setattr(soak, 'soaked', functools.partial(soak.soaked, launch=forks.launch))
  output = tmp_path / 'soak.json'
  settings = soak.SoakSettings(minutes=0.03, pictures=200, net='segnet_basic', height=64, width=64, batch_size=2,
                               most_growth=1e6, most_handles=1000, output=str(output))
  with few_shapes(train=7, val=3):
    soak.work(settings)
  value = json.loads(output.read_text())
  assert set(value['parts']) == {'inference', 'training'}
  values = {(row['what'], row['case']): row['median'] for row in value['results']}
  assert values['inference', 'pictures labeled'] > 0 and values['training', 'threads'] > 1
  assert 1 < values['training', 'time'] < 60 and 1 < values['inference', 'time'] < 60
