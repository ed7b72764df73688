// The page: takes a photo, has it labeled by the engine (of a server, or in this browser), and shows the result.

import {takePhoto} from './camera.js';
import * as engine from './engine.js';
import {cssColor, Legend} from './legend.js';
import {counts, draw, fitted, openPhoto, overlayOf, paint} from './picture.js';
import {labelPng} from './png.js';
import {Pointer} from './pointer.js';

const SHOWN = 2048;  // longer side, in pixels, of the photo as it is drawn on the screen
const CHIPS = 24;  // classes that are named before there is a photo
const SECONDS = 3;  // after which the seconds that have passed are said

const $ = (id) => document.getElementById(id);
const pointer = new Pointer($('picture'), $('cross'), $('tip'), $('spoken'));
const legend = new Legend($('legend'), $('all'), $('absent'), (alphas) => state.result && paint(
  $('labels'), state.result, state.model.classes, alphas));
const state = {model: null, photo: null, result: null, again: null, work: null};

// Does work that takes time: says what is done, and what went wrong. `again` is what "Try again" does.
async function busy(work, again) {
  state.work?.abort();
  const own = state.work = new AbortController();
  const start = performance.now();
  let text = '';
  const say = () => {
    if (state.work !== own) return;
    const seconds = Math.floor((performance.now() - start) / 1000);
    $('status').textContent = `${text} …${seconds >= SECONDS ? ` ${seconds} s` : ''}`;
  };
  const report = (what, share = null) => {
    if (state.work !== own) return;
    text = what;
    $('progress').hidden = share === null;
    if (share !== null) $('progress').value = share;
    say();
  };
  $('error').hidden = true;
  $('working').hidden = false;
  const clock = setInterval(say, 1000);
  try {
    await work(report, own.signal);
    if (state.work === own) $('status').textContent = '';
  } catch (error) {
    if (state.work === own && error.name !== 'AbortError') failed(error, again);
  } finally {
    clearInterval(clock);
    if (state.work === own) {
      $('working').hidden = $('cancel').hidden = $('scan').hidden = true;
      state.work = null;
    }
  }
}

function failed(error, again) {
  console.error(error);
  $('error').firstElementChild.textContent = error.message;
  $('error').hidden = false;
  $('again').hidden = !again;
  state.again = again;
}

// Shows a photo and labels it.
function take(file, name) {
  if (!file) return;
  busy(async (report, signal) => {
    report('Opening the photo');
    const photo = await openPhoto(file, name);
    if (signal.aborted) return;
    state.photo?.bitmap.close();
    Object.assign(state, {photo, result: null});
    present(photo);
    await labeled(report, signal);
  }, () => take(file, name));
}

const relabel = () => busy(labeled, relabel);

async function labeled(report, signal) {
  const {photo} = state;
  $('scan').hidden = $('cancel').hidden = false;
  if (!state.model) await load(report);
  const start = performance.now();
  const result = await engine.label(photo, Number($('size').value), report, signal);
  if (signal.aborted) return;
  state.result = result;
  const [width, height] = [result.width, result.height];
  const scaled = width === photo.width && height === photo.height ? ''
    : `, scaled from ${photo.width} × ${photo.height}`;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  $('labeled').textContent = `${width} × ${height} pixels${scaled}, in ${seconds} s.`;
  $('classes').inert = $('save').inert = false;
  legend.show(state.model.classes, counts(result, state.model.classes.length));
  pointer.show(result, state.model.classes);
  const names = [...$('legend').querySelectorAll('.name')].slice(0, 3).map((item) => item.textContent);
  $('spoken').textContent = `Labeled. Most of the photo is ${names.join(', ')}.`;
}

function present(photo) {
  const [width, height] = fitted(photo.width, photo.height, SHOWN);
  draw(photo, $('photo'), width, height);
  Object.assign($('labels'), {width: 1, height: 1});
  $('picture').style.setProperty('--ratio', photo.width / photo.height);
  $('picture').setAttribute('aria-label', `${photo.name}, ${photo.width} by ${photo.height} pixels`);
  pointer.show(null, []);
  $('start').hidden = true;
  $('view').hidden = $('result').hidden = false;
  $('labeled').textContent = '';
  $('classes').inert = $('save').inert = true;  // and unseen, in their places
}

async function load(report) {
  const model = await engine.load(report);
  state.model = model;
  const step = model.step === undefined ? '' : `, step ${model.step}`;
  const trained = model.dataset && `trained on ${model.dataset}${step}`;
  const parts = [`${model.classes.length} classes`, model.network, trained];
  $('model').textContent = parts.filter(Boolean).join(' · ');
  const chips = model.classes.slice(0, CHIPS).map((found) => {
    const chip = Object.assign(document.createElement('li'), {textContent: found.name});
    const swatch = Object.assign(document.createElement('i'), {className: 'swatch'});
    swatch.style.background = cssColor(found);
    chip.prepend(swatch);
    return chip;
  });
  const more = model.classes.length - chips.length;
  if (more) chips.push(Object.assign(document.createElement('li'), {textContent: `and ${more} more`}));
  $('known').replaceChildren(...chips);
}

function save(blob, ending) {
  const link = Object.assign(document.createElement('a'), {
    href: URL.createObjectURL(blob), download: `${state.photo.name.replace(/\.[^.]*$/, '')}_${ending}.png`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function opacity() {
  const value = Number($('opacity').value);
  $('percent').textContent = `${value} %`;
  $('picture').style.setProperty('--opacity', value / 100);
  return value / 100;
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    failed(error, null);
  }
}

for (const button of document.querySelectorAll('[data-action=choose]')) {
  button.addEventListener('click', () => $('file').click());
}
for (const button of document.querySelectorAll('[data-action=camera]')) {
  button.addEventListener('click', () => guarded(async () => take(
    await takePhoto($('camera'), $('video'), $('shoot'), $('no-shot'), $('capture')), 'camera.png')));
}
for (const input of [$('file'), $('capture')]) {
  input.addEventListener('change', () => {
    const [file] = input.files;
    if (file) take(file, file.name);
    input.value = '';  // so that the same file can be chosen again
  });
}

let depth = 0;  // of the elements that something is dragged over
const isFile = (event) => [...event.dataTransfer?.types ?? []].includes('Files');
const dragging = (change) => (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  depth = change ? depth + change : 0;
  document.body.classList.toggle('dragging', depth > 0);
};
addEventListener('dragenter', dragging(1));
addEventListener('dragleave', dragging(-1));
addEventListener('dragover', (event) => isFile(event) && event.preventDefault());
addEventListener('drop', (event) => {
  dragging(0)(event);
  const [file] = event.dataTransfer?.files ?? [];
  if (file) take(file, file.name);
});
addEventListener('paste', (event) => {
  const file = [...event.clipboardData?.files ?? []].find(({type}) => type.startsWith('image/'));
  if (file) take(file, file.name);
});

$('opacity').addEventListener('input', opacity);
$('size').addEventListener('change', () => state.photo && relabel());
$('cancel').addEventListener('click', () => {
  state.work?.abort();
  state.work = null;
  $('working').hidden = $('scan').hidden = true;
  if (!state.result) failed(new Error('Cancelled.'), state.photo ? relabel : null);
});
$('again').addEventListener('click', () => state.again?.());
$('save-label').addEventListener('click', () => guarded(async () => save(
  await labelPng(state.result, state.model.classes), 'label')));
$('save-overlay').addEventListener('click', () => guarded(async () => save(
  await overlayOf(state.photo, $('labels'), opacity()), 'overlay')));

for (const size of engine.sizes) {
  const usual = size === engine.usual;
  $('size').add(new Option(size ? `at most ${size} pixels` : 'its own size', size, usual, usual));
}
$('privacy').textContent = engine.privacy;
opacity();
const start = () => busy(load, start);
start();
