// The network in this browser: an ONNX file beside this page, run by onnxruntime-web in a worker.

import {fitted, pixelsOf} from './picture.js';

export const privacy = 'Photos stay in this browser: the network runs here.';
export const sizes = [240, 320, 480, 640];
export const usual = 480;

let worker, ready;  // the Worker, and the promise of the model
let answered = () => {};  // gets the messages of the worker about the work in progress
let listen;  // the `report` of who waits for the network
let last = Promise.resolve();  // the work before: one at a time

// Has the worker do something. `message` has `kind`; returns what it answers.
function call(message, transfer, report) {
  const done = last.then(() => new Promise((resolve, reject) => {
    answered = ({report: text, share, error, result}) => {
      if (text) report(text, share);
      else if (error) reject(new Error(error));
      else resolve(result);
    };
    worker.postMessage(message, transfer);
  }));
  last = done.catch(() => {});
  return done;
}

// Loads the network, once. Returns {classes, network, dataset, step}; each class has a name, color and value.
export function load(report) {
  listen = report;
  ready ??= start().catch((error) => {
    ready = null;
    throw error;
  });
  return ready;
}

async function start() {
  listen('Loading the classes');
  const response = await fetch('model.json').catch(() => ({}));
  if (!response.ok) {
    throw new Error('model.json is not to be had. A page that runs a network needs a server: open this one by http.');
  }
  const model = await response.json();
  worker?.terminate();
  worker = new Worker(new URL('worker.js', import.meta.url), {type: 'module'});
  worker.onmessage = ({data}) => answered(data);
  worker.onerror = ({message}) => answered({
    error: `The worker could not be started: ${message || 'files in ort/ are missing'}.`});
  await call({kind: 'load', bytes: model.bytes}, [], (...news) => listen(...news));
  return model;
}

// Labels a photo. Returns {width, height, labels, confidence}, two Uint8Array; confidence in 255ths.
export async function label(photo, longest, report, signal) {
  const [width, height] = fitted(photo.width, photo.height, longest);
  const pixels = pixelsOf(photo, width, height);
  report(`Labeling ${width} × ${height} pixels in this browser`);
  const result = await call({kind: 'label', pixels, width, height}, [pixels.buffer], report);
  signal.throwIfAborted();
  return result;
}
