// The legend: classes of the photo with their shares; each can be switched off, and the one pointed at stands out.

const DIMMED = 40;  // how opaque, of 255, the others are meanwhile

const percent = (share) => share >= 0.0995 ? `${(100 * share).toFixed(0)} %` : share >= 0.0005
  ? `${(100 * share).toFixed(1)} %` : '< 0.1 %';

export class Legend {
  // `changed(alphas)` is called with how opaque each class is, 0 to 255, index = id.
  constructor(list, button, absent, changed) {
    Object.assign(this, {list, button, absent, changed, classes: [], hidden: new Set(), boxes: []});
    button.addEventListener('click', () => {
      const show = this.present.some((id) => this.hidden.has(id));
      for (const id of this.present) this.hidden[show ? 'delete' : 'add'](id);
      this.update();
    });
  }

  get present() {
    return this.boxes.map(({id}) => id);
  }

  // Lists the classes that occur, by their numbers of pixels.
  show(classes, counts) {
    const total = counts.reduce((sum, count) => sum + count, 0);
    const ids = [...classes.keys()].filter((id) => counts[id]).sort((one, other) => counts[other] - counts[one]);
    this.classes = classes;
    this.boxes = ids.map((id) => this.entry(id, counts[id] / total));
    this.list.replaceChildren(...this.boxes.map(({item}) => item));
    const missing = classes.filter((_, id) => !counts[id]).map(({name}) => name);
    this.absent.textContent = missing.length ? `Not in this photo: ${shortened(missing)}.` : '';
    this.update();
  }

  entry(id, share) {
    const item = document.createElement('li');
    const label = item.appendChild(document.createElement('label'));
    const box = label.appendChild(Object.assign(document.createElement('input'), {type: 'checkbox'}));
    const add = (tag, name, text = '') => label.appendChild(
      Object.assign(document.createElement(tag), {className: name, textContent: text}));
    add('i', 'swatch').style.background = cssColor(this.classes[id]);
    add('span', 'name', this.classes[id].name);
    add('span', 'share', percent(share));
    const bar = add('span', 'bar').appendChild(document.createElement('i'));
    bar.style.width = `${100 * share}%`;
    bar.style.background = cssColor(this.classes[id]);
    box.addEventListener('change', () => {
      this.hidden[box.checked ? 'delete' : 'add'](id);
      this.update();
    });
    for (const [event, alone] of Object.entries({pointerenter: id, pointerleave: null})) {
      label.addEventListener(event, ({pointerType}) => pointerType === 'mouse' && this.update(alone));
    }
    return {id, item, box};
  }

  // Says how opaque each class is; `alone` is the id of the one pointed at, if it is not hidden.
  update(alone = null) {
    const single = alone !== null && !this.hidden.has(alone);
    for (const {id, box} of this.boxes) box.checked = !this.hidden.has(id);
    this.button.textContent = this.present.some((id) => this.hidden.has(id)) ? 'Show all' : 'Hide all';
    this.changed(this.classes.map((_, id) => this.hidden.has(id) ? 0 : single && id !== alone ? DIMMED : 255));
  }
}

export const cssColor = ({color}) => `rgb(${color.join(' ')})`;

function shortened(names, most = 12) {
  return names.slice(0, most).join(', ') + (names.length > most ? ` and ${names.length - most} more` : '');
}
