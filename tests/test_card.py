"""The model card and its metadata: every figure from a file, what is missing with its command; over odd runs."""

import json
import re
import shlex

import programs
import pytest

from checkpoints import card
from checkpoints.metadata import metadata
from datasets.readers.camvid import CAMVID
from utils.errors import UserError
from utils.evaluation.settings import EvaluateSettings
from utils.inference.settings import InferenceSettings
from utils.runs import Run
from utils.settings import parse

pytestmark = pytest.mark.fast

CLASSES = ('ground', 'cat|dog', 'a <b> `c`')
METRICS = {
    'step': 30, 'split': 'val', 'mean_iou': 0.4321, 'pixel_accuracy': 0.8771, 'mean_accuracy': 0.6543,
    'frequency_weighted_iou': 0.7, 'num_images': 17, 'precision': 'float32', 'samples': 0, 'test_flip': False,
    'test_scales': [1.0], 'class_iou': {'ground': 0.91, 'cat|dog': 0.1234, 'a <b> `c`': None},
    'class_accuracy': {'ground': 0.95, 'cat|dog': 0.2, 'a <b> `c`': None},
    'class_pixels': {'ground': 123456, 'cat|dog': 78, 'a <b> `c`': 0}, 'confusion_matrix': [[0] * 3] * 3}
DETAILS = {'boundary_f1': 0.3456, 'best': [{'name': 'x_1', 'mean_iou': 0.99}],
           'worst': [{'name': 'y', 'mean_iou': 0.05}],
           'calibration': {'expected_calibration_error': 0.0123, 'accuracy': 0.8771, 'confidence': 0.9}}


def make_run(folder, classes=CLASSES, flags=None, network=None, best=False, **config):
  """A Run with a config.json's content and no checkpoint, which neither metadata nor card look into."""
  folder.mkdir(exist_ok=True)
  dataset = {'name': 'photos', 'classes': list(classes), 'palette': [[0, 0, 0]] * len(classes),
             **config.pop('dataset', {})}
  return Run(folder=str(folder), checkpoint=str(folder / ('best' if best else '') / 'model.ckpt-30'), step=30, config={
      'flags': flags or {}, 'dataset': dataset, 'network': {'name': 'enet', 'skip': None, **(network or {})}, **config})


def put(folder, name='metrics-val.json', **changes):
  (folder / name).write_text(json.dumps({**METRICS, **changes}))


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'some_run').mkdir()
  return tmp_path / 'some_run'


def section(markdown, title):
  return re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', markdown, re.MULTILINE | re.DOTALL)[1]


def rows(markdown):
  """Cells of all lines of tables, by the first."""
  found = [re.split(r'(?<!\\)\|', line.strip('|')) for line in markdown.splitlines() if line.startswith('|')]
  return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in found}


def test_a_run_with_nothing_but_a_config(folder):
  """Of the oldest kind, without scores: nothing fails, all that is missing is said, with the command that makes it."""
  about = metadata(make_run(folder))
  assert (about['scores'], about['corruptions'], about['training']['command']) == ([], [], None)
  text = card.card(about, 'runs/some run')
  assert "python evaluate.py '--ckpt=runs/some run' --split=val --details" in section(text, 'Scores')
  for title in ('Boundaries and calibration', 'Corrupted images', 'Best and worst images'):
    assert "    python evaluate.py '--ckpt=runs/some run' --" in section(text, title), title
  assert 'not known; ask the authors' in section(text, 'Data and its license')
  assert 'It was not scored' in section(text, 'Limits')
  assert rows(section(text, 'Training'))['commit'] == ['not noted']
  assert 'None' not in text and 'nan' not in text


def test_every_command_is_one_that_the_programs_take(folder):
  run = make_run(folder, hold_out={'patterns': ['a'], 'group_by': '', 'groups': [], 'splits': ['train']})
  text = card.card(metadata(run), "runs/it's mine")
  commands = [shlex.split(line)[1:] for line in re.findall(r'python \w+\.py [^`\n]*', text)]
  assert len(commands) == 7
  for program, *words in commands:
    parse({'evaluate.py': EvaluateSettings, 'inference.py': InferenceSettings}[program], words)


def test_every_figure_is_from_a_file(folder):
  put(folder, details=DETAILS)
  about = metadata(make_run(folder, commit='c0ffee+', command="python train.py '--x=a b'",
                            started='2026-11-27 10:00 UTC', device='device: CPU, 2 cores; precision float32',
                            versions={'python': '3.11'},
                            flags={'checkpoint': 'none', 'crop_size': [64, 96], 'scale_range': [0.5, 1.5]}))
  assert json.loads(json.dumps(about)) == about
  text = card.card(about, 'runs/x')
  assert rows(section(text, 'Scores'))['val'] == [
      '17', '43.2', '87.7', '65.4', '70.0', 'float32', 'metrics-val.json']
  assert rows(section(text, 'Scores'))['cat\\|dog'] == ['12.3', '20.0', '78']
  assert rows(section(text, 'Boundaries and calibration'))['val'] == [
      '34.6', '1.23', '90.0', '87.7', 'metrics-val.json']
  assert 'y (5.0)' in section(text, 'Best and worst images')
  limits = section(text, 'Limits')
  assert 'IoU below 50 % on val: cat\\|dog 12.3.' in limits and 'a &lt;b> \\`c\\`' in limits
  assert '2.3 points higher' in limits  # 0.9 - 0.8771
  assert 'crops of 64x96 pixels (height, width) from images at 0.5 to 1.5 times' in limits
  training = rows(section(text, 'Training'))
  assert training['on'] == ['CPU, 2 cores; precision float32'] and training['commit'] == ['c0ffee+']
  assert training['started from'] == ['random weights'] and "python train.py '--x=a b'" in text
  figures = set(re.findall(r'\d+\.\d+', re.sub(r'3\.11|2026-.*UTC', '', text)))
  assert figures == {'43.2', '87.7', '65.4', '70.0', '91.0', '95.0', '12.3', '20.0', '34.6', '1.23', '90.0', '99.0',
                     '5.0', '2.3', '0.5', '1.5'}


def test_scores_of_other_weights_are_left_out(folder):
  put(folder, step=20)
  put(folder, 'metrics-test.json', split='test', mean_iou=0.5)
  (folder / 'metrics-mine.json').write_text('{"a": 1}')
  about = metadata(make_run(folder))
  assert [score['split'] for score in about['scores']] == ['test']
  assert about['left_out'] == ['metrics-mine.json was not written by evaluate.py',
                               'metrics-val.json is of step 20, and these weights are of step 30']
  assert '43.2' not in card.card(about, 'x') and 'Left out: metrics-val.json is of step 20' in card.card(about, 'x')
  (folder / 'metrics-mine.json').write_text('{"a": ')
  with pytest.raises(UserError, match='metrics-mine.json is not valid JSON'):
    metadata(make_run(folder))


def test_the_order_of_scores(folder):
  """The network alone first, then by how much a split says of images never seen."""
  for split in ('val', 'held_out', 'extra'):
    put(folder, f'metrics-{split}.json', split=split)
  put(folder, 'metrics-held_out-flip.json', split='held_out', test_flip=True, test_scales=[0.75, 1], samples=4,
      crf={'a': 1}, precision='bfloat16', temperature=1.25)
  about = metadata(make_run(folder))
  assert [score['file'][8:-5] for score in about['scores']] == ['held_out', 'val', 'extra', 'held_out-flip']
  text = section(card.card(about, 'x'), 'Scores')
  assert 'bfloat16, mirrored too, scales 0.75, 1, 4 passes with dropout, temperature 1.25, dense CRF' in text
  assert 'By class, on held_out (metrics-held_out.json)' in text


def test_a_metrics_file_of_an_earlier_version_says_no_split(folder):
  value = {key: value for key, value in METRICS.items() if key != 'split'}
  (folder / 'metrics-val_clone-flip.json').write_text(json.dumps(value))
  assert metadata(make_run(folder))['scores'][0]['split'] == 'val_clone'


def test_corruptions(folder):
  """As evaluate.py --corruptions writes them; of a run of it that was stopped, those that it has."""
  scores = {'fog': {'1': {'mean_iou': 0.4, 'class_iou': {}}, '3': {'mean_iou': 0.222}},
            'snow': {'1': {'mean_iou': 0.1}}}
  put(folder, 'metrics-val-corruptions.json', corruptions=scores, mpc=0.205, rpc=0.47)
  text = section(card.card(metadata(make_run(folder)), 'x'), 'Corrupted images')
  assert '43.2 on clean images, 20.5 as the mean of all corruptions (metrics-val-corruptions.json)' in text
  assert rows(text) == {'corruption': ['1', '3'], '---': ['---', '---'], 'fog': ['40.0', '22.2'], 'snow': ['10.0', '-']}
  put(folder, 'metrics-val-corruptions.json', corruptions={})
  assert ' - as the mean of all corruptions' in card.card(metadata(make_run(folder)), 'x')
  assert metadata(make_run(folder))['scores'] == []


def test_groups_that_were_held_out(folder):
  run = make_run(folder, hold_out={'patterns': ['0006R0*'], 'group_by': '', 'groups': [], 'splits': ['train']})
  assert ('0006R0\\* were held out of the training and are not scored yet: `python evaluate.py --ckpt=x '
          '--split=held_out`') in card.card(metadata(run), 'x')
  put(folder, 'metrics-held_out.json', split='held_out', mean_iou=0.31)
  assert '0006R0\\* were held out of the training: mean IoU 31.0 % there.' in card.card(metadata(run), 'x')
  assert 'No group of images' in card.card(metadata(make_run(folder)), 'x')


def test_scores_of_other_groups_are_not_those_of_the_groups_held_out(folder):
  """evaluate.py --hold_out names groups that the training may have seen: their score says less than that of val."""
  held, others = ({'patterns': [pattern], 'group_by': '', 'groups': [], 'splits': ['train']} for pattern in 'ab')
  put(folder, 'metrics-held_out-of_b.json', split='held_out', mean_iou=0.97, hold_out=others)
  put(folder, 'metrics-val-flip.json', test_flip=True)
  about = metadata(make_run(folder, hold_out={**held, 'images': 7}))
  assert [score['split'] for score in about['scores']] == ['val', 'held_out']
  assert 'a were held out of the training and are not scored yet' in card.card(about, 'x')
  put(folder, 'metrics-held_out-of_a.json', split='held_out', mean_iou=0.31, hold_out=held)
  about = metadata(make_run(folder, hold_out={**held, 'images': 7}))
  assert [score['file'][8:-5] for score in about['scores']] == ['held_out-of_a', 'val-flip', 'held_out-of_b']
  assert 'a were held out of the training: mean IoU 31.0 % there.' in card.card(about, 'x')
  assert metadata(make_run(folder))['scores'][0]['split'] == 'val'


def test_bands(folder):
  reading = {'bands': ['nir', 'red', 'green', 'swir'], 'dtype': 'uint16', 'value_range': [[100, 4000]]}
  run = make_run(folder, dataset={'reading': reading}, network={'bands': [4, 1]})
  about = metadata(run)
  assert about['input'] == {'bands': ['swir', 'nir'], 'stored_bands': ['nir', 'red', 'green', 'swir'],
                            'dtype': 'uint16', 'value_range': [[100, 4000]], 'exif': 'turn', 'alpha': 'auto'}
  assert ('images of 4 bands (nir, red, green, swir) of uint16, of which the network sees swir, nir; values 100 to '
          '4000 become black and white') in card.card(about, 'x')
  assert '--corruptions' not in card.card(about, 'x') and 'corruptions are of photographs' in card.card(about, 'x')


def test_a_published_dataset_is_known_by_name_and_classes(folder):
  about = metadata(make_run(folder, CAMVID.classes, dataset={'name': 'camvid', 'label_values': list(range(1, 12))}))
  assert about['dataset']['license'] == CAMVID.license and CAMVID.caution in card.card(about, 'x')
  assert 'label PNGs have the values of the original labels: sky 1, building 2' in card.card(about, 'x')
  about = metadata(make_run(folder, ('sky', 'not sky'), dataset={'name': 'camvid'}))
  assert about['dataset']['license'] is None and about['dataset']['caution'] == ''


@pytest.mark.parametrize('flags, network, start', [
    ({'checkpoint': None}, 'inception_v3', 'Inception v3 of TF-Slim, trained on ImageNet'),
    ({'checkpoint': None}, 'enet', 'random weights'),
    ({'checkpoint': '/home/me/vgg_16.ckpt'}, 'vgg_16', 'the checkpoint vgg_16.ckpt'),
    ({'checkpoint': None, 'init_from': 'runs/voc-32s/'}, 'vgg_16', 'the run voc-32s'),
    ({}, 'enet', 'not noted'),
])
def test_where_the_weights_started(folder, flags, network, start):
  text = card.card(metadata(make_run(folder, flags=flags, network={'name': network})), 'x')
  assert rows(section(text, 'Training'))['started from'][0].startswith(start)


def test_weights_chosen_on_a_split_flatter_it(folder):
  (folder / 'best').mkdir()
  (folder / 'best/best.json').write_text('{"split": "val", "mean_iou": 0.43, "step": 30}')
  assert 'scored best on val' in card.card(metadata(make_run(folder, best=True)), 'x')
  assert 'scored best on val' not in card.card(metadata(make_run(folder)), 'x')


def test_warnings_about_the_data_are_limits(folder):
  run = make_run(folder, dataset={'warnings': ['3 images in both train and val'], 'images': {'train': 9, 'val': 4}})
  text = card.card(metadata(run), 'x')
  assert '- The data: 3 images in both train and val.' in text
  assert rows(section(text, 'Training'))['images'] == ['9 of train, 4 of val']


def test_pictures_of_the_scores_alone(folder):
  put(folder, details=DETAILS)
  for name in ('worst-val.png', 'worst-test.png', 'examples-val.png'):
    (folder / name).touch()
  about = metadata(make_run(folder))
  assert card.pictures_of(about, str(folder)) == ['worst-val.png', 'examples-val.png']
  assert '![The worst images](worst-val.png)' in card.card(about, 'x', ['worst-val.png'])
  assert '](worst-held_out-of_a%252A.png)' in card.card(about, 'x', ['worst-held_out-of_a%2A.png'])


def test_a_share_that_is_not_one_is_never_rounded_to_it():
  weights = {'variables': 1, 'parameters': 2, 'type': 'float16', 'not_compared': None}
  compared = {'images': 3, 'split': 'val', 'pixels': 10**9, 'equal': 10**9}
  assert ': 100 % of' in card.compared_line({**weights, 'compared': compared})
  assert ': 99.9999 % of 1,000,000,000' in card.compared_line({**weights, 'compared': {**compared, 'equal': 10**9 - 1}})
  assert ': 50.0000 % of' in card.compared_line({**weights, 'compared': {**compared, 'equal': 10**9 // 2}})


def test_a_folder_that_is_no_run_is_refused(folder):
  programs.assert_refused(programs.run(card.main, f'--ckpt={folder}'), str(folder), 'no checkpoint')
