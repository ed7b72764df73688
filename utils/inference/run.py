"""Labels photographs with a trained network: the work of inference.py."""

import collections
import dataclasses
import functools
import math
import os
import sys

from datasets import submission, windows
from datasets.images import BadFile, read_image
from datasets.reading import Reading
from utils.errors import UserError, listed, shown
from utils.files import ends_all, identity, make_folder
from utils.inference import files, large, ledgers, rank, results, video
from utils.inference.stream import Failed, Wanted, labelled
from utils.progress import Progress
from utils.runs import load_run


def label(settings):
  """Labels photographs and writes the results.

  Args:
    settings: an InferenceSettings.

  Returns:
    the exit code: 1 if an input could not be used.

  Raises:
    UserError: if the run or all inputs cannot be used, or the disk is full.
  """
  run = with_reading(load_run(settings.ckpt), settings.pictures.told)
  server = (submission.dataset_with_server(run.config['dataset']['name'], run.classes) if settings.submission
            else None)
  numbering = results.numbering(run, settings.label_values)
  found, failures, left_out = files.find(given(settings), settings.output_dir)
  report_left_out(left_out)
  if left_out and not found and not failures:
    raise UserError('no image is left to label')
  report(failures)
  reading = Reading.from_json(run.config['dataset']['reading'])
  found = files.one_a_picture(found, reading.bands)
  inputs, refused = files.by_size(files.only_listed(found, settings.list_), max_pixels=settings.max_input_pixels,
                                  window_pixels=None if settings.needs_whole else settings.window_pixels,
                                  reading=reading)
  failures += report(refused)
  make_folder(settings.output_dir)
  if settings.ranking.rank:
    with windows.pixel_limit(settings.max_input_pixels):
      text, failed = rank.rank(inputs, found, run, settings, functools.partial(read, reading=reading))
    return ended(text, failures + report(failed))
  folder = submission.label_folder(server, settings.output_dir) if server else settings.output_dir
  output = results.Output(settings, run, server, ledgers.Ledger(settings.output_dir), numbering,
                          files.output_names(inputs, folder, flat=server is not None,
                                              frames=settings.video_labels == 'frames'))
  inputs, blocked = writable(inputs, found, output)
  failures += blocked
  failed, sizes, rate = label_all(inputs, output)
  failures += failed
  if ended(summary(sizes, rate, failures, output), failures, '; no archive is written' if server else ''):
    return 1
  if server:
    sizes = {os.path.basename(target): size for target, size in sizes.items()}
    archive = submission.pack(server, settings.output_dir, sizes, output.ledger.replacing)
    print(f'{shown(archive)}: {len(sizes)} label PNGs for {server.submission.url}')
  return 0


def with_reading(run, told):
  """The run whose config.json has the Reading that flags change: dict `told` of its attributes."""
  dataset = run.config['dataset']
  reading = dataclasses.replace(Reading.from_json(dataset.get('reading')), **told)
  return dataclasses.replace(run, config={**run.config, 'dataset': {**dataset, 'reading': reading.to_json()}})


def ended(text, failures, lost=''):
  """Prints a line at the end, and another about inputs that were skipped; returns the exit code."""
  print(text)
  if not failures:
    return 0
  names = listed((shown(failure.key) for failure in failures), most=10)
  print(f'error: {len(failures)} inputs skipped: {names}{lost}', file=sys.stderr)
  return 1


def given(settings):
  """List of all images, folders and globs given. Raises UserError if there is none."""
  places = [*settings.images, *files.split_at_commas(settings.input)]
  if not places:
    raise UserError('no images given; name files, folders or globs after the flags')
  return places


def writable(inputs, found, output):
  """Sorts out inputs whose results cannot be written, before anything is computed.

  Args:
    inputs: list of files.Input.
    found: list of all files.Input given, none of which may be overwritten.
    output: a results.Output.

  Returns:
    `(inputs, failures)`: those that can, and a list of Failed.

  Raises:
    UserError: if the archive of a submission cannot be written.
  """
  protected = {identity(item.path) for item in found} - {None}
  check = functools.partial(files.obstacle, inputs=protected, ledger=output.ledger, overwrite=output.settings.overwrite)
  if output.server:
    reason = check([submission.archive_path(output.server, output.settings.output_dir)])
    if reason:
      raise UserError(f'--submission: {reason[0]}')
  obstacles = {item: check(output.paths(item).values()) for item in inputs}
  failures = [Failed(item.path, *reason) for item, reason in obstacles.items() if reason]
  report(failures)
  return [item for item, reason in obstacles.items() if not reason], failures


def label_all(inputs, output):
  """Labels inputs of every kind and writes the results.

  Args:
    inputs: list of files.Input.
    output: a results.Output.

  Returns:
    `(failures, sizes, rate)`: list of Failed, dict from the outputs' path without suffix of each labeled input to its
    (height, width), None for large images and videos, and photographs a second.
  """
  if not inputs:
    return [], {}, 0.0
  reading = Reading.from_json(output.run.config['dataset']['reading'])
  kinds = {kind: [item for item in inputs if item.kind == kind] for kind in (files.PHOTO, files.LARGE, files.VIDEO)}
  count = math.inf if kinds[files.VIDEO] else len(inputs)
  with output.settings.labelling.open_predictor(output.run, count, files.sizes(inputs, reading)) as predictor:
    with windows.pixel_limit(output.settings.max_input_pixels):
      failures, sizes, rate = label_photos(kinds[files.PHOTO], output, predictor, reading)
    for item in kinds[files.LARGE] + kinds[files.VIDEO]:
      work = large.label_large if item.kind == files.LARGE else video.label_video
      failed = attempt(item, functools.partial(work, item, output, predictor, reading))
      if failed:
        failures += report([failed])
      else:
        sizes[output.targets[item]] = None  # only a submission, of photographs, asks for sizes
  return failures, sizes, rate


def label_photos(inputs, output, predictor, reading):
  """Labels photographs and writes the results. Result: as `label_all`."""
  settings, failures, sizes = output.settings, [], {}
  if not inputs:
    return failures, sizes, 0.0
  wanted = Wanted(measure=settings.uncertainty if settings.labelling.samples else None,
                  store=functools.partial(results.probabilities_file, output) if settings.probabilities else None)
  with Progress(len(inputs), 'images') as progress:
    for item in labelled(read(inputs, reading), predictor, crf=settings.labelling.refinement, tiles=settings.tiles,
                         batch_size=settings.batch_size, wanted=wanted, num_workers=settings.labelling.num_workers):
      failed = (Failed(item.key.path, item.reason, item.cause) if isinstance(item, Failed)
                else attempt(item.key, lambda item=item: results.write(item, output)))
      if failed:
        failures += report([failed])
      else:
        sizes[output.targets[item.key]] = item.label.shape
      progress.update()
  return failures, sizes, progress.rate


def read(inputs, reading):
  """Yields (item, image as of `datasets.images.read_image`) of each photograph, or a Failed if it cannot be decoded.

  Args:
    inputs: list of files.Input.
    reading: the Reading of the run's images, or as flags say.
  """
  for item in inputs:
    try:
      yield item, read_image(item.path, reading)
    except UserError as error:
      yield Failed(item, in_own_flags(error.reason), 'unreadable')


def in_own_flags(reason):
  """The reason why a picture cannot be read, with this program's flags: here --alpha is that of the overlay."""
  return reason.replace('--alpha=', '--image_alpha=')


def attempt(item, work):
  """Labels an input or writes its results.

  Args:
    item: a files.Input.
    work: function of no arguments; it returns a Failed, or anything else.

  Returns:
    a Failed, also if the input cannot be used or its files alone cannot be written; else None.

  Raises:
    UserError: if no file can be written any more.
  """
  try:
    result = work()
  except BadFile as error:
    return Failed(item.path, in_own_flags(error.reason), 'unreadable')
  except UserError as error:
    if ends_all(error):
      raise
    return Failed(item.path, str(error), 'cannot be written')
  return result if isinstance(result, Failed) else None


def report(failures):
  """Prints which inputs cannot be used, and why, each on a line, files of an optional format together; returns them."""
  groups = collections.defaultdict(list)
  for failure in failures:
    groups[failure.cause if failure.cause in files.OPTIONAL else failure.key].append(failure)
  for name, group in groups.items():
    names = listed((shown(failure.key) for failure in group), most=3)
    if name in files.OPTIONAL:
      names = f'{len(group)} {name} file{"s" if len(group) > 1 else ""} ({names})'
    print(f'\nskipped {names}: {group[0].reason}', file=sys.stderr)
  return failures


def report_left_out(left_out):
  """Prints in a line how many files of which kinds are not looked at."""
  groups = collections.defaultdict(list)
  for item in left_out:
    groups[item.what].append(shown(item.path))
  if groups:
    kinds = (f'{len(paths)} {what} ({listed(paths, most=2)})' for what, paths in sorted(groups.items()))
    print(f'left out: {", ".join(kinds)}', file=sys.stderr)


def summary(sizes, rate, failures, output):
  """The line at the end: '7 images labeled by RUN (step 400), 3.1/s, 2 skipped (2 unreadable); pictures in FOLDER'."""
  videos = sum(item.kind == files.VIDEO for item, target in output.targets.items() if target in sizes)
  count = f'{len(sizes) - videos} images' + (f' and {videos} video{"s" * (videos > 1)}' if videos else '')
  parts = [f'{count} labeled by {output.run.named}']
  if rate:
    parts.append(f'{rate:.1f}/s')
  if failures:
    causes = collections.Counter(failure.cause for failure in failures).items()
    parts.append(f'{len(failures)} skipped ({", ".join(f"{number} {cause}" for cause, number in causes)})')
  values = None if output.server else results.described(output.numbering, output.run.classes)
  end = f'; {values}' if values and 'label' in output.settings.outputs else ''
  return f'{", ".join(parts)}; pictures in {shown(output.settings.output_dir)}{end}'
