"""Sessions for large graphs that are run a few times only."""

from utils.compat import tf


def quick_session():
  """A session that runs the default graph as it is: optimizing a large graph takes longer than running it."""
  config = tf.ConfigProto()
  config.graph_options.rewrite_options.disable_meta_optimizer = True
  return tf.Session(config=config)
