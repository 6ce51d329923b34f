// The page: the form is the address, the answer is asked of the server as a whole page and swapped in.
// Nothing is computed here. Without scripts the form still works: it is a plain GET.
import {bind as bindDrop} from './drop.js';
import {bind as bindNames} from './names.js';
import {resume, start} from './run.js';
import {bind as bindScrub} from './scrub.js';
import {columns, query} from './state.js';

const frame = document.getElementById('frame');
const screen = frame.dataset.screen;
const long = frame.dataset.long === '1';
const form = () => document.getElementById('question');
const answer = () => document.getElementById('answer');
let active = Number(new URLSearchParams(location.search).get('_column')) || 1;
let shown = query(columns(location.search), active); // the state that the answer is of
let wanted = null; // the state asked for while another is on its way
let busy = false;

// The state that the form and the address say together.
function state() {
  const all = columns(location.search);
  if (!form()) return all;
  const own = new Map();
  for (const input of form().elements) {
    if (!input.name) continue;
    if (input.type === 'checkbox') {
      const usual = input.dataset.default === 'on';
      if (input.checked !== usual) own.set(input.name, [String(input.checked)]);
    } else if (input.value.trim()) {
      own.set(input.name, input.dataset.several ? input.value.split(/\s*[;]\s*|,\s+/) : [input.value.trim()]);
    }
  }
  all.questions[active - 1] = own;
  return all;
}

const say = (words, bad = false) => {
  const status = document.getElementById('form-status');
  if (!status) return;
  status.textContent = words;
  status.classList.toggle('bad', bad);
};

// Asks for a state and shows it; the latest wins. `how`: push, replace or none (of the history), `form`: swap it too.
export async function go(all, {how = 'push', swap = false} = {}) {
  const search = query(all, active);
  if (busy) {
    wanted = [all, {how, swap}];
    return;
  }
  busy = true;
  answer().setAttribute('aria-busy', 'true');
  try {
    const found = await fetch(`/${screen}?${search}`, {headers: {accept: 'text/html'}});
    const page = new DOMParser().parseFromString(await found.text(), 'text/html');
    if (!page.getElementById('answer')) {
      say(page.querySelector('main p')?.textContent || 'this was not answered', true);
    } else {
      if (how === 'push') history.pushState(null, '', `?${search}`);
      if (how === 'replace') history.replaceState(null, '', `?${search}`);
      document.title = page.title;
      shown = search;
      show(page, swap);
      say('');
    }
  } catch {
    say('the server does not answer; is `steelyard serve` still running?', true);
  } finally {
    busy = false;
    answer().removeAttribute('aria-busy');
  }
  if (wanted) {
    const [next, options] = wanted;
    wanted = null;
    await go(next, options);
  }
}

// Puts a page in the place of this one: figures that are there already are redrawn, what is folded out stays so.
function show(page, swap) {
  const next = page.getElementById('answer');
  const opened = new Set([...answer().querySelectorAll('details[open]')].map(path));
  const old = new Map([...answer().querySelectorAll('figure[data-figure]')].map(f => [f.dataset.figure, f]));
  const kept = [];
  for (const figure of next.querySelectorAll('figure[data-figure]')) {
    const there = old.get(figure.dataset.figure);
    if (!there || !there.querySelector(':scope > .plot')) continue;
    there.querySelector('figcaption').replaceWith(figure.querySelector('figcaption'));
    const twin = there.querySelector(':scope > .twin');
    if (twin) twin.replaceWith(figure.querySelector(':scope > .twin'));
    kept.push([figure, there]);
  }
  for (const details of next.querySelectorAll('details')) if (opened.has(path(details))) details.open = true;
  const place = document.activeElement && answer().contains(document.activeElement) ? handle(document.activeElement) : null;
  for (const [figure, there] of kept) figure.replaceWith(there);
  answer().replaceChildren(...next.childNodes);
  if (place) answer().querySelector(place)?.focus({preventScroll: true});
  draw(kept.map(([, there]) => there));
  tell();
  bindScrub();
  const theirs = page.getElementById('question');
  if (!theirs || !form()) return;
  const shape = f => f.querySelector('#fields').dataset.shape;
  if (swap || shape(theirs) !== shape(form())) replaceForm(theirs);
  else mark(theirs);
  if (long) resume(refresh);
}

// Draws the figures: new ones and those in sight at once, the others when there is time.
let drawing = 0;
const later = globalThis.requestIdleCallback || (f => setTimeout(f, 30));
function draw(kept) {
  const figures = globalThis.steelyardFigures;
  if (!figures) return;
  const turn = ++drawing;
  const one = figure => {
    const block = document.getElementById(`figure-${figure.dataset.figure}`);
    if (block && figure.isConnected) figures.show(figure, JSON.parse(block.textContent));
  };
  const waiting = [];
  for (const figure of answer().querySelectorAll('figure[data-figure]')) {
    const {top, bottom} = figure.getBoundingClientRect();
    if (kept.includes(figure) && (bottom < 0 || top > innerHeight)) waiting.push(figure);
    else one(figure);
  }
  figures.draw(document.createElement('div')); // which lets go of those that are gone
  const next = () => {
    if (turn !== drawing || !waiting.length) return;
    one(waiting.shift());
    later(next);
  };
  later(next);
}

// Tells a screen reader the figures of an answer, once they stay.
let telling = 0;
function tell() {
  clearTimeout(telling);
  telling = setTimeout(() => {
    const facts = [...answer().querySelectorAll('.fact')].slice(0, 6);
    const wrong = [...answer().querySelectorAll('.problems li')].map(li => li.textContent.trim().split('\n')[0]);
    const words = facts.map(f => `${f.querySelector('dt').firstChild.textContent} ${f.querySelector('.value').textContent}`);
    document.getElementById('told').textContent = [...wrong, ...words].join(', ');
  }, 700);
}

const path = details => {
  const article = details.closest('.answer');
  const nth = article ? [...article.parentNode.children].indexOf(article) : 0;
  return `${nth}:${details.closest('figure')?.dataset.figure || ''}:${details.querySelector('summary').firstChild.textContent}`;
};
const handle = element => (element.id ? `#${CSS.escape(element.id)}` : null);

function replaceForm(theirs) {
  const opened = new Set([...form().querySelectorAll('fieldset')].filter(f => f.querySelector('details[open]'))
    .map(f => f.querySelector('legend').textContent));
  const focus = document.activeElement && form().contains(document.activeElement) ? document.activeElement : null;
  const name = focus && (focus.name || focus.dataset.for);
  const range = focus && focus.type === 'range';
  form().replaceChildren(...theirs.childNodes);
  for (const field of form().querySelectorAll('fieldset')) {
    const more = field.querySelector('details.more');
    if (more && opened.has(field.querySelector('legend').textContent)) more.open = true;
  }
  if (name) form().querySelector(range ? `[data-for="${name}"]` : `[name="${name}"]`)?.focus();
  slide();
}

// Marks what is wrong and what differs, leaving what is typed alone.
function mark(theirs) {
  for (const row of theirs.querySelectorAll('[data-row]')) {
    const own = form().querySelector(`[data-row="${CSS.escape(row.dataset.row)}"]`);
    if (!own) continue;
    own.className = row.className;
    own.querySelector('.says')?.replaceWith(row.querySelector('.says'));
    const input = own.querySelector('[name]');
    if (row.classList.contains('wrong')) input.setAttribute('aria-invalid', 'true');
    else input.removeAttribute('aria-invalid');
    if (input.type !== 'checkbox') input.placeholder = row.querySelector('[name]').placeholder;
  }
  const [bar, mine] = [theirs.querySelector('.columns'), form().querySelector('.columns')];
  if (bar && mine && bar.innerHTML !== mine.innerHTML) mine.replaceWith(bar);
}

// Sliders: a logarithmic scale between the least and the most, in numbers of two digits.
const least = r => Math.log(Number(r.dataset.least));
const most = r => Math.log(Number(r.dataset.most));
const rounded = v => (v < 20 ? Math.round(v) : Number(v.toPrecision(2)));
function slide() {
  for (const range of form()?.querySelectorAll('.slider') || []) {
    const input = form().elements[range.dataset.for];
    const value = Number(input.value || input.placeholder) || Number(range.dataset.least);
    range.value = Math.round((1000 * (Math.log(value) - least(range))) / (most(range) - least(range)));
    range.setAttribute('aria-valuetext', String(value));
  }
}

// Takes a machine that was just written into the session, and asks for an estimate on it.
async function use(address, name) {
  const body = await (await fetch(address)).blob();
  const found = await fetch(`/drop?${new URLSearchParams({name, size: body.size})}`, {method: 'POST', body});
  const told = await found.json();
  if (!found.ok) say(told.problems.map(p => p.message).join('; '), true);
  else location.assign(`/estimate?${new URLSearchParams({model: 'llama-3.1-8b', on: told.name})}`);
}

// Sorts a table by a column: by `data-value` of its cells where they have one, numbers before text.
function sort(head) {
  const [table, nth] = [head.closest('table'), [...head.parentNode.children].indexOf(head)];
  const down = head.getAttribute('aria-sort') === 'descending' || (!head.hasAttribute('aria-sort') && head.classList.contains('t'));
  for (const other of head.parentNode.children) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', down ? 'ascending' : 'descending');
  const key = row => {
    const cell = row.children[nth];
    const text = cell.dataset.value ?? cell.textContent;
    return text.trim() === '' ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const body = table.tBodies[0];
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === 'number' && typeof b === 'number' ? a - b : String(a).localeCompare(String(b));
    return down ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
}

const refresh = () => go(columns(location.search), {how: 'none'});
function ask(options) {
  if (long) return start(screen, query(state(), active), refresh, say);
  const all = state();
  return query(all, active) === shown ? null : go(all, options);
}

// Sets fields of one column and asks again.
export function set(values, column = active) {
  const all = state();
  for (const [name, value] of Object.entries(values)) {
    if (value === '') all.questions[column - 1].delete(name);
    else all.questions[column - 1].set(name, [value]);
  }
  return go(all, {swap: true});
}

// The same by a button: what takes long is run at once, unless its answer is kept.
async function press(values, column) {
  await set(values, column);
  unanswered();
}
const unanswered = () => { if (long && !document.querySelector('#answer .head')) ask({}); };

// Another question in the place of this one, run at once.
async function begin(all) {
  await go(all, {swap: true});
  unanswered();
}

document.addEventListener('input', event => {
  const range = event.target;
  if (range.type !== 'range' || !range.dataset.for) return;
  const value = rounded(Math.exp(least(range) + (range.value / 1000) * (most(range) - least(range))));
  form().elements[range.dataset.for].value = value;
  range.setAttribute('aria-valuetext', String(value));
  if (!long) go(state(), {how: 'replace'});
});
document.addEventListener('change', event => {
  if (!event.target.name || !form()?.contains(event.target)) return;
  slide();
  if (!long) ask({});
});
document.addEventListener('focusin', event => { // what the field means, in one place: rows do not move under a click
  const place = document.getElementById('form-says');
  if (place && event.target.name && form()?.contains(event.target)) {
    place.textContent = event.target.closest('.row')?.querySelector('label')?.title || '';
  }
});
document.addEventListener('submit', event => {
  if (event.target !== form()) return;
  event.preventDefault();
  ask({run: true});
});
document.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const data = button.dataset;
  const all = state();
  if ('add' in data) {
    all.questions.push(new Map(all.questions[active - 1]));
    active = all.questions.length;
    go(all, {swap: true});
  } else if ('remove' in data) {
    all.questions.splice(active - 1, 1);
    active = Math.max(1, active - 1);
    go(all, {swap: true});
  } else if ('set' in data) {
    press({[data.set]: data.value}, Number(data.column));
  } else if ('change' in data) {
    press(JSON.parse(data.change), Number(data.column));
  } else if ('ask' in data) {
    all.questions[active - 1] = new Map(Object.entries(JSON.parse(data.ask)).map(([name, value]) => [name, [value]]));
    begin(all);
  } else if ('use' in data) {
    use(data.use, data.name);
  } else if ('sort' in data) {
    sort(button.closest('th'));
  } else if ('copy' in data) {
    navigator.clipboard.writeText(button.parentNode.querySelector('pre').textContent)
      .then(() => { button.textContent = 'copied'; }, () => { button.textContent = 'select and copy it'; });
  } else if ('column' in data) {
    active = Number(data.column);
    go(all, {how: 'replace', swap: true});
  }
});
addEventListener('popstate', () => {
  active = Number(new URLSearchParams(location.search).get('_column')) || 1;
  go(columns(location.search), {how: 'none', swap: true});
});

bindNames(document);
bindDrop(document, set, say);
bindScrub();
slide();
if (long) resume(refresh);
document.documentElement.dataset.ready = '1';
