"""Exports of annotation tools, read as they are: `--dataset=PATH` of such a folder needs no script in between.

A format is a module with `find(root)`, which tells cheaply whether a folder holds its files, and `read(root)`, which
gives the `record.Annotations`. A new format is such a module and a place in FORMATS.
"""

from datasets.readers.annotations import coco_json, cvat_masks, cvat_xml, label_studio, labelme, via, voc_folder
from utils.errors import UserError

# Modules, the most particular first.
FORMATS = (cvat_xml, cvat_masks, coco_json, label_studio, via, labelme, voc_folder)


def read(root):
  """Reads the export in a folder.

  Args:
    root: path of the folder.

  Returns:
    Annotations; None if the folder holds no known format.

  Raises:
    UserError: if the folder holds several formats, naming them; or naming file, place and value of a mistake.
  """
  found = [form for form in FORMATS if form.find(root)]
  if len(found) > 1:
    names = ' and '.join(form.NAME for form in found)
    raise UserError(f'--dataset={root} holds annotations of {names}; leave one of them in the folder')
  return found[0].read(root) if found else None


def known():
  """The names of all formats, for messages."""
  return ', '.join(form.NAME for form in FORMATS)
