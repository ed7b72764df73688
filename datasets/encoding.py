"""An image and its label, verified together and encoded as they are stored."""

import dataclasses

import numpy as np
from PIL import Image

from datasets import images, label_pictures, sanity
from datasets.dataset import BadFile
from datasets.reading import Reading


@dataclasses.dataclass(frozen=True)
class Pair:
  """A verified image and label, ready to be stored.

  Attributes:
    name: the source's name.
    picture: the image, a Picture.
    label: bytes of an 8-bit grayscale PNG of label ids.
    counts: int64 [256], number of pixels of each id.
    look: the sanity.Look of image and label; None for a Pair made by hand.
  """
  name: str
  picture: images.Picture
  label: bytes
  counts: np.ndarray
  look: sanity.Look | None = None


def encode_pair(source, label_map, *, read_raw=None, generate=None, reading=Reading()):  # noqa: B008, it is frozen
  """Decodes, verifies and encodes one image and its label.

  Args:
    source: a `Source`.
    label_map: the dataset's `label_map`.
    read_raw: the dataset's `read_label`; None for label pictures.
    generate: the dataset's `generate`, or None.
    reading: the dataset's `reading`.

  Returns:
    a Pair; or a list of BadFile, returned and not raised so that the other files are still verified.
  """
  image, label = generate(source) if generate else (source.image, source.label)
  label_path = source.name if isinstance(label, np.ndarray) else label
  bad, raw, picture = [], None, None
  try:
    raw = label if isinstance(label, np.ndarray) else (read_raw or label_pictures.read_label)(label)
    ids = label_pictures.to_ids(raw, label_map, label_path)
  except BadFile as error:
    bad.append(error)
  try:
    picture = images.encode_image(image, reading)
  except BadFile as error:
    bad.append(error)
  if raw is not None and picture is not None and (picture.height, picture.width) != raw.shape:
    bad.append(BadFile(label_path, f'is {raw.shape[1]}x{raw.shape[0]} pixels, but its image is '
                                   f'{picture.width}x{picture.height}'))
  if bad:
    return bad
  counts = np.array(Image.fromarray(ids).histogram(), np.int64)  # faster than np.bincount
  label = images.encode_png(ids)
  return Pair(source.name, dataclasses.replace(picture, pixels=None), label, counts,
              sanity.look(picture.pixels, ids, label, reading.stored_limits))
