"""Killed programs end as those that were not killed: a seeded part of utils/studies/kills.py, and its own parts."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import forks
import numpy as np
import pytest

from utils.errors import UserError
from utils.studies import kill_jobs, kills

IN_A_PROCESS = ('import sys, tiny\nfrom utils.studies import kills\nwith tiny.registered():\n'
                '  sys.exit(kills.main([*sys.argv[1:], "--net=tiny"]))')


def counting(folder, *, last=5, spoiled=False):
  """Work that counts in a file to `last`, and goes on from there; `spoiled`: it writes how often it was started."""
  path = os.path.join(folder, 'count')
  done = int(pathlib.Path(path).read_text()) if os.path.exists(path) else 0
  starts = os.path.join(folder, 'starts')
  with open(starts, 'a') as file:
    file.write('x')
  while done < last:
    print(f'step {done + 1}/{last}', flush=True)
    time.sleep(0.02)
    done += 1
    with open(path + '.new', 'w') as file:
      file.write(str(done))
    os.replace(path + '.new', path)
  return 3 if spoiled and os.path.getsize(starts) > 1 else 0


def job(**options):
  return kill_jobs.Job('count', functools.partial(counting, **options), {
      'start': kill_jobs.Moment(lambda folder, text: True, None),
      'step': kill_jobs.Moment(lambda folder, text: 'step 2/' in text, 0.01),
  }, lambda folder: kill_jobs.digests(folder, '^count$'), lambda folder, text: text.count('step'))


@pytest.mark.fast
def test_a_round_kills_until_it_is_enough_and_compares(tmp_path):
  times = kills.finish(job(), str(tmp_path / 'reference'))
  assert 0 < times['start'] <= times['all']
  played = kills.play(job(), str(tmp_path / 'round'), str(tmp_path / 'reference'), times, 3, np.random.default_rng(1))
  assert 1 <= len(played['kills']) <= 3 and played['different'] == [] and len(played['lost']) == len(played['kills'])
  assert (tmp_path / 'round/count').read_text() == '5' and set(played['leftovers']) <= {'count.new'}


@pytest.mark.fast
def test_another_result_and_a_failure_are_said(tmp_path):
  times = kills.finish(job(last=6), str(tmp_path / 'reference'))
  rng = np.random.default_rng(0)
  (tmp_path / 'round').mkdir()
  (tmp_path / 'round/more').touch()
  played = kills.play(job(), str(tmp_path / 'round'), str(tmp_path / 'reference'), times, 0, rng)
  assert (played['kills'], played['different'], played['leftovers']) == ([], ['count'], ['more'])
  played = kills.play(job(spoiled=True), str(tmp_path / 'other'), str(tmp_path / 'reference'), times, 1, rng)
  assert played['different'] == ['code 3: step 5/5'] or played['kills'] == []
  with pytest.raises(UserError, match='count ended with code 3: step 9/9'):
    kills.finish(job(spoiled=True, last=9), str(tmp_path / 'round'))


@pytest.mark.fast
def test_a_process_that_stays_behind_is_counted_and_ended(tmp_path):
  def work(folder):
    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    print('there', flush=True)
    time.sleep(60)

  left = kill_jobs.Job('leaves one', work, {}, None)
  moment = kill_jobs.Moment(lambda folder, text: 'there' in text, 0)
  begin = time.monotonic()
  code, text, orphans = kill_jobs.live(left, str(tmp_path), moment, 0)
  assert (code, text, orphans) == (None, 'there\n', 1) and time.monotonic() - begin < 50


@pytest.mark.fast
def test_the_table_has_a_line_for_each_job():
  played = [{'kills': ['save', 'save', 'step'], 'lost': [0, 2, 1], 'orphans': 0, 'different': [], 'leftovers': []},
            {'kills': ['end'], 'lost': [3], 'orphans': 1, 'different': ['best/best.json'],
             'leftovers': ['a/.0123456789ab.tmp', 'a/.ba9876543210.tmp']}]
  found = kills.summary(played)
  assert found['moments'] == {'save': 2, 'step': 1, 'end': 1} and found['most_steps_lost'] == 3
  assert kills.table({'train': found}).splitlines()[2] == (
      '| train | 2 | 4 | save 2, step 1, end 1 | 1 of 2 | 1.5 (3) | a/.*.tmp (2); 1 processes |')


def test_a_killed_download_goes_on(tmp_path):
  content = np.random.default_rng(0).bytes(100_000)
  server, url, digest = kill_jobs.serve(content)
  try:
    download = kill_jobs.downloading(url, len(content), digest)
    times = kills.finish(download, str(tmp_path / 'reference'))
    played = kills.play(download, str(tmp_path / 'round'), str(tmp_path / 'reference'), times, 4,
                        np.random.default_rng(2))
  finally:
    os.kill(server, 9)
    os.waitpid(server, 0)
  assert played['different'] == played['leftovers'] == [] and played['kills']
  assert (tmp_path / 'round/downloads/file').read_bytes() == content


@pytest.mark.parametrize('arguments', [
    ('--what=train', '--trainings=plain', '--kills=4', '--seed=3'),
    ('--what=inference,convert', '--kills=3', '--seed=5'),
])
def test_killed_programs_end_as_those_that_were_not(arguments, tmp_path):
  """In a process of its own, since a fork takes no threads along."""
  done = forks.run('-c', IN_A_PROCESS, *arguments, f'--output={tmp_path}/kills.json', '--max_steps=8')
  assert done.returncode == 0, done.stdout + done.stderr
  found = json.loads((tmp_path / 'kills.json').read_text())
  assert found['kills'] == int(arguments[-2].rpartition('=')[2])
  for one in found['jobs'].values():
    assert one['equal'] == one['rounds'] and one['orphans'] == 0
  assert sorted(os.listdir(tmp_path)) == ['kills.json', 'kills.md']
