// The network of the server that this page comes from.

import {blobOf, fitted} from './picture.js';

export const privacy = 'Photos are sent to this server, labeled there and not stored.';
export const sizes = [480, 640, 1024, 2048, 0];
export const usual = 1024;

const TRIES = 5;  // for an answer, where the server says that it is busy
let limits;

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Error('The server does not answer. Is it still running?');
  }
}

// Why the server has refused, in its own words.
async function reason(response) {
  try {
    const {error} = await response.json();
    return error[0].toUpperCase() + error.slice(1) + '.';
  } catch {
    return `The server answers ${response.status}.`;
  }
}

// Waits for the network. Returns {classes, network, dataset, step}; each class has a name, color and value.
export async function load(report) {
  report('Asking the server');
  for (;;) {
    const response = await ask('model', {cache: 'no-store'});
    if (!response.ok) throw new Error(await reason(response));
    const model = await response.json();
    limits = model;
    if (model.ready) return model;
    report('The server is loading the network');
    await pause(1);
  }
}

// Labels a photo. Returns {width, height, labels, confidence}, two Uint8Array; confidence in 255ths.
export async function label(photo, longest, report, signal) {
  const [width, height] = fitted(photo.width, photo.height, longest, limits.max_input_pixels);
  report('Preparing the photo');
  const body = await blobOf(photo, width, height);
  if (body.size > limits.max_body_bytes) {
    throw new Error(`The photo has ${megabytes(body.size)} MB in this size, and the server takes `
      + `${megabytes(limits.max_body_bytes)}. Choose a smaller size.`);
  }
  for (let number = 1; ; number++) {
    report(`Labeling ${width} × ${height} pixels`);
    const response = await ask('arrays', {
      method: 'POST', body, signal, headers: {'Content-Type': 'application/octet-stream'}});
    if (response.ok) return checked(arrays(await response.arrayBuffer()), width, height);
    const wait = Number(response.headers.get('Retry-After'));
    if (!wait || number === TRIES) throw new Error(await reason(response));
    report('The server is busy; trying again');
    await pause(wait);
  }
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

function checked(result, width, height) {
  if (result.width === width && result.height === height) return result;
  throw new Error(`The labels have ${result.width} × ${result.height} pixels and the photo ${width} × ${height}: this `
    + 'network was trained on photos as they are stored, without the turn that they ask for. Turn and save it anew.');
}

// Reads numpy's format (NEP 1): uint8 [2, height, width].
function arrays(buffer) {
  const start = 10 + new DataView(buffer).getUint16(8, true);
  const head = new TextDecoder('latin1').decode(new Uint8Array(buffer, 10, start - 10));
  const [, height, width] = /'shape': \(2, (\d+), (\d+)\)/.exec(head).map(Number);
  const size = width * height;
  const [labels, confidence] = [start, start + size].map((place) => new Uint8Array(buffer, place, size));
  return {width, height, labels, confidence};
}
