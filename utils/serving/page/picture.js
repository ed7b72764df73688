// Photos and their labels as pixels: opening, scaling, painting, composing.

// Opens a photo, turned upright as its EXIF says. `file` is a Blob. Throws where the browser cannot show it.
export async function openPhoto(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`This browser cannot read ${name || 'this file'} as a picture. JPEG, PNG and WebP always work.`);
  }
  return {bitmap, file, name: name || 'photo', width: bitmap.width, height: bitmap.height};
}

// Size whose longer side is at most `longest` (0: no limit) and that has at most `pixels` pixels.
export function fitted(width, height, longest, pixels = Infinity) {
  const factor = Math.min(1, (longest || Infinity) / Math.max(width, height), Math.sqrt(pixels / (width * height)));
  return [width, height].map((length) => Math.max(1, factor < 1 ? Math.floor(length * factor) : length));
}

// Draws a photo on a canvas, in the canvas' size or one that is given.
export function draw(photo, canvas, width, height) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  context.drawImage(photo.bitmap, 0, 0, width, height);
  return context;
}

// The bytes of a photo in a size: its own file where that is its size, else a PNG.
export function blobOf(photo, width, height) {
  if (width === photo.width && height === photo.height) return photo.file;
  const canvas = document.createElement('canvas');
  draw(photo, canvas, width, height);
  return pngBlob(canvas);
}

// The pixels of a photo in a size, transparent ones on white as inference.py has them: Uint8ClampedArray
// [height * width * 4], RGBA.
export function pixelsOf(photo, width, height) {
  const context = draw(photo, document.createElement('canvas'), width, height);
  context.globalCompositeOperation = 'destination-over';
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// Paints labels. `alphas[id]` is 0 to 255: how opaque the class is.
export function paint(canvas, result, classes, alphas) {
  const {width, height, labels} = result;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
  const colors = new Uint32Array(256);
  const bytes = new Uint8Array(colors.buffer);  // RGBA in memory, whatever the byte order
  classes.forEach(({color}, id) => bytes.set([...color, alphas[id]], 4 * id));
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let place = 0; place < labels.length; place++) pixels[place] = colors[labels[place]];
  canvas.getContext('2d').putImageData(image, 0, 0);
}

// The overlay as it is seen, in the size of the labels: a Blob of a PNG.
export function overlayOf(photo, labels, opacity) {
  const canvas = document.createElement('canvas');
  const context = draw(photo, canvas, labels.width, labels.height);
  context.globalAlpha = opacity;
  context.drawImage(labels, 0, 0);
  return pngBlob(canvas);
}

function pngBlob(canvas) {
  return new Promise((resolve, reject) => canvas.toBlob(
    (blob) => blob ? resolve(blob) : reject(new Error('This browser cannot make a PNG of this size.')), 'image/png'));
}

// Pixels of each class: Array of numbers, index = id.
export function counts(result, number) {
  const found = new Array(number).fill(0);
  for (const id of result.labels) found[id]++;
  return found;
}
