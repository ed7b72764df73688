"""Fetches pretrained weights before they are needed, e.g. on a machine that has a network.

    python -m checkpoints.fetch --net=inception_v3
"""

from absl import flags

from checkpoints import PRETRAINED, pretrained_checkpoint
from utils import errors

FLAGS = flags.FLAGS
flags.DEFINE_string('net', 'inception_v3', f'Which weights to fetch: {", ".join(PRETRAINED)}.')
flags.DEFINE_string('dir', 'checkpoints', 'Folder to put them into.')


def main(argv):
  """Fetches the weights and says what and where they are."""
  if argv[1:]:
    raise errors.UserError(f'unexpected arguments: {" ".join(argv[1:])}')
  path = pretrained_checkpoint(FLAGS.net, FLAGS.dir)
  print(f'{path}: {PRETRAINED[FLAGS.net].note}')


if __name__ == '__main__':
  errors.run(main)
