"""Pictures that tests write."""

from PIL import Image


def save(path, pixels, mode=None, **options):
  """Saves an array as a picture, converted to Pillow's `mode`, with options of its `save`; returns the path as text."""
  image = Image.fromarray(pixels)
  (image.convert(mode) if mode else image).save(path, **options)
  return str(path)
