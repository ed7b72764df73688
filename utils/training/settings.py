"""The settings of train.py."""

import dataclasses
import os

from datasets import DATASETS
from datasets.augmentation import Augmentation
from datasets.folds import HoldOutFlags
from datasets.hold_out import HELD_OUT, SPLITS
from datasets.readers.dataset_file import ReadingFlags
from nets import NETWORKS, get_network
from utils.cluster import Workers
from utils.errors import UserError
from utils.session import Device
from utils.settings import Settings, command_line, flag, group
from utils.training import losses
from utils.training.step import SCHEDULES

NEW_LAYERS_RATE = 10.0  # default of --new_layers_rate beside pretrained layers


@dataclasses.dataclass(frozen=True)
class Data(Settings):
  """The dataset and its folders."""
  dataset: str = flag('shapes', f'dataset: {", ".join(DATASETS)}, or the folder of a dataset of your own', path=True)
  data_dir: str | None = flag(
      None, 'folder with the TFRecords, or with the originals; default data/DATASET', may_change=True, path=True)
  source_dir: str | None = flag(
      None, 'folder with the originals, where it is not --data_dir', may_change=True, path=True)
  train_split: str = flag('train', 'split to train on, such as trainval of voc and camvid')
  skip_bad: bool = flag(False, 'leave out originals that cannot be used instead of failing', may_change=True)
  reading: ReadingFlags = group(ReadingFlags)
  held: HoldOutFlags = group(HoldOutFlags)


@dataclasses.dataclass(frozen=True)
class Model(Settings):
  """The network and the options that shape its graph."""
  net: str = flag('inception_v3', f'network: {", ".join(NETWORKS)}')
  skip: str | None = flag(None, 'finest skip of an FCN: 32s, 16s, 8s, 4s or 2s; default: 8s')
  decoder_channels: int = flag(0, 'features that an FCN fuses beside its class scores; 0: none', least=0)
  input_scale: float = flag(1.0, 'factor by which an FCN resizes images for its backbone', least=0.1, most=10)
  bands: tuple[str, ...] = flag(
      (), 'bands that the network sees, in this order: numbers from 1, or names; default: all')


@dataclasses.dataclass(frozen=True)
class Start(Settings):
  """The weights to start from; see utils/training/start.py."""
  checkpoint: str | None = flag(
      None, 'pretrained checkpoint, or "none"; default: the ImageNet weights, downloaded', may_change=True, path=True)
  checkpoint_exclude_scopes: tuple[str, ...] = flag((), 'scopes that are not restored from --checkpoint')
  init_from: str | None = flag(
      None, 'run, or a checkpoint in it, to start from: a coarser skip, or other settings', path=True)


@dataclasses.dataclass(frozen=True)
class Schedule(Settings):
  """The length of the run and the learning rate over it."""
  batch_size: int = flag(4, 'images per step, of all devices and machines together', least=1)
  gradient_accumulation: int = flag(1, 'parts in which a batch goes through the network, to save memory', least=1)
  max_steps: int = flag(4000, 'length of the run in steps', least=1, may_change=True)
  learning_rate: float = flag(1e-4, 'highest learning rate of pretrained layers; without them: of all layers', least=0)
  new_layers_rate: float | None = flag(
      None, 'factor on the learning rate of the new layers; default: 10 beside pretrained layers, else 1', least=0)
  schedule: str = flag('poly', 'learning rate over the run', choices=tuple(SCHEDULES))
  warmup_steps: int = flag(0, 'steps over which the learning rate rises from zero', least=0)


@dataclasses.dataclass(frozen=True)
class Optimizer(Settings):
  """The loss, its gradients, and the weights that they change."""
  adam_epsilon: float = flag(1e-8, "Adam's epsilon", least=0)
  weight_decay: float | None = flag(None, "weight of the L2 loss; default: the network's own", least=0)
  ema_decay: float = flag(
      0.0, 'decay of moving averages of the weights, which are then evaluated; 0: none', least=0, most=1)
  gradient_clip_norm: float = flag(10.0, 'greatest norm of all gradients together; 0: no limit', least=0)
  loss: str = flag('cross_entropy', f'{", ".join(losses.LOSSES)}, or several joined by +')
  class_weights: str = flag('none', 'weights of the classes in the loss', choices=('none', *losses.CLASS_WEIGHTS))
  dropout_keep_prob: float | None = flag(
      None, "share of features kept by dropout; default: the network's own", least=0.01, most=1)
  freeze_batch_norm: bool | None = flag(
      None, 'keep batch norm at its moving averages; default: yes with pretrained weights, no from scratch')
  train_offsets: bool = flag(True, 'train the gains and offsets of batch norms, frozen or not')
  batch_norm_decay: float = flag(0.99, "decay of batch norm's moving averages", least=0, most=1)
  trainable_scopes: tuple[str, ...] = flag(
      (), 'scopes to train, e.g. fcn for the new layers; * matches any name; default: all')


@dataclasses.dataclass(frozen=True)
class Bookkeeping(Settings):
  """Evaluation, checkpoints and logs, which do not change the training."""
  eval_split: str = flag('val', 'split to evaluate during training', may_change=True)
  eval_steps: int = flag(
      500, 'steps between evaluations, which keep the best checkpoint; 0: none', least=0, may_change=True)
  early_stop: int = flag(
      0, 'evaluations without a better mean IoU after which the run stops; 0: never', least=0, may_change=True)
  save_minutes: float = flag(5.0, 'minutes between checkpoints', least=0, may_change=True)
  keep_checkpoints: int = flag(3, 'number of latest checkpoints kept', least=1, may_change=True)
  log_steps: int = flag(20, 'steps between lines of the log', least=1, may_change=True)
  summary_steps: int = flag(100, 'steps between summaries for TensorBoard', least=1, may_change=True)
  summarize_gradients: bool = flag(
      False, 'histograms and norms of all weights and gradients in TensorBoard', may_change=True)
  threads: int = flag(0, 'CPU threads per operation; 0: one per core', least=0, most=4096, may_change=True)


@dataclasses.dataclass(frozen=True)
class TrainSettings(Settings):
  """The settings of train.py."""
  data: Data = group(Data)
  model: Model = group(Model)
  start: Start = group(Start)
  run_dir: str | None = flag(None, 'folder of the run; default runs/DATASET-NET[-SKIP]', may_change=True, path=True)
  seed: int = flag(0, 'random seed; makes a run repeatable', least=0)
  deterministic: bool = flag(
      False, 'compute sums in a fixed order where TensorFlow does not by itself, as on GPUs; slower', may_change=True)
  schedule: Schedule = group(Schedule)
  optimizer: Optimizer = group(Optimizer)
  device: Device = group(Device)
  workers: Workers = group(Workers)
  xla: str = flag('off', 'whether XLA compiles the training step: off, on, or auto, where it is measured to be faster',
                  choices=('off', 'on', 'auto'), may_change=True)
  augmentation: Augmentation = group(Augmentation)
  bookkeeping: Bookkeeping = group(Bookkeeping)

  def check(self):
    """Raises UserError if a setting is not valid, or does not fit the network or another setting."""
    super().check()
    network, model, schedule = get_network(self.model.net), self.model, self.schedule
    if model.skip and model.skip not in network.skips:
      raise UserError(f'--skip={model.skip}: {network.name} has {", ".join(network.skips) or "no skips to choose"}')
    for name in ('decoder_channels', 'input_scale'):
      value = getattr(model, name)
      if name not in network.options and value != getattr(Model, name):
        raise UserError(f'--{name}={value}: {network.name} has no such option')
    self.data.held.refuse_idle()
    if self.data.held.given and self.data.train_split not in SPLITS:
      raise UserError(f'--train_split={self.data.train_split}: images are held out of {" and ".join(SPLITS)} alone')
    losses.loss_functions(self.optimizer.loss)
    self._check_start(network)
    if self.bookkeeping.early_stop and not self.bookkeeping.eval_steps:
      raise UserError(f'--early_stop={self.bookkeeping.early_stop} counts evaluations, and --eval_steps=0 makes none')
    if schedule.batch_size % schedule.gradient_accumulation:
      raise UserError(f'--gradient_accumulation={schedule.gradient_accumulation} does not divide '
                      f'--batch_size={schedule.batch_size} into equal parts')

  def _check_start(self, network):
    """Raises UserError if pretrained weights are given that the network does not take, or left out where none are."""
    start = self.start
    if start.init_from is None and start.checkpoint not in (None, 'none') and not network.pretrained_scopes:
      raise UserError(f'--checkpoint={start.checkpoint}: {network.name} takes no pretrained weights; --init_from '
                      'starts from a run of it, and --checkpoint=none from scratch')
    if start.checkpoint_exclude_scopes and (
        start.init_from is not None or start.checkpoint == 'none' or not network.pretrained_scopes):
      raise UserError(f'--checkpoint_exclude_scopes={",".join(start.checkpoint_exclude_scopes)}: this run restores '
                      'nothing from a --checkpoint')

  @property
  def splits(self):
    """Tuple of the splits that the run reads, each once."""
    evaluated = (self.bookkeeping.eval_split,) if self.bookkeeping.eval_steps else ()
    return tuple(dict.fromkeys((self.data.train_split, *evaluated, *([HELD_OUT] if self.data.held.given else []))))

  @property
  def shape(self):
    """Keyword arguments of the network's `logits` that shape its graph; needs `resolved` settings."""
    return get_network(self.model.net).shape(dataclasses.asdict(self.model))

  @property
  def command(self):
    """The command that trains with these settings."""
    return f'python train.py {command_line(self)}'.strip()

  @property
  def _dataset_name(self):
    """--dataset without what makes no difference: 'photos/' is 'photos', but './voc' is another than 'voc'."""
    name = os.path.normpath(self.data.dataset)
    return os.path.join('.', name) if name in DATASETS and name != self.data.dataset else name

  def resolved(self, dataset, saved=None):
    """Fills in the settings whose defaults depend on the dataset, the network or the initial weights.

    Args:
      dataset: the Dataset.
      saved: dict, the flags of the resumed run, which replace the defaults; None for a new run.

    Returns:
      a TrainSettings.
    """
    network, saved = get_network(self.model.net), saved or {}
    pretrained = bool(network.pretrained_scopes) and (
        self.start.init_from is not None or self.start.checkpoint != 'none')

    def decided(given, name, default):
      return given if given is not None else saved.get(name, default)

    skip = self.model.skip or network.default_skip
    folder = '-'.join(filter(None, (f'runs/{dataset.name}', network.name, skip)))
    return dataclasses.replace(
        self,
        data=dataclasses.replace(self.data, dataset=self._dataset_name,
                                 data_dir=self.data.data_dir or f'data/{dataset.name}'),
        model=dataclasses.replace(self.model, skip=skip),
        run_dir=self.run_dir or folder,
        schedule=dataclasses.replace(self.schedule, new_layers_rate=decided(
            self.schedule.new_layers_rate, 'new_layers_rate', NEW_LAYERS_RATE if pretrained else 1.0)),
        optimizer=dataclasses.replace(
            self.optimizer,
            weight_decay=decided(self.optimizer.weight_decay, 'weight_decay', network.weight_decay),
            freeze_batch_norm=decided(self.optimizer.freeze_batch_norm, 'freeze_batch_norm',
                                      pretrained and network.pretrained_batch_norm)))
