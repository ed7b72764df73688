"""Frozen graphs: a serialized tf.GraphDef, from the tensor `images:0` to `labels:0` and `probabilities:0`."""


def write(job, path):
  """Writes a graph.Job as a frozen graph."""
  with open(path, 'wb') as file:
    file.write(job.graph_def.SerializeToString())
