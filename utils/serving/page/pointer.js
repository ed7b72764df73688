// The class and its probability under the pointer: of a mouse, a finger, or the arrow keys.

import {cssColor} from './legend.js';

const STEP = 0.02, LARGE_STEP = 0.1;  // of the photo's width or height, by a key
const KEYS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

export class Pointer {
  // `area` is the element over the photo, `spoken` the one whose text is read aloud.
  constructor(area, cross, tip, spoken) {
    Object.assign(this, {area, cross, tip, spoken, result: null, classes: [], at: [0.5, 0.5]});
    area.addEventListener('pointermove', (event) => this.follow(event));
    area.addEventListener('pointerdown', (event) => this.follow(event));
    area.addEventListener('pointerleave', ({pointerType}) => pointerType === 'mouse' && this.hide());
    area.addEventListener('blur', () => this.hide());
    area.addEventListener('keydown', (event) => this.press(event));
  }

  show(result, classes) {
    Object.assign(this, {result, classes, at: [0.5, 0.5]});
    this.hide();
  }

  hide() {
    this.cross.hidden = this.tip.hidden = true;
  }

  follow(event) {
    const {left, top, width, height} = this.area.getBoundingClientRect();
    this.at = [(event.clientX - left) / width, (event.clientY - top) / height];
    this.point(event.pointerType !== 'mouse');
  }

  press(event) {
    if (event.key === 'Escape') this.hide();
    if (!(event.key in KEYS) || !this.result) return;
    event.preventDefault();
    const step = event.shiftKey ? LARGE_STEP : STEP;
    if (!this.cross.hidden) this.at = this.at.map((value, axis) => value + step * KEYS[event.key][axis]);
    this.point(true);
    this.spoken.textContent = this.text;
  }

  // Shows the tip at `at`, with the cross where no pointer marks the place.
  point(crossed) {
    if (!this.result) return;
    const {width, height, labels, confidence} = this.result;
    this.at = this.at.map((value) => Math.min(1, Math.max(0, value)));
    const [x, y] = [width, height].map((length, axis) => Math.min(length - 1, Math.floor(this.at[axis] * length)));
    const place = y * width + x;
    const found = this.classes[labels[place]];
    this.text = found.name + (confidence ? `, ${Math.round(confidence[place] / 2.55)} %` : '');
    this.tip.lastElementChild.textContent = this.text;
    this.tip.firstElementChild.style.background = cssColor(found);
    this.cross.hidden = !crossed;
    this.tip.hidden = false;
    this.cross.style.left = `${100 * this.at[0]}%`;
    this.cross.style.top = `${100 * this.at[1]}%`;
    this.set();
  }

  // Sets the tip beside the place, inside the photo.
  set() {
    const {clientWidth, clientHeight} = this.area, {offsetWidth, offsetHeight} = this.tip, gap = 18;
    const [x, y] = [this.at[0] * clientWidth, this.at[1] * clientHeight];
    const left = x + gap + offsetWidth > clientWidth ? x - gap - offsetWidth : x + gap;
    const top = y - gap - offsetHeight < 0 ? y + gap : y - gap - offsetHeight;
    this.tip.style.left = `${Math.min(Math.max(0, left), Math.max(0, clientWidth - offsetWidth))}px`;
    this.tip.style.top = `${Math.min(Math.max(0, top), Math.max(0, clientHeight - offsetHeight))}px`;
  }
}
