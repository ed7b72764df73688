"""What scores a trained network starts from: a split that fits it, with images and labels at native size."""

from datasets import pipeline, records
from utils.compat import tf
from utils.errors import UserError


def check_dataset(run, data_dir, split):
  """Returns the number of images in the split. Raises UserError if its classes are not the run's."""
  stats = records.read_stats(data_dir, split)
  classes = tuple(stats['class_names'])
  if len(classes) != len(run.classes):
    raise UserError(f'{data_dir} has {len(classes)} classes and {run.folder} was trained on {len(run.classes)}')
  for index, (here, there) in enumerate(zip(classes, run.classes)):
    if here != there:
      raise UserError(f'class {index} is {here!r} in {data_dir} and {there!r} in {run.folder}')
  return stats['num_examples']


def read(data_dir, split):
  """Yields (name, image uint8 [H, W, 3], truth int32 [H, W]) of every record of the split, at native size.

  Raises:
    UserError: that names the file and the record if one is broken.
  """
  with tf.Graph().as_default(), tf.device('/cpu:0'), tf.Session(config=tf.ConfigProto(
      device_count={'GPU': 0}, use_per_session_threads=True)) as session:
    batch = tf.data.make_one_shot_iterator(pipeline.evaluation_batches(data_dir, split)).get_next()
    fetches = [batch['name'][0], tf.cast(batch['image'][0], tf.uint8), batch['label'][0]]
    while True:
      try:
        name, image, truth = session.run(fetches)
      except tf.errors.OutOfRangeError:
        return
      except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        records.verify(records.shard_paths(data_dir, split))  # names the record
        raise UserError(f'{data_dir}: {error.message.splitlines()[0]}') from error
      yield name.decode(), image, truth
